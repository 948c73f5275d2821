"""The parts of which every objective is made: batches, losses, and the functions that bind them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpu.config import ConfigError
from jaxpu.config.objectives import traced_fields
from jaxpu.core import losses
from jaxpu.core.stft import magnitude

Network = Callable[[jax.Array, jax.Array], jax.Array]
"""(stft complex64 (n, channels, frames, bins), example_index int32 (n,)) to logits float32 (n, frames, bins, outputs)."""

Hyperparameters = dict[str, jax.Array]
"""Traced float32 scalars, so that one program serves many values, also several at once under vmap."""

WEIGHT_FLOOR = 1e-7
"""Added to magnitudes before they weigh a bin, as in PULSE."""


class PseudoTarget(NamedTuple):
    """Targets that a teacher estimates in the unlabeled clips.

    Attributes:
        estimate: complex64 (n, channels, frames, bins); the mixtures themselves before there is a teacher.
        exists: float32 scalar, 1 where there is a teacher, else 0.
    """

    estimate: jax.Array
    exists: jax.Array


class Batch(NamedTuple):
    """Decoded patches.  Channels that a network sees one by one are examples of their own, with one channel.

    Attributes:
        unlabeled: complex64 (n, channels, frames, bins), STFT of mixtures.
        positive: complex64 (n, channels, frames, bins), STFT of target-free recordings.
        target: complex64 (n, channels, frames, bins), targets of the unlabeled clips, or of others for objectives with
            `target_tracks`; None without stems.  PU objectives never read it.
        example_index: int32 (n,), position of each example in the global batch.
        marked: bool (n,), whether each positive is a marked passage, which has the level of the accompaniment in its song; None
            where none is.
        pseudo_target: set by `Objective.prepare` of an objective with a teacher; None elsewhere, and in evaluation.
    """

    unlabeled: jax.Array
    positive: jax.Array
    target: jax.Array | None
    example_index: jax.Array
    marked: jax.Array | None = None
    pseudo_target: PseudoTarget | None = None


class Loss(NamedTuple):
    """The outcome of an objective on a batch, float32 scalars, equal on all devices.

    Attributes:
        loss: the quantity that is differentiated.
        risk: the quantity that compares checkpoints on held-out tracks.
        metrics: values to log; `mask_statistics` of the network's input are always among them.
    """

    loss: jax.Array
    risk: jax.Array
    metrics: dict[str, jax.Array]


def _no_state() -> Any:
    return {}


def _unchanged_level(batch: Batch, hyperparameters: Hyperparameters) -> Batch:
    del hyperparameters
    return batch


def _unprepared(
    state: Any, batch: Batch, separate: Network, hyperparameters: Hyperparameters, key: jax.Array, axis_name: str | None
) -> tuple[Any, Batch, dict[str, jax.Array]]:
    del separate, hyperparameters, key, axis_name
    return state, batch, {}


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective, built from its config: pure functions, and the facts that the training loop needs to call them.

    Attributes:
        hyperparameters: initial values of the traced numbers.
        loss: (network, batch, key, hyperparameters, axis_name) to `Loss`.
        mask: logits float32 (n, frames, bins, num_outputs) to a mask that keeps the target, float32 (n, frames, bins) in [0, 1].
        num_outputs: logits per bin.
        needs_target: whether the loss reads targets.
        target_tracks: number of tracks whose targets are drawn, independently of the unlabeled clips; None: those of the
            unlabeled clips.
        level: (batch, hyperparameters) to the batch with its positives scaled to the level that the objective expects.
        init_state: () to the initial state that the objective carries from step to step, a tree of arrays.
        prepare: (state, batch, separate, hyperparameters, key, axis_name) to (state, batch, metrics), before the loss of a
            training step; `separate` is the network as it separates now, without dropout.
    """

    hyperparameters: dict[str, float]
    loss: Callable[[Network, Batch, jax.Array, Hyperparameters, str | None], Loss]
    mask: Callable[[jax.Array], jax.Array]
    num_outputs: int = 1
    needs_target: bool = False
    target_tracks: int | None = None
    level: Callable[[Batch, Hyperparameters], Batch] = _unchanged_level
    init_state: Callable[[], Any] = _no_state
    prepare: Callable[..., tuple[Any, Batch, dict[str, jax.Array]]] = _unprepared


def initial_hyperparameters(config: Any) -> dict[str, float]:
    """Values of an objective's traced fields.

    Raises:
        ConfigError: one of them is still to be estimated.
    """
    values = {name: getattr(config, name) for name in traced_fields(config)}
    for name, value in values.items():
        if value == "estimate":
            raise ConfigError(
                f"{type(config).__name__}.{name} is 'estimate', which becomes a number when training starts. "
                "Use jaxpu.estimation.resolve.with_estimates, or give a number."
            )
    return {name: float(value) for name, value in values.items()}


def mask_statistics(mask: jax.Array, stft: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """Statistics of a mask, float32 scalars over all devices.

    Args:
        mask: float32 (n, frames, bins).
        stft: complex64 (n, channels, frames, bins).
        axis_name: axis of the devices that share the batch.

    Returns:
        `kept_energy`, the fraction of the energy of `stft` that the mask keeps; `inactive_share`, the fraction of bins in which
        it keeps less than half of the magnitude; `input_energy`, the mean energy of a bin.
    """
    energy = jnp.square(magnitude(stft))
    return {
        "kept_energy": losses.weighted_mean(jnp.square(mask), energy, axis_name),
        "inactive_share": losses.mean((mask < 0.5).astype(jnp.float32), axis_name),
        "input_energy": losses.mean(energy, axis_name),
    }


def ratio_mask(part: jax.Array, rest: jax.Array) -> jax.Array:
    """|part| / (|part| + |rest|), float32 (n, frames, bins), of complex64 (n, channels, frames, bins)."""
    return magnitude(part) / (magnitude(part) + magnitude(rest) + WEIGHT_FLOOR)


def phase_sensitive_mask(part: jax.Array, rest: jax.Array) -> jax.Array:
    """The real factor, within [0, 1], that brings the sum closest to one part; the same for all channels.

    Source: Erdogan et al. 2015, "Phase-sensitive and recognition-boosted speech separation using deep recurrent neural networks",
    section 2, there for one channel.

    Args:
        part: complex64 (n, channels, frames, bins).
        rest: the sum less the part, the same shape.

    Returns:
        float32 (n, frames, bins).
    """
    energy = jnp.square(magnitude(part + rest))
    # 2 Re(part (part + rest)*) is |part|^2 + |part + rest|^2 - |rest|^2.
    product = (jnp.square(magnitude(part)) + energy - jnp.square(magnitude(rest))) / 2
    return jnp.clip(product / (energy + WEIGHT_FLOOR**2), 0, 1)


def bin_weights(stft: jax.Array, exponent: jax.Array) -> jax.Array:
    """|x|^exponent of every bin of complex64 (n, channels, frames, bins), float32 (n, frames, bins)."""
    return (magnitude(stft) + WEIGHT_FLOOR) ** exponent


def keep_positive(logits: jax.Array) -> jax.Array:
    """Mask of objectives in which a positive logit of the first output keeps the target."""
    return jax.nn.sigmoid(logits[..., 0])


def keep_negative(logits: jax.Array) -> jax.Array:
    """Mask of objectives in which a positive logit means "target inactive": the posterior of "target active"."""
    return jax.nn.sigmoid(-logits[..., 0])
