"""Objectives to compare with, which fit masks to magnitudes.  A positive logit means that the target is kept."""

import jax

from jaxpu.config import MixITConfig, NoisyTargetConfig, SupervisedConfig
from jaxpu.core import losses
from jaxpu.core.objectives.augment import with_gains, with_shifts
from jaxpu.core.objectives.base import (
    Batch,
    Hyperparameters,
    Loss,
    Network,
    Objective,
    initial_hyperparameters,
    keep_positive,
    mask_statistics,
    ratio_mask,
)
from jaxpu.core.stft import magnitude


def supervised(config: SupervisedConfig) -> Objective:
    """Soft masks from known targets: PULSE's supervised comparison, or cross-entropy with the ideal ratio mask."""

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        assert batch.target is not None
        mixture, target = batch.unlabeled, batch.target
        if config.remix_songs:
            target, positive = with_gains(target, batch.positive, batch.example_index, key, hyperparameters["gain_db"])
            target, positive = with_shifts(target, positive, batch.example_index, key, hyperparameters["shift_semitones"])
            mixture = target + positive
        logits = network(mixture, 2 * batch.example_index)
        sizes = magnitude(mixture)
        if config.loss == "signal_approximation":
            value = losses.signal_approximation_loss(logits[..., 0], sizes, magnitude(target), axis_name=axis_name)
        elif config.loss == "ratio_mask":
            cross_entropy = losses.cross_entropy(logits[..., 0], ratio_mask(target, mixture - target))
            value = losses.weighted_mean(cross_entropy, sizes, axis_name)
        else:
            value = losses.masking_loss(keep_positive(logits), mixture, target, axis_name=axis_name)
        return Loss(value, value, mask_statistics(keep_positive(logits), mixture, axis_name))

    return Objective(initial_hyperparameters(config), loss, keep_positive, needs_target=True)


def mixit(config: MixITConfig) -> Objective:
    """Mixture invariant training: x = u + p has three masks, and the first is part of the sum for u in both assignments.

    The target plays in u alone, accompaniment in u and p.  Which accompaniment belongs to u cannot be known, so the other two
    masks take one each, and only the target remains for the first.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        mixture = batch.unlabeled + batch.positive
        logits = network(mixture, 2 * batch.example_index)
        magnitudes = (magnitude(stft) for stft in (mixture, batch.unlabeled, batch.positive))
        value = losses.mixit_loss(logits, *magnitudes, minimum_over=config.minimum_over, axis_name=axis_name)
        return Loss(value, value, mask_statistics(keep_positive(logits), mixture, axis_name))

    return Objective(initial_hyperparameters(config), loss, keep_positive, num_outputs=3)


def noisy_target(config: NoisyTargetConfig) -> Objective:
    """Noisy-target training: a mask that removes g2 p from x = g1 u + g2 p, by signal approximation of g1 u.

    Applied to u it removes sounds like p.  In training about half of the accompaniment has to be kept, so it removes too little.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        unlabeled, positive = with_gains(batch.unlabeled, batch.positive, batch.example_index, key, hyperparameters["gain_db"])
        remix = unlabeled + positive
        logits = network(remix, 2 * batch.example_index)
        value = losses.signal_approximation_loss(logits[..., 0], magnitude(remix), magnitude(unlabeled), axis_name=axis_name)
        return Loss(value, value, mask_statistics(keep_positive(logits), remix, axis_name))

    return Objective(initial_hyperparameters(config), loss, keep_positive)
