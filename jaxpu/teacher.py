"""What the teacher of `bootstrap` takes for the target: masks at the level that the data say (docs/methods.md)."""

import math

import jax
import jax.numpy as jnp

from jaxpu.losses import weighted_mean

TARGET_SHARES = (0.1, 0.5)
"""The least and the most that a teacher takes for the target's share of the energy: levels of few recordings are uncertain."""

MASK_SCALES = (1 / 3, 20.0)
"""The least and the most by which a teacher's masks are scaled."""


def teacher_mask(mask: jax.Array, mixture: jax.Array, energies: jax.Array, axis_name: str | None) -> jax.Array:
    """The mask times the number s, clipped, that gives it the target's share of the energy: sum m |u|^2 = share * sum |u|^2.

    It is linear in m because the best mask is: with m = E[Re(t / u) | u], E[m |u|^2] is E[Re(t u*)], the energy of a target
    that is independent of the accompaniment.  The energy of m u, with m squared, is less than that wherever m is unsure.

    Args:
        mask: float32 (n, frames, bins), of the objective.
        mixture: complex64 (n, frames, bins).
        energies: float32 (2,), mean energies of mixtures and of positives; the target has the difference.
        axis_name: of the devices that share the batch.

    Returns:
        The masks of the mixtures, float32 (n, frames, bins) in [0, 1].
    """
    share = jnp.clip(1 - energies[1] / jnp.maximum(energies[0], 1e-12), *TARGET_SHARES)
    energy = jnp.square(jnp.abs(mixture))

    def scaled(log_scale: jax.Array) -> jax.Array:
        return jnp.clip(jnp.exp(log_scale) * mask, 0, 1)

    def halve(_: int, limits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = limits
        middle = (low + high) / 2
        too_little = weighted_mean(scaled(middle), energy, axis_name) < share
        return jnp.where(too_little, middle, low), jnp.where(too_little, high, middle)

    limits = jnp.float32(math.log(MASK_SCALES[0])), jnp.float32(math.log(MASK_SCALES[1]))
    low, high = jax.lax.fori_loop(0, 12, halve, limits)
    return scaled((low + high) / 2)
