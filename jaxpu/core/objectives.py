"""One objective = (batch, key) to network input and loss, and logits to mask.  The only place that knows polarity.

Where bins are classified (`pu`, `brier_pu`, `remix` and what builds on it) a positive logit means class P, *target inactive*;
where a mask is fitted to magnitudes (`supervised`, `mixit`, `noisy_target`) it means that the target is kept.  Masks always keep
the target.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpu.config import (
    BootstrapConfig,
    BrierPUConfig,
    ConfigError,
    Estimated,
    MixITConfig,
    NoisyTargetConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
)
from jaxpu.core import losses

Network = Callable[[jax.Array, jax.Array], jax.Array]
"""(stft complex64 (n, frames, bins), example_index int32 (n,)) to logits float32 (n, frames, bins, num_outputs)."""

Hyperparameters = dict[str, jax.Array]
"""Traced float32 scalars, so that many values can be trained at once under vmap."""

# Folded into a loss's key for the draws of shifts, so that they are not those of gains.
_SHIFT = 2

WEIGHT_FLOOR = 1e-7
"""Added to magnitudes before they weigh a bin, as in PULSE."""


class Taught(NamedTuple):
    """Mixtures as a teacher returns them.

    Attributes:
        estimate: complex64 (n, frames, bins), its estimate of the target; the mixture itself while there is no teacher yet.
        by_teacher: float32 scalar, 1 where the estimate is a teacher's and 0 where it is the mixture.
        positive: complex64 (n, frames, bins), what is added to the estimates, at the level at which the objective takes it.
    """

    estimate: jax.Array
    by_teacher: jax.Array
    positive: jax.Array


class Batch(NamedTuple):
    """Decoded patches; stereo channels are examples of their own.

    Attributes:
        unlabeled: complex64 (n, frames, bins), STFT of mixtures.
        positive: complex64 (n, frames, bins), STFT of recordings without the target.
        target: complex64 (n, frames, bins) of the unlabeled ones, or of others for objectives with `target_tracks`, or None; PU
            objectives never read it.
        example_index: int32 (n,), position of each example in the global batch.
        taught: what a teacher makes of the unlabeled ones; None for objectives without a teacher, and in evaluation.
    """

    unlabeled: jax.Array
    positive: jax.Array
    target: jax.Array | None
    example_index: jax.Array
    taught: Taught | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """When an objective has which teacher.

    At step k it is the network as it was at the last step at which k - first_step was a multiple of `round_steps`.

    Attributes:
        first_step: the first step with a teacher.
        round_steps: steps of a round; 1 follows the moving average.
    """

    first_step: int
    round_steps: int


class Loss(NamedTuple):
    """What a training step needs to know, float32 scalars, equal on all devices.

    Attributes:
        loss: what is differentiated.
        risk: what is compared between checkpoints on held-out tracks.
        metrics: logged; those of `mask_statistics`, of the network's input, are always among them.
    """

    loss: jax.Array
    risk: jax.Array
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective, built from its config.

    Attributes:
        num_outputs: logits per bin.
        needs_target: whether the loss reads targets.
        hyperparameters: initial values of what is traced.
        loss: (network, batch, key, hyperparameters, axis_name) to `Loss`.
        mask: logits, float32 (n, frames, bins, num_outputs), to the mask, float32 (n, frames, bins) in [0, 1].
        teacher: for objectives whose loss reads `Batch.taught`.
        target_tracks: for objectives that read targets of that many tracks, independent of the unlabeled patches.
    """

    num_outputs: int
    needs_target: bool
    hyperparameters: dict[str, float]
    loss: Callable[[Network, Batch, jax.Array, Hyperparameters, str | None], Loss]
    mask: Callable[[jax.Array], jax.Array]
    teacher: Teacher | None = None
    target_tracks: int | None = None


