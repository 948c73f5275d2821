"""Input features of the networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LOG_FLOOR = 1e-2
"""Added to magnitudes before the logarithm; far below audible bins of signals with unit deviation."""


def _scaled(magnitudes: jax.Array) -> jax.Array:
    """|x| / 15, what PULSE's code computes: `torch.abs(x) ** 1/15` divides the first power by 15."""
    return magnitudes / 15


def _power(magnitudes: jax.Array) -> jax.Array:
    """|x|^(1/15), the power-law compression that the paper on PULSE describes (section 4.1)."""
    # The floor keeps the derivative finite where a bin is exactly zero.
    return jnp.maximum(magnitudes, 1e-7) ** (1 / 15)


def _log(magnitudes: jax.Array) -> jax.Array:
    """A third of the logarithm of |x| + 0.01: about zero mean and unit spread for music of unit deviation."""
    return jnp.log(magnitudes + LOG_FLOOR) / 3


FEATURES: dict[str, Callable[[jax.Array], jax.Array]] = {"scaled": _scaled, "power": _power, "log": _log}
"""Features by name, functions of magnitudes: float32 of any shape to the same."""
