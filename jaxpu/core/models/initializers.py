"""Initial parameters that several networks share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def torch_uniform(size: int) -> nn.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(size), torch's default for weights and biases alike.

    Args:
        size: the layer's fan-in; of an LSTM, its units.
    """
    bound = size**-0.5

    def initialize(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