def mask_statistics(mask: jax.Array, stft: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """Share of the energy of `stft` that a mask keeps, share of the bins in which it keeps less than half, and mean energy."""
    energy = jnp.square(jnp.abs(stft))
    return {
        "kept_energy": losses.weighted_mean(jnp.square(mask), energy, axis_name),
        "inactive_share": losses.mean((mask < 0.5).astype(jnp.float32), axis_name),
        "input_energy": losses.mean(energy, axis_name),
    }


def _bin_weights(stft: jax.Array, exponent: jax.Array) -> jax.Array:
    return (jnp.abs(stft) + WEIGHT_FLOOR) ** exponent


def traced_fields(config: Any) -> list[str]:
    """The numbers of an objective's config that enter the step as traced values, and can be swept."""
    return [field.name for field in dataclasses.fields(config) if field.type in (float, Estimated)]


def _traced(config: Any) -> dict[str, float]:
    """Their values.  Raises ConfigError where one is still to be estimated."""
    values = {name: getattr(config, name) for name in traced_fields(config)}
    for name, value in values.items():
        if value == "estimate":
            raise ConfigError(
                f"{type(config).__name__}.{name} is 'estimate': it becomes a number when training starts. "
                "Use jaxpu.estimation.resolve.with_estimates, or give a number."
            )
    return {name: float(value) for name, value in values.items()}


def positives(batch: Batch, hyperparameters: Hyperparameters) -> jax.Array:
    """Positives at the level at which the objective takes them, complex64 (n, frames, bins)."""
    gain_db = hyperparameters.get("positive_gain_db", jnp.float32(0))
    return batch.positive * (10 ** (gain_db / 20)).astype(batch.positive.dtype)


def _keep_positive(logits: jax.Array) -> jax.Array:
    """The mask of objectives in which a positive logit of the first output keeps the target."""
    return jax.nn.sigmoid(logits[..., 0])


def _keep_negative(logits: jax.Array) -> jax.Array:
    """The mask of objectives in which a positive logit means "target inactive": the posterior of "target active"."""
    return jax.nn.sigmoid(-logits[..., 0])


def _pu_arguments(network: Network, batch: Batch, hyperparameters: Hyperparameters) -> dict[str, jax.Array]:
    """The keyword arguments that PU losses share."""
    # One pass over both, so that batch normalisation sees them together.  Indices stay unique: even U, odd P.
    stft = jnp.concatenate([batch.unlabeled, batch.positive])
    logits = network(stft, jnp.concatenate([2 * batch.example_index, 2 * batch.example_index + 1]))
    unlabeled_logits, positive_logits = jnp.split(logits[..., 0], 2)
    exponent = hyperparameters["weight_exponent"]
    return {
        "positive_logits": positive_logits,
        "unlabeled_logits": unlabeled_logits,
        "class_prior": hyperparameters["class_prior"],
        "positive_weights": _bin_weights(batch.positive, exponent),
        "unlabeled_weights": _bin_weights(batch.unlabeled, exponent),
    }


def _with_gains(
    first: jax.Array, second: jax.Array, example_index: jax.Array, key: jax.Array, gain_db: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both signals, complex64 (n, frames, bins), with gains uniform in +-gain_db, () or (n,), drawn by key and example."""
    gains_db = _drawn_twice(example_index, key) * jnp.broadcast_to(gain_db, example_index.shape)[:, None]
    gains = (10 ** (gains_db / 20)).astype(first.dtype)
    return first * gains[:, 0, None, None], second * gains[:, 1, None, None]


def _shifted(
    first: jax.Array, second: jax.Array, example_index: jax.Array, key: jax.Array, semitones: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both signals, complex64 (n, frames, bins), with frequencies scaled by factors uniform in +-semitones, drawn likewise.

    Each bin is taken from the nearest one that it comes from, above the highest one from that; so magnitudes are those of sounds
    that are higher or lower, and phases are not.
    """
    drawn = _drawn_twice(example_index, jax.random.fold_in(key, _SHIFT)) * semitones
    bins = jnp.arange(first.shape[-1], dtype=jnp.float32)[None, None]
    sources = jnp.round(bins * 2 ** (-drawn[..., None] / 12)).astype(jnp.int32)  # (n, 2, bins)
    take = jax.vmap(lambda stft, source: jnp.take(stft, source, axis=-1, mode="clip"))
    return take(first, sources[:, 0]), take(second, sources[:, 1])


def _drawn_twice(example_index: jax.Array, key: jax.Array) -> jax.Array:
    """Two numbers uniform in [-1, 1) for each example, float32 (n, 2)."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, example_index)
    return jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-1.0))(keys)


def pu(config: PUConfig) -> Objective:
    """PULSE's objective: `jaxpu.core.losses.pu_loss` over bins (Ito & Sugiyama 2023, equation 9)."""

    def keep_below_zero(logits: jax.Array) -> jax.Array:
        return (logits[..., 0] < 0).astype(jnp.float32)

    mask = keep_below_zero if config.mask == "hard" else _keep_negative

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        arguments = _pu_arguments(network, batch, hyperparameters)
        parts = losses.pu_loss(
            **arguments,
            surrogate=losses.SURROGATES[config.surrogate],
            estimator=config.estimator,
            beta=hyperparameters["beta"],
            gamma=hyperparameters["gamma"],
            axis_name=axis_name,
        )
        unlabeled_mask = mask(arguments["unlabeled_logits"][..., None])
        statistics = mask_statistics(unlabeled_mask, batch.unlabeled, axis_name)
        metrics = {
            "positive_risk": parts.positive_risk,
            "negative_risk": parts.negative_risk,
            "clamped": parts.clamped,
            **statistics,
        }
        return Loss(parts.loss, parts.risk, metrics)

    return Objective(1, False, _traced(config), loss, mask)


def brier_pu(config: BrierPUConfig) -> Objective:
    """`jaxpu.core.losses.brier_pu_loss` over bins: the network's score is the posterior of "target inactive"."""

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        arguments = _pu_arguments(network, batch, hyperparameters)
        value = losses.brier_pu_loss(**arguments, axis_name=axis_name)
        unlabeled_mask = _keep_negative(arguments["unlabeled_logits"][..., None])
        return Loss(value, value, mask_statistics(unlabeled_mask, batch.unlabeled, axis_name))

    return Objective(1, False, _traced(config), loss, _keep_negative)


def supervised(config: SupervisedConfig) -> Objective:
    """Soft masks from known targets: PULSE's supervised comparison, or cross-entropy with the ideal ratio mask."""

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        assert batch.target is not None
        mixture, target = batch.unlabeled, batch.target
        if config.remix_songs:
            target, positive = _with_gains(target, batch.positive, batch.example_index, key, hyperparameters["gain_db"])
            target, positive = _shifted(target, positive, batch.example_index, key, hyperparameters["shift_semitones"])
            mixture = target + positive
        logits = network(mixture, 2 * batch.example_index)
        magnitude, target_magnitude = jnp.abs(mixture), jnp.abs(target)
        if config.loss == "signal_approximation":
            value = losses.signal_approximation_loss(logits[..., 0], magnitude, target_magnitude, axis_name=axis_name)
        else:
            ratio = target_magnitude / (target_magnitude + jnp.abs(mixture - target) + WEIGHT_FLOOR)
            value = losses.binary_cross_entropy(logits[..., 0], ratio, magnitude, axis_name=axis_name)
        return Loss(value, value, mask_statistics(_keep_positive(logits), mixture, axis_name))

    return Objective(1, True, _traced(config), loss, _keep_positive)


def mixit(config: MixITConfig) -> Objective:
    """Mixture invariant training: x = u + p has three masks, and the first is in the sum for u in both assignments.

    The target plays in u alone.  Accompaniment plays in both, and the network cannot know which of two it is that u has: so
    one mask of the other two is for either, and the target is left to the first.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        del key
        mixture = batch.unlabeled + batch.positive
        logits = network(mixture, 2 * batch.example_index)
        magnitudes = (jnp.abs(stft) for stft in (mixture, batch.unlabeled, batch.positive))
        value = losses.mixit_loss(logits, *magnitudes, minimum_over=config.minimum_over, axis_name=axis_name)
        return Loss(value, value, mask_statistics(_keep_positive(logits), mixture, axis_name))

    return Objective(3, False, _traced(config), loss, _keep_positive)


def noisy_target(config: NoisyTargetConfig) -> Objective:
    """Noisy-target training: a mask that takes g2 p out of x = g1 u + g2 p, signal approximation with the target g1 u.

    Applied to u, it takes out what sounds like p.  In training about half of the accompaniment is to be kept, so it takes out
    too little.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        unlabeled, positive = _with_gains(batch.unlabeled, batch.positive, batch.example_index, key, hyperparameters["gain_db"])
        remixed = unlabeled + positive
        logits = network(remixed, 2 * batch.example_index)
        value = losses.signal_approximation_loss(logits[..., 0], jnp.abs(remixed), jnp.abs(unlabeled), axis_name=axis_name)
        return Loss(value, value, mask_statistics(_keep_positive(logits), remixed, axis_name))

    return Objective(1, False, _traced(config), loss, _keep_positive)


def _share_of_positive(positive: jax.Array, other: jax.Array, labels: str) -> jax.Array:
    """Labels of bins, float32: 1 where the positive is all there is, and 1/2 on average where both have the same distribution."""
    if labels == "binary":
        return (jnp.abs(positive) > jnp.abs(other)).astype(jnp.float32)
    return jnp.abs(positive) / (jnp.abs(positive) + jnp.abs(other) + WEIGHT_FLOOR)


def remix(config: RemixConfig) -> Objective:
    """Positives in context: which bins of g1 u + g2 p does the positive p dominate?

    If p is exchangeable with the accompaniment hidden in u, then where accompaniment dominates, p is the larger of the two
    with probability c = 1/2, the label frequency of Elkan & Noto (2008).  So a bin of x is p's and not u's at the odds s, with
    s the posterior of "target inactive" in u: at c / (1 - c) s for other c.  The network's score is s; what the labels are
    compared with is c s / (1 - c + c s), which is c times the posterior in x, where accompaniment is 1 / (1 - c) times as
    frequent.
    """

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        positive = positives(batch, hyperparameters)
        other, gain_db = batch.unlabeled, hyperparameters["gain_db"]
        if batch.taught is not None:
            positive = batch.taught.positive
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 1), batch.example_index)
            stays = jax.vmap(jax.random.uniform)(keys)  # (n,)
            by_teacher = jnp.where(stays >= hyperparameters.get("mixture_share", 0.0), batch.taught.by_teacher, 0.0)
            other = jnp.where(by_teacher[:, None, None] > 0, batch.taught.estimate, other)
            gain_db += by_teacher * (hyperparameters.get("taught_gain_db", gain_db) - gain_db)
        other, positive = _with_gains(other, positive, batch.example_index, key, gain_db)
        other, positive = _shifted(other, positive, batch.example_index, key, hyperparameters["shift_semitones"])
        remixed = other + positive
        logits = network(remixed, 2 * batch.example_index)
        labels = _share_of_positive(positive, other, config.labels)
        frequency = hyperparameters["label_frequency"]
        denser = 1 / (1 - frequency)
        if batch.taught is not None:
            # Beside an estimate of the target all accompaniment is the positive's, and there is as much of it as in a mixture.
            frequency = jnp.where(by_teacher > 0, 1.0, frequency)[:, None, None]
            denser = jnp.where(by_teacher > 0, 1.0, denser)[:, None, None]
        weights = _bin_weights(remixed, hyperparameters["weight_exponent"])
        in_sum = logits[..., 0] + jnp.log(denser)  # of the posterior in x
        value = losses.binary_cross_entropy(in_sum, labels, weights, label_frequency=frequency, axis_name=axis_name)
        metrics = {"label_share": losses.weighted_mean(labels, weights, axis_name)}
        return Loss(value, value, metrics | mask_statistics(_keep_negative(logits), remixed, axis_name))

    return Objective(1, False, _traced(config), loss, _keep_negative)


