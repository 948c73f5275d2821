"""The teacher of `bootstrap`: its masks, its pseudo-targets, and the mixtures that it finds free of the target."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpu.core.losses import mean, weighted_mean
from jaxpu.core.objectives.augment import fold_in_each
from jaxpu.core.objectives.base import Batch, Hyperparameters, Network, PseudoTarget
from jaxpu.core.stft import magnitude

TARGET_SHARES = (0.2, 0.5)
"""Bounds of the target's share of the energy, since the levels of few recordings are uncertain."""

MASK_SCALES = (1 / 3, 20.0)
"""Bounds of the factor that scales a teacher's masks."""

AVERAGED_STEPS = 20
"""Steps over which the false-positive ratio is averaged."""


class TeacherState(NamedTuple):
    """State of the teacher, carried from step to step.

    Attributes:
        steps: int32, steps so far.
        energies: float32 (2,), mean energies of unlabeled and of positive bins over these steps.
        false_positive_ratio: float32, moving average of `false_positive_ratio`; 0 before there is a teacher.
    """

    steps: jax.Array
    energies: jax.Array
    false_positive_ratio: jax.Array


def init_teacher() -> TeacherState:
    """The state before the first step."""
    return TeacherState(jnp.int32(0), jnp.zeros(2), jnp.float32(0))


def teach(
    state: TeacherState,
    batch: Batch,
    separate: Network,
    hyperparameters: Hyperparameters,
    key: jax.Array,
    axis_name: str | None,
    *,
    first_step: int,
) -> tuple[TeacherState, Batch, dict[str, jax.Array]]:
    """Let the teacher separate the mixtures of a batch.

    Args:
        state: before this step.
        batch: with positives at the level that the objective expects.
        separate: the teacher, which is the network as it separates now.
        hyperparameters: `empty_share` and `max_false_positive_ratio` are read.
        key: random key of the step.
        axis_name: axis of the devices that share the batch.
        first_step: steps without a teacher; until then the batch stays as it is.

    Returns:
        The next state; the batch with pseudo-targets, and with target-free mixtures instead of some positives; metrics.
    """
    unlabeled, positive = batch.unlabeled, batch.positive
    newest = jnp.stack([mean(jnp.square(magnitude(stft)), axis_name) for stft in (unlabeled, positive)])
    energies = state.energies + (newest - state.energies) / (1 + state.steps.astype(jnp.float32))
    exists = state.steps >= first_step

    def with_teacher() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        logits = separate(jnp.concatenate([unlabeled, positive]), jnp.concatenate([batch.example_index] * 2))
        of_unlabeled, of_positive = jnp.split(logits, 2)
        mask, positive_mask = teacher_masks(of_unlabeled, of_positive, unlabeled, positive, energies, axis_name)
        newest = false_positive_ratio(mask, positive_mask, unlabeled, positive, axis_name)
        steps_taught = jnp.clip(state.steps - first_step + 1, 1, AVERAGED_STEPS).astype(jnp.float32)
        ratio = state.false_positive_ratio + (newest - state.false_positive_ratio) / steps_taught
        empty_share = jnp.where(ratio < hyperparameters["max_false_positive_ratio"], hyperparameters["empty_share"], 0.0)
        chosen, empty = with_empty_mixtures(mask, unlabeled, positive, batch.example_index, key, empty_share, axis_name)
        return mask[:, None].astype(unlabeled.dtype) * unlabeled, chosen, empty, ratio

    def without_teacher() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        return unlabeled, positive, jnp.float32(0), state.false_positive_ratio

    estimate, chosen, empty, ratio = jax.lax.cond(exists, with_teacher, without_teacher)
    taught = batch._replace(positive=chosen, pseudo_target=PseudoTarget(estimate, exists.astype(jnp.float32)))
    return TeacherState(state.steps + 1, energies, ratio), taught, {"false_positive_ratio": ratio, "empty_mixtures": empty}


