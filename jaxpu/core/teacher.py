"""What the teacher of `bootstrap` takes for the target: masks from scores, positives and levels (docs/methods.md)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpu.core.losses import mean, weighted_mean

TARGET_SHARES = (0.2, 0.5)
"""The least and the most that a teacher takes for the target's share of the energy: levels of few recordings are uncertain."""

MASK_SCALES = (1 / 3, 20.0)
"""The least and the most by which a teacher's masks are scaled."""

LEAK_STEPS = 20
"""Steps over which `leak` is averaged."""


def teacher_masks(
    logits: jax.Array,
    positive_logits: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    energies: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Masks k (1 - s / q), clipped: s the score of a bin, q the mean score of the positives in its octave, k by the levels.

    Positives are accompaniment and nothing else, so what they score is no target: otherwise a network that is a little unsure
    everywhere would teach a little of the accompaniment as target, for good.  (q is e1 of Elkan & Noto 2008.)

    k gives the masks m the target's share of the energy: sum m |u|^2 = share * sum |u|^2.  It is linear in m because the best
    mask is: with m = E[Re(t / u) | u], E[m |u|^2] is E[Re(t u*)], the energy of a target that is independent of the
    accompaniment.  The energy of m u, with m squared, is less than that wherever m is unsure.

    Args:
        logits: float32 (n, frames, bins, 1) of the network for mixtures; positive means "target inactive".
        positive_logits: the same for positives.
        mixture: complex64 (n, frames, bins).
        positive: complex64 (n, frames, bins), at the level at which the objective takes it.
        energies: float32 (2,), mean energies of mixtures and of positives; the target has the difference.
        axis_name: of the devices that share the batch.

    Returns:
        The masks of the mixtures and those of the positives, with the same q and k: float32 (n, frames, bins) in [0, 1].
    """
    scores, positive_scores = jax.nn.sigmoid(logits[..., 0]), jax.nn.sigmoid(positive_logits[..., 0])
    of_positives = _mean_by_octave(positive_scores, jnp.abs(positive), axis_name)
    share = jnp.clip(1 - energies[1] / jnp.maximum(energies[0], 1e-12), *TARGET_SHARES)
    evidence, positive_evidence = (1 - s / jnp.maximum(of_positives, 1e-7)[None, None] for s in (scores, positive_scores))
    scale = _scale_to_share(evidence, jnp.square(jnp.abs(mixture)), share, axis_name)
    return jnp.clip(scale * evidence, 0, 1), jnp.clip(scale * positive_evidence, 0, 1)


def leak(mask: jax.Array, positive_mask: jax.Array, mixture: jax.Array, positive: jax.Array, axis_name: str | None) -> jax.Array:
    """What the masks of a teacher take of positives, the mean share over clips, over the share that they take of mixtures.

    All that they take of positives is accompaniment.  A target that is hard to tell from it is heard where it is not, and missed
    where it is: a mixture in which the teacher finds next to nothing may be one in which the target is quiet.

    Args:
        mask: of the mixtures, float32 (n, frames, bins).
        positive_mask: of the positives.
        mixture: complex64 (n, frames, bins).
        positive: complex64 (n, frames, bins), at the level at which the objective takes it.
        axis_name: of the devices that share the batch.

    Returns:
        float32 scalar.
    """
    of_mixtures = weighted_mean(mask, jnp.square(jnp.abs(mixture)), axis_name)
    return mean(_taken(positive_mask, positive), axis_name) / jnp.maximum(of_mixtures, 1e-7)


def with_empty_mixtures(
    mask: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    example_index: jax.Array,
    key: jax.Array,
    empty_share: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Positives, some of them replaced by mixtures in which a teacher finds next to no target.

    Where the target is silent for a while, a mixture is a recording without it, with the level and the instruments of what is
    hidden in the others.  An example takes its own positive or an empty mixture of the batch, any of these as often as that.

    Args:
        mask: the teacher's for the mixtures, float32 (n, frames, bins).
        mixture: complex64 (n, frames, bins).
        positive: complex64 (n, frames, bins), at the level at which the objective takes it.
        example_index: int32 (n,), position of each example in the global batch.
        key: of the step.
        empty_share: a mixture is empty if the mask takes less of its energy than this share of what the masks take of all.
        axis_name: of the devices that share the batch.

    Returns:
        The positives, complex64 (n, frames, bins), and the share of the mixtures that is empty.
    """
    of_all = weighted_mean(mask, jnp.square(jnp.abs(mixture)), axis_name)
    empty = _taken(mask, mixture) < empty_share * of_all  # (n,)
    if axis_name is not None:
        mixture, empty = (jax.lax.all_gather(array, axis_name, tiled=True) for array in (mixture, empty))
    num_empty = jnp.sum(empty.astype(jnp.float32))
    drawn = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(key, index), (2,)))(example_index)
    # The k-th empty one is the first of which k + 1 are empty up to it.
    ranks = jnp.floor(drawn[:, 0] * num_empty) + 1
    chosen = jnp.searchsorted(jnp.cumsum(empty.astype(jnp.float32)), ranks).clip(max=len(empty) - 1)
    replaced = drawn[:, 1] * (len(empty) + num_empty) < num_empty
    return jnp.where(replaced[:, None, None], mixture[chosen], positive), num_empty / len(empty)


def _taken(mask: jax.Array, stft: jax.Array) -> jax.Array:
    """What a mask takes of the energy of each clip: (n,)."""
    energy = jnp.square(jnp.abs(stft))
    return jnp.sum(mask * energy, (1, 2)) / jnp.maximum(jnp.sum(energy, (1, 2)), 1e-12)


def _mean_by_octave(values: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
    """Weighted means of values, (n, frames, bins), in the octave of each bin: (bins,)."""
    bins = values.shape[-1]
    # Bins 0 to 3 are one octave, and the highest bin belongs to the octave below it.
    octaves = np.log2(np.clip(np.arange(bins), 2, bins - 2)).astype(int) - 1
    totals = jnp.stack([jnp.sum(values * weights, (0, 1)), jnp.sum(weights, (0, 1))], -1)  # (bins, 2)
    totals = jax.ops.segment_sum(totals, octaves, octaves[-1] + 1)
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    return (totals[:, 0] / jnp.maximum(totals[:, 1], 1e-7))[octaves]


def _scale_to_share(evidence: jax.Array, energy: jax.Array, share: jax.Array, axis_name: str | None) -> jax.Array:
    """The k in `MASK_SCALES` by which clip(k * evidence, 0, 1) has this mean by energy, by bisection of its logarithm."""

    def halve(_: int, limits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = limits
        middle = (low + high) / 2
        too_little = weighted_mean(jnp.clip(jnp.exp(middle) * evidence, 0, 1), energy, axis_name) < share
        return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

    limits = jnp.float32(math.log(MASK_SCALES[0])), jnp.float32(math.log(MASK_SCALES[1]))
    low, high = jax.lax.fori_loop(0, 12, halve, limits)
    return jnp.exp((low + high) / 2)
