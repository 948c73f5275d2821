"""A U-Net over frequency bands, of TFC-TDF blocks (Choi et al. 2020, arXiv 1912.02591).

1. Bands: an octave has at most `bands_per_octave`.  Where these are wider than a bin, neighbouring bins share a band.  The
   features of a band are its logarithmic magnitude and, in stereo, how much quieter the downmix is: sound that is equal in both
   channels keeps its level there, other sound loses some.
2. Down: a block at each level but the lowest, then a linear layer that joins pairs of bands.  So each level has half the bands of
   the one above it, and all of its frames.
3. The lowest level is a block alone, whose convolutions may be dilated in time and frequency.
4. Up: a linear layer that splits bands into pairs, to which the output of the level's block on the way down is added; a block.
5. A linear layer from the channels and the features of a band to its logits, which are those of its bins.

A block is a few 3x3 convolutions, then maybe a bottleneck: two dense layers over the bands of a frame, the same for all channels,
whose output is added to the block's.  By the bottleneck the network knows at which frequency it is.  Every layer is followed by
batch normalization and ReLU.  Frames are never joined, so the receptive field in time is bounded.

Differences from the paper: frequency alone is halved, convolutions are not densely connected, and the mask is real.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpu.config.networks import ConvolutionForm, UNetConfig
from jaxpu.core.features import FEATURES
from jaxpu.core.models.batch_norm import BatchNorm
from jaxpu.core.models.convolution import choose_convolution, same_padding


class UNet(nn.Module):
    """The network of `UNetConfig`.

    Attributes:
        config: sizes.
        first_bins: first bin of every band, ascending from 0; see `jaxpu.config.networks.first_bins`.
        stereo: whether it was made for two channels; then it takes any number of them.
        num_outputs: logits per bin.
        dtype: of the computation; parameters are float32.
        axis_name: axis of the devices over which batch normalization averages.
        convolution: form in which convolutions are computed.
    """

    config: UNetConfig
    first_bins: tuple[int, ...]
    stereo: bool = False
    num_outputs: int = 1
    dtype: Any = jnp.float32
    axis_name: str | None = None
    convolution: ConvolutionForm = "xla"

    needs_recalibration = True

    @nn.compact
    def __call__(self, stft: jax.Array, keys: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Logits of every bin.

        Args:
            stft: complex64 (batch, channels, frames, bins); one channel unless `stereo`.
            keys: unused, as nothing is random.
            train: normalize by the statistics of the batch.

        Returns:
            float32 (batch, frames, bins, num_outputs), the same for all channels.
        """
        del keys
        channels, lowest = self.config.channels, len(self.config.channels) - 1
        undilated = (1,) * self.config.convolutions
        num_bands = len(self.first_bins)
        features = self._features(stft)  # (batch, frames, bands, 1 or 2)
        # Bands of zeros on top, so that their number can be halved at every level.
        features = jnp.pad(features, ((0, 0), (0, 0), (0, -num_bands % 2**lowest), (0, 0)))

        x = self._convolution(features, channels[0], "first", train)
        before_joining = []
        for level in range(lowest):
            x = self._block(x, undilated, f"down_{level}", train)
            before_joining.append(x)
            x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2 * x.shape[3])
            x = self._dense(x, channels[level + 1], f"join_{level}", train)
        x = self._block(x, self.config.lowest_dilations, "lowest", train)
        for level in reversed(range(lowest)):
            x = self._dense(x, 2 * channels[level], f"split_{level}", train)
            x = x.reshape(*x.shape[:2], 2 * x.shape[2], channels[level]) + before_joining[level]
            x = self._block(x, undilated, f"up_{level}", train)

        x = nn.Dense(self.num_outputs, dtype=self.dtype, name="output")(jnp.concatenate([x, features], axis=-1))
        widths = np.diff([*self.first_bins, stft.shape[-1]])
        return jnp.repeat(x[:, :, :num_bands].astype(jnp.float32), widths, axis=2, total_repeat_length=stft.shape[-1])

    def _features(self, stft: jax.Array) -> jax.Array:
        """Input features of every band: complex64 (batch, channels, frames, bins) to (batch, frames, bands, 1 or 2)."""
        power = jnp.mean(jnp.square(stft.real) + jnp.square(stft.imag), axis=1)
        if not self.stereo:
            return self._log_magnitude(power)[..., None]
        # Not the mean of complex numbers, which jax2onnx 0.17 does not translate.
        downmix_power = jnp.square(stft.real.mean(axis=1)) + jnp.square(stft.imag.mean(axis=1))
        whole, centre = self._log_magnitude(power), self._log_magnitude(downmix_power)
        return jnp.stack([whole, centre - whole], axis=-1)

    def _log_magnitude(self, power: jax.Array) -> jax.Array:
        """Logarithmic magnitude of the bands from the power of the bins: float32 (batch, frames, bins) to (..., bands)."""
        first_bins, num_bins = np.array(self.first_bins), power.shape[-1]
        band_of_bin = np.searchsorted(first_bins, np.arange(num_bins), side="right") - 1
        single = int(np.argmax(np.diff([*first_bins, num_bins, num_bins + 2]) > 1))  # bands below the first of several bins
        members = band_of_bin[single:, None] == np.arange(single, len(first_bins))
        # A product with zeros and ones adds the bins of a band.
        shared = jnp.matmul(power[..., single:], members.astype(np.float32), precision="highest")
        bands = jnp.concatenate([power[..., :single], shared], axis=-1)
        return FEATURES["log"](jnp.sqrt(bands)).astype(self.dtype)

    def _block(self, x: jax.Array, dilations: tuple[int, ...], name: str, train: bool) -> jax.Array:
        for number, dilation in enumerate(dilations):
            x = self._convolution(x, x.shape[-1], f"{name}_{number}", train, dilation)
        if not self.config.bottleneck:
            return x
        y = jnp.swapaxes(x, 2, 3)  # (batch, frames, channels, bands)
        y = self._dense(y, max(x.shape[2] // self.config.bottleneck, 1), f"{name}_bottleneck", train, axis=2)
        y = self._dense(y, x.shape[2], f"{name}_bands", train, axis=2)
        return x + jnp.swapaxes(y, 2, 3)

    def _convolution(self, x: jax.Array, channels: int, name: str, train: bool, dilation: int = 1) -> jax.Array:
        kernel_size, dilations = (3, 3), (dilation, dilation)
        x = nn.Conv(
            channels,
            kernel_size,
            kernel_dilation=dilations,
            padding=same_padding(self.convolution, kernel_size, dilations),
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=choose_convolution(self.convolution, dilations),
            name=name,
        )(x)
        return self._normalized(x, name, train)

    def _dense(self, x: jax.Array, size: int, name: str, train: bool, axis: int = 3) -> jax.Array:
        """A linear layer over the last axis of `x`; `axis` is that of the channels."""
        return self._normalized(nn.Dense(size, use_bias=False, dtype=self.dtype, name=name)(x), name, train, axis)

    def _normalized(self, x: jax.Array, name: str, train: bool, axis: int = 3) -> jax.Array:
        x = BatchNorm(axis=axis, dtype=self.dtype, axis_name=self.axis_name, name=f"{name}_norm")(x, train=train)
        return nn.relu(x)
