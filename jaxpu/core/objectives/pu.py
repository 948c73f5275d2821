"""Positive-unlabeled risks over bins: PULSE's, and a squared one.  A positive logit means class P, *target inactive*."""

import jax
import jax.numpy as jnp

from jaxpu.config import BrierPUConfig, PUConfig
from jaxpu.core import losses
from jaxpu.core.objectives.base import (
    Batch,
    Hyperparameters,
    Loss,
    Network,
    Objective,
    bin_weights,
    initial_hyperparameters,
    keep_negative,
    mask_statistics,
)


def pu(config: PUConfig) -> Objective:
    """PULSE's objective: `jaxpu.core.losses.pu_loss` over bins (Ito & Sugiyama 2023, equation 9)."""

    def keep_below_zero(logits: jax.Array) -> jax.Array:
        return (logits[..., 0] < 0).astype(jnp.float32)

    mask = keep_below_zero if config.mask == "hard" else keep_negative

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        arguments = _arguments(network, batch, hyperparameters)
        parts = losses.pu_loss(
            **arguments,
            surrogate=losses.SURROGATES[config.surrogate],
            estimator=config.estimator,
            beta=hyperparameters["beta"],
            gamma=hyperparameters["gamma"],
            axis_name=axis_name,
        )
        metrics = {
            "positive_risk": parts.positive_risk,
            "negative_risk": parts.negative_risk,
            "clamped": parts.clamped,
            **mask_statistics(mask(arguments["unlabeled_logits"][..., None]), batch.unlabeled, axis_name),
        }
        return Loss(parts.loss, parts.risk, metrics)

    return Objective(initial_hyperparameters(config), loss, mask)


def brier_pu(config: BrierPUConfig) -> Objective:
    """Squared PU loss, `jaxpu.core.losses.brier_pu_loss` over bins: the score is the posterior of "target inactive"."""

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        arguments = _arguments(network, batch, hyperparameters)
        value = losses.brier_pu_loss(**arguments, axis_name=axis_name)
        mask = keep_negative(arguments["unlabeled_logits"][..., None])
        return Loss(value, value, mask_statistics(mask, batch.unlabeled, axis_name))

    return Objective(initial_hyperparameters(config), loss, keep_negative)


def _arguments(network: Network, batch: Batch, hyperparameters: Hyperparameters) -> dict[str, jax.Array]:
    """The keyword arguments that both losses share."""
    # One pass over both, so that batch normalization sees them together.  Indices stay unique: even for U, odd for P.
    stft = jnp.concatenate([batch.unlabeled, batch.positive])
    logits = network(stft, jnp.concatenate([2 * batch.example_index, 2 * batch.example_index + 1]))
    unlabeled_logits, positive_logits = jnp.split(logits[..., 0], 2)
    exponent = hyperparameters["weight_exponent"]
    return {
        "positive_logits": positive_logits,
        "unlabeled_logits": unlabeled_logits,
        "class_prior": hyperparameters["class_prior"],
        "positive_weights": bin_weights(batch.positive, exponent),
        "unlabeled_weights": bin_weights(batch.unlabeled, exponent),
    }
