"""The convolutional network of PULSE (Ito & Sugiyama 2023, figure 2; `make_CNN` of the authors' code)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpu.config import PatchCNNConfig
from jaxpu.core.models.convolution import fastest
from jaxpu.core.models.features import FEATURES
from jaxpu.core.models.initializers import torch_uniform


class ChannelDropout(nn.Module):
    """Sets whole channels of an example to zero (torch's Dropout2d), keyed by the example's index in the global batch.

    So an example loses the same channels whatever the number of devices that share the batch.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, example_index: jax.Array, *, train: bool) -> jax.Array:
        """(batch, frames, bins, channels) to the same; `example_index` is int32 (batch,)."""
        if not train or self.rate == 0:
            return x
        key = self.make_rng("dropout")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, example_index)
        keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.rate, x.shape[-1:]))(keys)
        return x * (keep.astype(x.dtype) / jnp.asarray(1 - self.rate, x.dtype))[:, None, None, :]


class PatchCNN(nn.Module):
    """See `PatchCNNConfig`.

    Attributes:
        config: the sizes.
        num_outputs: logits per bin.
        dtype: what is computed in; parameters are float32.
        axis_name: of the devices over which batch normalisation averages.
    """

    config: PatchCNNConfig
    num_outputs: int = 1
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, stft: jax.Array, example_index: jax.Array, *, train: bool) -> jax.Array:
        """Logits of every bin.

        Args:
            stft: complex64 (batch, frames, bins).
            example_index: int32 (batch,), position in the global batch; keys the dropout.
            train: apply dropout, and normalise with the statistics of the batch.

        Returns:
            float32 (batch, frames, bins, num_outputs).
        """
        config = self.config
        x = FEATURES[config.features](stft)[..., None].astype(self.dtype)  # (batch, frames, bins, 1)
        for layer, (channels, kernel_size, dilation) in enumerate(convolutions(config)):
            x = self._convolution(x, channels, kernel_size, dilation, f"conv_{layer}")
            x = nn.relu(x)
            if config.normalization == "batch":
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.0,  # What comes back are the statistics of the batch; jaxpu.core.step averages them.
                    epsilon=1e-5,
                    dtype=self.dtype,
                    axis_name=self.axis_name if train else None,
                    name=f"norm_{layer}",
                )(x)
            else:
                x = ChannelDropout(config.dropout_rate, name=f"dropout_{layer}")(x, example_index, train=train)
        size = config.output_kernel_size
        x = self._convolution(x, self.num_outputs, (size, size), (1, 1), "output")
        return x.astype(jnp.float32)

    def _convolution(
        self, x: jax.Array, channels: int, kernel_size: tuple[int, int], dilation: tuple[int, int], name: str
    ) -> jax.Array:
        fan_in = kernel_size[0] * kernel_size[1] * x.shape[-1]
        initializer = torch_uniform(fan_in)  # PULSE keeps torch's.
        return nn.Conv(
            channels,
            kernel_size,
            kernel_dilation=dilation,
            padding="SAME",
            dtype=self.dtype,
            kernel_init=initializer,
            bias_init=initializer,
            conv_general_dilated=fastest(dilation),
            name=name,
        )(x)


def convolutions(config: PatchCNNConfig) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """(channels, kernel size, dilation) of every convolution but the output layer, in order."""
    channels = [config.channels * config.growth ** (layer // 2) for layer in range(2 + 2 * config.blocks)]
    num_wide = 2 + 2 * (config.blocks - config.pointwise_blocks)
    dilations = config.dilations or ((1, 1),) * num_wide
    return [
        (width, config.kernel_size, dilations[layer]) if layer < num_wide else (width, (1, 1), (1, 1))
        for layer, width in enumerate(channels)
    ]


def context_frames(config: PatchCNNConfig) -> int:
    """Frames on each side that an output frame depends on."""
    inner = sum((kernel_size[0] // 2) * dilation[0] for _, kernel_size, dilation in convolutions(config))
    return inner + config.output_kernel_size // 2