def bootstrap(config: BootstrapConfig) -> Objective:
    """`remix`, then remixes of what a teacher takes for the target, beside those of the mixtures.

    Its training loss moves with the teacher.  On held-out tracks it has none: there the loss is that of `remix`.
    """
    teacher = Teacher(config.remix_steps, 1 if config.teacher == "average" else config.round_steps)
    return dataclasses.replace(remix(config), teacher=teacher)


def pnu(config: PNUConfig) -> Objective:
    """`remix` of all mixtures beside supervised learning of a few targets, both added to positives of other songs.

    A convex combination of a supervised and a PU risk, as in PNU learning (Sakai et al. 2017).  What is compared between
    checkpoints is the loss of `remix` alone.
    """
    unlabeled_part = remix(config)

    def loss(network: Network, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters, axis_name: str | None) -> Loss:
        assert batch.target is not None
        of_unlabeled = unlabeled_part.loss(network, batch, key, hyperparameters, axis_name)
        # As if a teacher knew the target.
        labeled = batch._replace(taught=Taught(batch.target, jnp.float32(1), positives(batch, hyperparameters)))
        of_target = unlabeled_part.loss(network, labeled, jax.random.fold_in(key, 1), hyperparameters, axis_name)
        weight = hyperparameters["supervised_weight"]
        value = weight * of_target.loss + (1 - weight) * of_unlabeled.loss
        return Loss(value, of_unlabeled.risk, of_unlabeled.metrics | {"supervised_loss": of_target.loss})

    return dataclasses.replace(unlabeled_part, needs_target=True, loss=loss, target_tracks=config.stem_tracks)


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
