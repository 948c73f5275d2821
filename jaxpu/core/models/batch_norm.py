"""Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167) that reads its input once to normalize it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch normalization with a scale and a bias per channel.

    Its parameters and statistics are those of `flax.linen.BatchNorm`, by name and shape.  That one computes x - mean first, which
    XLA keeps in memory for the gradient, an array as large as x.  Here mean, deviation, scale and bias become one factor and one
    summand per channel.

    Attributes:
        axis: of the channels.
        dtype: of the result; all else is float32.
        axis_name: axis of the devices over which the statistics are averaged.
    """

    axis: int = -1
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalize an array of any shape.

        In training, the statistics of the batch replace those in the collection "batch_stats"; `jaxpu.core.step.recalibrate`
        averages them over many batches.

        Args:
            x: floats, (..., channels, ...).
            train: normalize by the statistics of the batch, not by those of the collection.
        """
        channels = x.shape[self.axis]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        if train:
            batch_mean, batch_var = self._statistics(x)
        else:
            batch_mean, batch_var = mean.value, var.value
        if train and not self.is_initializing():
            mean.value, var.value = batch_mean, batch_var
        factor = scale * jax.lax.rsqrt(batch_var + EPSILON)
        summand = bias - batch_mean * factor
        shape = [1] * x.ndim
        shape[self.axis] = channels
        return (x * factor.reshape(shape) + summand.reshape(shape)).astype(self.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of every channel, over the devices too: float32 (channels,) each."""
        axes = tuple(axis for axis in range(x.ndim) if axis != self.axis % x.ndim)
        moments = jnp.stack([x.mean(axes), jnp.square(x).mean(axes)])
        if self.axis_name is not None:
            moments = jax.lax.pmean(moments, self.axis_name)
        mean, mean_square = moments
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0)  # Rounding can make it negative.