def teacher_masks(
    logits: jax.Array,
    positive_logits: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    energies: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Masks k (1 - s / q), clipped to [0, 1]: s is the score of a bin, q the mean score of the positives in its octave.

    Positives are accompaniment alone, so their scores should give a mask of 0.  Without q, a network that is a little unsure
    everywhere would never cease to teach a little of the accompaniment as target.  (q is the estimator e1 of Elkan & Noto 2008.)

    k scales the masks m so that they keep the target's share of the energy: sum m |u|^2 = share * sum |u|^2, with
    share = (E_U - E_P) / E_U by the levels.  Without k, a network that is unsure keeps little, its student learns from little and
    keeps less, down to blank output.  The equation is linear in m because the best mask satisfies it: with m = E[Re(t / u) | u],
    E[m |u|^2] is E[Re(t u*)], the energy of a target that is independent of the accompaniment.  The energy of m u, with m
    squared, is less than that wherever m is unsure.

    Args:
        logits: float32 (n, frames, bins, 1) for mixtures; positive means "target inactive".
        positive_logits: the same for positives.
        mixture: complex64 (n, channels, frames, bins).
        positive: complex64 (n, channels, frames, bins), at the level that the objective expects.
        energies: float32 (2,), mean energies of mixtures and of positives, E_U and E_P.
        axis_name: axis of the devices that share the batch.

    Returns:
        The masks of the mixtures and those of the positives, with the same q and k: float32 (n, frames, bins) in [0, 1].
    """
    scores, positive_scores = jax.nn.sigmoid(logits[..., 0]), jax.nn.sigmoid(positive_logits[..., 0])
    of_positives = _mean_by_octave(positive_scores, magnitude(positive), axis_name)
    share = jnp.clip(1 - energies[1] / jnp.maximum(energies[0], 1e-12), *TARGET_SHARES)
    evidence, positive_evidence = (1 - s / jnp.maximum(of_positives, 1e-7)[None, None] for s in (scores, positive_scores))
    scale = _scale_to_share(evidence, jnp.square(magnitude(mixture)), share, axis_name)
    return jnp.clip(scale * evidence, 0, 1), jnp.clip(scale * positive_evidence, 0, 1)


def false_positive_ratio(
    mask: jax.Array, positive_mask: jax.Array, mixture: jax.Array, positive: jax.Array, axis_name: str | None
) -> jax.Array:
    """Fraction of the energy of positives that the teacher's masks keep, over the fraction that they keep of mixtures.

    All that they keep of positives is accompaniment.  A high ratio says that the target is hard to tell from it, and is missed,
    too: then a mixture in which the teacher finds next to nothing may be one in which the target is quiet.

    Args:
        mask: of the mixtures, float32 (n, frames, bins).
        positive_mask: of the positives.
        mixture: complex64 (n, channels, frames, bins).
        positive: complex64 (n, channels, frames, bins), at the level that the objective expects.
        axis_name: axis of the devices that share the batch.

    Returns:
        float32 scalar; the numerator is a mean over clips.
    """
    of_mixtures = weighted_mean(mask, jnp.square(magnitude(mixture)), axis_name)
    return mean(_masked_share(positive_mask, positive), axis_name) / jnp.maximum(of_mixtures, 1e-7)


def with_empty_mixtures(
    mask: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    example_index: jax.Array,
    key: jax.Array,
    empty_share: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Replace some positives by target-free mixtures: those in which the teacher finds next to no target.

    A target-free passage of a mixture has the level and the instruments of the accompaniment hidden in the others.  Each example
    draws from its own positive and all target-free mixtures of the batch, with equal probabilities.

    Args:
        mask: of the teacher for the mixtures, float32 (n, frames, bins).
        mixture: complex64 (n, channels, frames, bins).
        positive: complex64 (n, channels, frames, bins), at the level that the objective expects.
        example_index: int32 (n,), position of each example in the global batch.
        key: random key of the step.
        empty_share: a mixture is target-free if its mask keeps less than this fraction of the energy that all masks keep on
            average.
        axis_name: axis of the devices that share the batch.

    Returns:
        The positives, complex64 (n, channels, frames, bins), and the fraction of the mixtures that is target-free.
    """
    of_all = weighted_mean(mask, jnp.square(magnitude(mixture)), axis_name)
    empty = _masked_share(mask, mixture) < empty_share * of_all  # (n,)
    if axis_name is not None:
        mixture, empty = (jax.lax.all_gather(array, axis_name, tiled=True) for array in (mixture, empty))
    num_empty = jnp.sum(empty.astype(jnp.float32))
    drawn = jax.vmap(lambda each: jax.random.uniform(each, (2,)))(fold_in_each(key, example_index))
    # The k-th target-free mixture, from 0, is the first one up to which k + 1 are target-free.
    ranks = jnp.floor(drawn[:, 0] * num_empty) + 1
    chosen = jnp.searchsorted(jnp.cumsum(empty.astype(jnp.float32)), ranks).clip(max=len(empty) - 1)
    replaced = drawn[:, 1] * (len(empty) + num_empty) < num_empty
    return jnp.where(replaced[:, None, None, None], mixture[chosen], positive), num_empty / len(empty)


def _masked_share(mask: jax.Array, stft: jax.Array) -> jax.Array:
    """Sum of m |x|^2 over the sum of |x|^2 of each clip: float32 (n,)."""
    energy = jnp.square(magnitude(stft))
    return jnp.sum(mask * energy, (1, 2)) / jnp.maximum(jnp.sum(energy, (1, 2)), 1e-12)


def _mean_by_octave(values: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
    """Weighted mean of values, (n, frames, bins), over the octave of each bin: (bins,)."""
    bins = values.shape[-1]
    # Bins 0 to 3 are one octave, and the highest bin belongs to the octave below it.
    octaves = np.log2(np.clip(np.arange(bins), 2, max(bins - 2, 2))).astype(int) - 1
    totals = jnp.stack([jnp.sum(values * weights, (0, 1)), jnp.sum(weights, (0, 1))], -1)  # (bins, 2)
    totals = jax.ops.segment_sum(totals, octaves, octaves[-1] + 1)
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    return (totals[:, 0] / jnp.maximum(totals[:, 1], 1e-7))[octaves]


def _scale_to_share(evidence: jax.Array, energy: jax.Array, share: jax.Array, axis_name: str | None) -> jax.Array:
    """The k within `MASK_SCALES` with which clip(k * evidence, 0, 1) has this energy-weighted mean, by bisection of log k."""

    def halve(_: int, limits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = limits
        middle = (low + high) / 2
        too_little = weighted_mean(jnp.clip(jnp.exp(middle) * evidence, 0, 1), energy, axis_name) < share
        return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

    limits = jnp.float32(math.log(MASK_SCALES[0])), jnp.float32(math.log(MASK_SCALES[1]))
    low, high = jax.lax.fori_loop(0, 12, halve, limits)
    return jnp.exp((low + high) / 2)
