"""Complex STFT to network input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LOG_FLOOR = 1e-2
"""Added to magnitudes before the logarithm; far below audible bins of signals with unit deviation."""


def scaled(stft: jax.Array) -> jax.Array:
    """|x| / 15, what PULSE's code computes: `torch.abs(x) ** 1/15` divides the first power by 15."""
    return jnp.abs(stft) / 15


def power(stft: jax.Array) -> jax.Array:
    """|x|^(1/15), the power-law compression that the paper on PULSE describes (section 4.1)."""
    # The floor keeps the derivative finite where a bin is exactly zero.
    return jnp.maximum(jnp.abs(stft), 1e-7) ** (1 / 15)


def log(stft: jax.Array) -> jax.Array:
    """A third of the logarithm of |x| + 0.01: about zero mean and unit spread for music of unit deviation."""
    return jnp.log(jnp.abs(stft) + LOG_FLOOR) / 3


FEATURES: dict[str, Callable[[jax.Array], jax.Array]] = {"scaled": scaled, "power": power, "log": log}
"""Features by name: complex64 (batch, frames, bins) to float32 of the same shape."""
