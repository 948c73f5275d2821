"""Augmentation of pairs of signals: gains and pitch shifts, drawn for each example by its index in the global batch."""

import jax
import jax.numpy as jnp

# Folded into the key of pitch shifts, so that they are independent of the gains.
_SHIFT = 2


def with_gains(
    first: jax.Array, second: jax.Array, example_index: jax.Array, key: jax.Array, gain_db: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scale both signals by independent gains, uniform within plus or minus `gain_db`.

    Args:
        first: complex64 (n, channels, frames, bins).
        second: of the same shape.
        example_index: int32 (n,).
        key: random key of the step.
        gain_db: float32 () or (n,).
    """
    gains_db = _drawn_twice(example_index, key) * jnp.broadcast_to(gain_db, example_index.shape)[:, None]
    gains = (10 ** (gains_db / 20)).astype(first.dtype)
    return first * gains[:, 0, None, None, None], second * gains[:, 1, None, None, None]


def with_shifts(
    first: jax.Array, second: jax.Array, example_index: jax.Array, key: jax.Array, semitones: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scale the frequencies of both signals by independent factors, uniform within plus or minus `semitones`.

    Every bin is copied from the nearest bin that the shift maps to it, beyond the highest from that one: magnitudes are those of
    a higher or lower sound, phases are not.  Arguments as for `with_gains`; `semitones` is a float32 scalar.
    """
    drawn = _drawn_twice(example_index, jax.random.fold_in(key, _SHIFT)) * semitones
    bins = jnp.arange(first.shape[-1], dtype=jnp.float32)[None, None]
    sources = jnp.round(bins * 2 ** (-drawn[..., None] / 12)).astype(jnp.int32)  # (n, 2, bins)
    take = jax.vmap(lambda stft, source: jnp.take(stft, source, axis=-1, mode="clip"))
    return take(first, sources[:, 0]), take(second, sources[:, 1])


def fold_in_each(key: jax.Array, example_index: jax.Array) -> jax.Array:
    """A key for each example, the same on any number of devices: keys (n,)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, example_index)


def _drawn_twice(example_index: jax.Array, key: jax.Array) -> jax.Array:
    """Two numbers uniform in [-1, 1) for each example, float32 (n, 2)."""
    return jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-1.0))(fold_in_each(key, example_index))
