"""What the teacher of `bootstrap` takes for the target: masks from scores, positives and levels (docs/methods.md)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpu.losses import weighted_mean

TARGET_SHARES = (0.2, 0.5)
"""The least and the most that a teacher takes for the target's share of the energy: levels of few recordings are uncertain."""

MASK_SCALES = (1 / 3, 20.0)
"""The least and the most by which a teacher's masks are scaled."""


def teacher_mask(
    logits: jax.Array,
    positive_logits: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    energies: jax.Array,
    axis_name: str | None,
) -> jax.Array:
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
        The masks of the mixtures, float32 (n, frames, bins) in [0, 1].
    """
    scores, positive_scores = jax.nn.sigmoid(logits[..., 0]), jax.nn.sigmoid(positive_logits[..., 0])
    of_positives = _mean_by_octave(positive_scores, jnp.abs(positive), axis_name)
    share = jnp.clip(1 - energies[1] / jnp.maximum(energies[0], 1e-12), *TARGET_SHARES)
    evidence = 1 - scores / jnp.maximum(of_positives, 1e-7)[None, None]
    return _scaled_to_share(evidence, jnp.square(jnp.abs(mixture)), share, axis_name)


def with_empty_mixtures(
    mask: jax.Array,
    mixture: jax.Array,
    positive: jax.Array,
    example_index: jax.Array,
    key: jax.Array,
    empty_share: jax.Array,
    axis_name: str | None,
) -> jax.Array:
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
        complex64 (n, frames, bins).
    """
    energy = jnp.square(jnp.abs(mixture))
    taken = jnp.sum(mask * energy, (1, 2)) / jnp.maximum(jnp.sum(energy, (1, 2)), 1e-12)
    empty = taken < empty_share * weighted_mean(mask, energy, axis_name)  # (n,)
    if axis_name is not None:
        mixture, empty = (jax.lax.all_gather(array, axis_name, tiled=True) for array in (mixture, empty))
    num_empty = jnp.sum(empty.astype(jnp.float32))
    drawn = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(key, index), (2,)))(example_index)
    # The k-th empty one is the first of which k + 1 are empty up to it.
    ranks = jnp.floor(drawn[:, 0] * num_empty) + 1
    chosen = jnp.searchsorted(jnp.cumsum(empty.astype(jnp.float32)), ranks).clip(max=len(empty) - 1)
    replaced = drawn[:, 1] * (len(empty) + num_empty) < num_empty
    return jnp.where(replaced[:, None, None], mixture[chosen], positive)


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


def _scaled_to_share(evidence: jax.Array, energy: jax.Array, share: jax.Array, axis_name: str | None) -> jax.Array:
    """The mask clip(k * evidence, 0, 1) whose mean by energy is this share; k in `MASK_SCALES` by bisection of its logarithm."""

    def scaled(log_scale: jax.Array) -> jax.Array:
        return jnp.clip(jnp.exp(log_scale) * evidence, 0, 1)

    def halve(_: int, limits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = limits
        middle = (low + high) / 2
        too_little = weighted_mean(scaled(middle), energy, axis_name) < share
        return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

    limits = jnp.float32(math.log(MASK_SCALES[0])), jnp.float32(math.log(MASK_SCALES[1]))
    low, high = jax.lax.fori_loop(0, 12, halve, limits)
    return scaled((low + high) / 2)
