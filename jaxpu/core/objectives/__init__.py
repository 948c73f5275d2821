"""Objectives: each turns a batch into a loss and logits into a mask.  The only place that knows what the sign of a logit means.

Where bins are classified (`pu`, `brier_pu`, `remix`, `bootstrap`, `pnu`) a positive logit means class P, *target inactive*; where
a mask is fitted to magnitudes (`supervised`, `mixit`, `noisy_target`) it means that the target is kept.  Masks always keep the
target.  A new method is a function from its config to an `Objective`, and a line in `OBJECTIVES`.
"""

from collections.abc import Callable
from typing import Any

from jaxpu.config import (
    BootstrapConfig,
    BrierPUConfig,
    MixITConfig,
    NoisyTargetConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
)
from jaxpu.core.objectives.base import WEIGHT_FLOOR, Batch, Hyperparameters, Loss, Network, Objective, mask_statistics
from jaxpu.core.objectives.comparisons import mixit, noisy_target, supervised
from jaxpu.core.objectives.pu import brier_pu, pu
from jaxpu.core.objectives.remix import bootstrap, pnu, remix

OBJECTIVES: dict[type, Callable[[Any], Objective]] = {
    PUConfig: pu,
    BrierPUConfig: brier_pu,
    SupervisedConfig: supervised,
    MixITConfig: mixit,
    NoisyTargetConfig: noisy_target,
    RemixConfig: remix,
    BootstrapConfig: bootstrap,
    PNUConfig: pnu,
}


def make_objective(config: Any) -> Objective:
    """The objective of one of the configs in `OBJECTIVES`."""
    return OBJECTIVES[type(config)](config)
