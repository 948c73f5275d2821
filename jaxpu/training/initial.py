"""The state before the first step of a run: random parameters, or those of another model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.starters import STARTERS
from jaxpu.config import BootstrapConfig, Config, ConfigError
from jaxpu.core.network import TrainedModel, networks
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import TrainState, init_state

_LAST_LAYER = "output"


def initial_state(config: Config) -> tuple[TrainState, list[str]]:
    """The state before the first step, and what the model that it comes from used stems for, in words.

    Parameters and statistics of batch normalization are those of `config.train.init_from`, of an ensemble those of its first
    network.  Objectives differ in whether a positive logit keeps the target: the last layer is negated where the model's does
    otherwise.

    Raises:
        ConfigError: the model has another network, other patches, or masks that cannot be turned into those of the objective; or
            its masks are labels from the first step on, and keep another target.
        CheckpointError, ArchiveError: there is no model, or it is damaged.
    """
    state = init_state(config)
    if not config.train.init_from:
        return state, []
    model = load_model(config.train.init_from)
    _check_same_network(config, model)
    _check_same_target(config, model)
    variables = networks(model.variables)[0]
    params = variables["params"]
    if keeps_positive(config) != keeps_positive(model.config):
        params = _negated(params, config.train.init_from)
    state = dataclasses.replace(
        state,
        params=_copied(params),
        batch_stats=_copied(variables["batch_stats"]),
        ema_params=_copied(params) if config.train.ema_decay else {},
    )
    return state, [f"initial parameters ({reason})" for reason in model.info["uses_stems"]]


def keeps_positive(config: Config) -> bool:
    """Whether a mask of the config's objective keeps the target where logits are positive."""
    objective = make_objective(config.objective)
    return bool(objective.mask(jnp.full((1, 1, 1, objective.num_outputs), 9.0))[0, 0, 0] > 0.5)


def _check_same_network(config: Config, model: TrainedModel) -> None:
    for name, wanted, found in (
        ("network", config.model, model.config.model),
        ("patches", config.data.patch, model.config.data.patch),
        ("number of masks", *(make_objective(each.objective).num_outputs for each in (config, model.config))),
    ):
        if wanted != found:
            raise ConfigError(
                f"train.init_from is {config.train.init_from}, whose {name} {'is' if name != 'patches' else 'are'} {found}; "
                f"this config has {wanted}. Give both the same, as configs/adapt.py does."
            )


def _check_same_target(config: Config, model: TrainedModel) -> None:
    if not isinstance(config.objective, BootstrapConfig) or config.objective.remix_steps > 0:
        return
    wanted, found = config.data.target, model.config.data.target
    if set(wanted) != set(found):
        known = f" (such as {STARTERS[wanted[0]]})" if len(wanted) == 1 and wanted[0] in STARTERS else ""
        raise ConfigError(
            f"train.init_from is {config.train.init_from}, which separates {' + '.join(found)}; data.target is "
            f"{' + '.join(wanted)}. The masks of this model are the labels from the first step on. Give --train.init-from a "
            f"model of the same target{known}, or train from random parameters, with the config `recordings`."
        )


def _negated(params: dict[str, Any], path: str) -> dict[str, Any]:
    if _LAST_LAYER not in params:
        raise ConfigError(
            f"train.init_from is {path}, whose logits have the opposite sign to those of this config's objective. "
            "Only those of the U-Net and the patch CNN can be negated. Take a model of the same objective."
        )
    return {**params, _LAST_LAYER: jax.tree.map(jnp.negative, params[_LAST_LAYER])}


def _copied(tree: Any) -> Any:
    # The step donates the memory of its state, so no two parts may share it.
    return jax.tree.map(jnp.array, tree)
