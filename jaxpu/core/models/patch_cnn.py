"""The convolutional network of PULSE (Ito & Sugiyama 2023, figure 2; `make_CNN` of the authors' code)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpu.config import PatchCNNConfig
from jaxpu.config.networks import ConvolutionForm
from jaxpu.core.features import FEATURES
from jaxpu.core.models.batch_norm import BatchNorm
from jaxpu.core.models.convolution import choose_convolution, same_padding
from jaxpu.core.models.initializers import torch_uniform
from jaxpu.core.stft import magnitude


def channel_dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Set whole channels of an example to zero (torch's Dropout2d) and scale the others by 1 / (1 - rate).

    Args:
        x: (batch, frames, bins, channels).
        keys: of the examples (batch,): so an example loses the same channels on any number of devices.
        rate: probability that a channel is dropped.
    """
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[-1:]))(keys)
    return x * (keep.astype(x.dtype) / jnp.asarray(1 - rate, x.dtype))[:, None, None, :]


class PatchCNN(nn.Module):
    """The network of `PatchCNNConfig`.

    Attributes:
        config: sizes.
        num_outputs: logits per bin.
        dtype: of the computation; parameters are float32.
        axis_name: axis of the devices over which batch normalization averages.
        convolution: form in which convolutions are computed.
    """

    config: PatchCNNConfig
    num_outputs: int = 1
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: ConvolutionForm = "xla"

    @property
    def needs_recalibration(self) -> bool:
        """Whether the statistics of batch normalization have to be computed by `jaxpu.core.step.recalibrate`."""
        return self.config.normalization == "batch"

    @nn.compact
    def __call__(self, stft: jax.Array, keys: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Logits of every bin.

        Args:
            stft: complex64 (batch, 1, frames, bins).
            keys: of the examples (batch,), for dropout; None where there is none.
            train: apply dropout, and normalize by the statistics of the batch.

        Returns:
            float32 (batch, frames, bins, num_outputs).
        """
        config = self.config
        x = FEATURES[config.features](magnitude(stft))[..., None].astype(self.dtype)  # (batch, frames, bins, 1)
        for layer, (channels, kernel_size, dilation) in enumerate(config.convolutions):
            x = self._convolution(x, channels, kernel_size, dilation, f"conv_{layer}")
            x = nn.relu(x)
            if config.normalization == "batch":
                x = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"norm_{layer}")(x, train=train)
            elif train and config.dropout_rate:
                assert keys is not None
                x = channel_dropout(x, jax.vmap(jax.random.fold_in, (0, None))(keys, layer), config.dropout_rate)
        size = config.output_kernel_size
        x = self._convolution(x, self.num_outputs, (size, size), (1, 1), "output")
        return x.astype(jnp.float32)

    def _convolution(
        self, x: jax.Array, channels: int, kernel_size: tuple[int, int], dilation: tuple[int, int], name: str
    ) -> jax.Array:
        fan_in = kernel_size[0] * kernel_size[1] * x.shape[-1]
        initializer = torch_uniform(fan_in)  # As in PULSE, which keeps torch's default.
        return nn.Conv(
            channels,
            kernel_size,
            kernel_dilation=dilation,
            padding=same_padding(self.convolution, kernel_size, dilation),
            dtype=self.dtype,
            kernel_init=initializer,
            bias_init=initializer,
            conv_general_dilated=choose_convolution(self.convolution, dilation),
            name=name,
        )(x)
