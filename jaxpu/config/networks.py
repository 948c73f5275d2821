"""Networks and their sizes."""

import dataclasses
import math
from typing import Literal

from data_pipeline.config import PatchSpec
from data_pipeline.dataclass_json import check_fields
from data_pipeline.errors import ConfigError, require

MAX_PARAMETERS = 10**9
"""Parameters of the largest network, 4 GB; training needs several times as much."""

MAX_LAYER_BYTES = 2**40
"""Bytes of the largest layer for one clip."""

MAX_CONTEXT_SAMPLES = 2**27
"""Samples of the largest receptive field on each side, 50 minutes at 44.1 kHz: separation keeps them in memory."""


@dataclasses.dataclass(frozen=True)
class PatchCNNConfig:
    """The convolutional network of PULSE (`make_CNN` in its `model.py`), with free sizes.

    Two convolutions with `channels` channels, then `blocks` blocks of two convolutions each; block i has
    `channels * growth**(i+1)` channels.  Every convolution is followed by ReLU and by channel dropout or batch normalization.
    There is no pooling.  The defaults are PULSE's for PU learning.

    Attributes:
        channels: channels of the first convolution.
        blocks: number of blocks after the first two convolutions.
        growth: factor between the channels of successive blocks; PULSE doubles them.
        pointwise_blocks: number of blocks, counted from the last, with 1x1 kernels (`fcblocks` in PULSE).
        kernel_size: (frames, bins) of the other convolutions, odd.
        dilations: (frames, bins) of every convolution that is not pointwise, in order; empty means 1 everywhere.
        output_kernel_size: size of the output layer's square kernel, odd.  PULSE has 1 for PU and 3 for supervised learning.
        normalization: `batch` replaces dropout, as in PULSE's supervised network.
        dropout_rate: fraction of the channels set to zero in training.
        features: input features: `scaled` |x| / 15 (PULSE's code), `power` |x|^(1/15) (its paper), or `log` log(|x| + 0.01) / 3.
    """

    channels: int = 8
    blocks: int = 2
    growth: int = 2
    pointwise_blocks: int = 0
    kernel_size: tuple[int, int] = (3, 3)
    dilations: tuple[tuple[int, int], ...] = ()
    output_kernel_size: int = 1
    normalization: Literal["none", "batch"] = "none"
    dropout_rate: float = 0.2
    features: Literal["scaled", "power", "log"] = "scaled"

    sees_all_channels = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(0 < self.channels <= 2**15, self, "channels", "positive and at most 2^15")
        require(0 <= self.blocks <= 64, self, "blocks", "from 0 to 64")
        require(0 < self.growth <= 2**15, self, "growth", "positive and at most 2^15")
        require(0 <= self.pointwise_blocks <= self.blocks, self, "pointwise_blocks", f"from 0 to blocks = {self.blocks}")
        sizes = "odd, positive and less than 256"
        require(all(0 < k < 256 and k % 2 for k in self.kernel_size), self, "kernel_size", f"two numbers, {sizes}")
        require(0 < self.output_kernel_size < 256 and self.output_kernel_size % 2 == 1, self, "output_kernel_size", sizes)
        require(0 <= self.dropout_rate < 1, self, "dropout_rate", "in [0, 1)")
        convolutions = 2 + 2 * (self.blocks - self.pointwise_blocks)
        require(
            len(self.dilations) in (0, convolutions) and all(0 < d <= 4096 for pair in self.dilations for d in pair),
            self,
            "dilations",
            f"empty or {convolutions} pairs of positive numbers up to 4096, one for each convolution that is not pointwise",
        )

    @property
    def convolutions(self) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
        """(channels, kernel size, dilation) of every convolution but the output layer, in order."""
        channels = [self.channels * self.growth ** (layer // 2) for layer in range(2 + 2 * self.blocks)]
        num_wide = 2 + 2 * (self.blocks - self.pointwise_blocks)
        dilations = self.dilations or ((1, 1),) * num_wide
        return [
            (width, self.kernel_size, dilations[layer]) if layer < num_wide else (width, (1, 1), (1, 1))
            for layer, width in enumerate(channels)
        ]

    @property
    def context_frames(self) -> int:
        """Receptive field: frames on each side that an output frame depends on."""
        inner = sum(kernel_size[0] // 2 * dilation[0] for _, kernel_size, dilation in self.convolutions)
        return inner + self.output_kernel_size // 2

    def sizes(self, patch: PatchSpec) -> tuple[int, int, int]:
        """Parameters without biases, numbers in the largest layer of one clip, and samples of context on each side."""
        parameters, inputs = 0, 1
        for width, kernel_size, _ in self.convolutions:
            parameters, inputs = parameters + math.prod(kernel_size) * inputs * width, width
        parameters += self.output_kernel_size**2 * inputs
        largest = max(width for width, _, _ in self.convolutions) * patch.frames * patch.bins
        return parameters, largest, self.context_frames * patch.hop_length


Bands = tuple[tuple[float, int], ...]
"""Width in Hz and number of bands of that width, from low to high."""

_VOCALS = ((100.0, 10), (250.0, 12), (500.0, 8), (1000.0, 8), (2000.0, 2))

PUBLISHED_BANDS: dict[str, Bands] = {
    "vocals": _VOCALS,
    "bass": ((50.0, 10), (100.0, 5), (500.0, 6), (1000.0, 4), (2000.0, 4)),
    "drums": ((50.0, 20), (100.0, 10), (250.0, 8), (500.0, 8), (1000.0, 8)),
    "other": _VOCALS,
}
"""The layouts of Luo & Yu (2023) by target, of which vocals and other have their "V7"."""


@dataclasses.dataclass(frozen=True)
class BandSplitRNNConfig:
    """The band-split RNN of Luo & Yu (2023, arXiv 2209.15174), with real masks instead of complex ones.

    `jaxpu.core.models.band_split_rnn` describes it.  The defaults are the published sizes.

    Attributes:
        bands: band layout: the published one of a target, or pairs (width in Hz, number of such bands) from low to high.
        channels: N, features per band and frame.
        repeats: number of pairs of a BLSTM over time and a BLSTM over bands.
        hidden: units of a BLSTM in each direction; published: 2N.
        mask_hidden: units of the hidden layer of each band's mask; published: 4N.
    """

    bands: Literal["vocals", "bass", "drums", "other"] | Bands = "vocals"
    channels: int = 128
    repeats: int = 12
    hidden: int = 256
    mask_hidden: int = 512

    sees_all_channels = False
    context_frames = None
    """No bound: recurrences see the whole clip."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            isinstance(self.bands, str)
            or (0 < len(self.bands) <= 100 and all(0 < width <= 1e6 and 0 < count <= 2**20 for width, count in self.bands)),
            self,
            "bands",
            f"one of {', '.join(PUBLISHED_BANDS)}, or pairs, at most 100, of a positive width in Hz up to 10^6 and a positive "
            "number of bands up to 2^20",
        )
        for field in ("channels", "repeats", "hidden", "mask_hidden"):
            require(0 < getattr(self, field) <= 2**15, self, field, "positive and at most 2^15")

    def sizes(self, patch: PatchSpec) -> tuple[int, int, int]:
        """Parameters without biases, numbers in the largest layer of one clip, and 0 for the context."""
        groups = band_groups(self, patch)
        num_bands = sum(count for _, count in groups)
        by_bin = self.channels + self.mask_hidden
        parameters = sum(2 * width * count * by_bin for width, count in groups) + num_bands * self.channels * self.mask_hidden
        parameters += 2 * self.repeats * (8 * self.hidden * (self.channels + self.hidden) + 2 * self.hidden * self.channels)
        return parameters, num_bands * patch.frames * max(self.channels, 8 * self.hidden, self.mask_hidden), 0


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A U-Net over frequency bands, of TFC-TDF blocks (Choi et al. 2020, arXiv 1912.02591).  It makes one mask for all channels.

    `jaxpu.core.models.unet` describes it.

    Attributes:
        channels: of the levels, from the highest, which has all bands; each other has half the bands of the one above it.
        convolutions: 3x3 convolutions of a block.
        dilations: of the convolutions of the lowest level, in frames and bands alike; there are as many as dilations.  Empty:
            `convolutions` of them without dilation.
        bottleneck: bands per unit of a block's dense layer; 0: blocks have none.
        bands_per_octave: bands that share an octave; where they would be narrower than a bin, every bin is a band.
    """

    channels: tuple[int, ...] = (16, 32)
    convolutions: int = 2
    dilations: tuple[int, ...] = ()
    bottleneck: int = 8
    bands_per_octave: float = 36.0

    sees_all_channels = True
    """One mask is made from all channels; else from each channel or from the downmix."""

    def __post_init__(self) -> None:
        check_fields(self)
        valid = 0 < len(self.channels) <= 16 and all(0 < channels <= 2**15 for channels in self.channels)
        require(valid, self, "channels", "one to 16 numbers from 1 to 2^15")
        require(0 < self.convolutions <= 64, self, "convolutions", "from 1 to 64")
        valid = len(self.dilations) <= 64 and all(0 < dilation <= 4096 for dilation in self.dilations)
        require(valid, self, "dilations", "at most 64 numbers from 1 to 4096")
        require(0 <= self.bottleneck <= 2**20, self, "bottleneck", "from 0 to 2^20")
        require(0.1 <= self.bands_per_octave <= 1e6, self, "bands_per_octave", "from 0.1 to 10^6")

    @property
    def lowest_dilations(self) -> tuple[int, ...]:
        """Dilation of every convolution of the lowest level."""
        return self.dilations or (1,) * self.convolutions

    @property
    def context_frames(self) -> int:
        """Receptive field: frames on each side that an output frame depends on."""
        return 1 + 2 * (len(self.channels) - 1) * self.convolutions + sum(self.lowest_dilations)

    def sizes(self, patch: PatchSpec) -> tuple[int, int, int]:
        """Parameters without biases and scales, numbers in the largest layer of one clip, and samples of context on each side."""
        lowest = len(self.channels) - 1
        highest_bands = -(-len(first_bins(self, patch)) // 2**lowest) * 2**lowest
        parameters = 9 * patch.num_channels * self.channels[0] + self.channels[0] + patch.num_channels
        largest = 0
        for level, channels in enumerate(self.channels):
            bands, blocks = highest_bands // 2**level, 1 if level == lowest else 2
            convolutions = len(self.lowest_dilations) if level == lowest else self.convolutions
            units = max(bands // self.bottleneck, 1) if self.bottleneck else 0
            parameters += blocks * (9 * channels**2 * convolutions + 2 * bands * units)
            if level < lowest:
                parameters += 4 * channels * self.channels[level + 1]
            largest = max(largest, channels * max(bands, units) * patch.frames)
        return parameters, max(largest, patch.frames * patch.bins), self.context_frames * patch.hop_length


ModelConfig = PatchCNNConfig | BandSplitRNNConfig | UNetConfig

ConvolutionForm = Literal["xla", "phases", "gradient_by_example", "onednn"]
"""How convolutions are computed: all forms give the same numbers, to rounding, in different times.

- `xla`: `jax.lax.conv_general_dilated`, for TPUs and exported programs;
- `phases`: `by_phases` of `jaxpu.core.models.convolution` where they are dilated, for GPUs;
- `onednn`: `by_onednn` there, for CPUs with `jaxpu[cpu]`;
- `gradient_by_example`: the function of that name there, for other CPUs.
"""


def band_groups(config: BandSplitRNNConfig, patch: PatchSpec) -> tuple[tuple[int, int], ...]:
    """Band layout in bins of an STFT.

    A width in Hz is rounded down to a whole number of bins, as in the authors' code for the Sound Demixing Challenge 2023: at
    44.1 kHz with 2048 samples a bin is 21.5 Hz wide, and a band of 100 Hz has 4 bins, 86 Hz.  Bands follow each other from 0 Hz
    as long as they fit below half the sample rate; the remaining bins are the last band.

    Returns:
        (bins of a band, number of such bands), from low to high.

    Raises:
        ConfigError: a band is narrower than a bin.
    """
    bands = PUBLISHED_BANDS[config.bands] if isinstance(config.bands, str) else config.bands
    left = patch.bins
    groups = []
    for width_hz, count in bands:
        width = width_hz * patch.n_fft / patch.sample_rate
        if width < 1:
            raise ConfigError(
                f"BandSplitRNNConfig.bands has bands of {width_hz:g} Hz, which are {width:.2f} bins wide with data.patch.n_fft = "
                f"{patch.n_fft} at {patch.sample_rate} Hz; they must be at least 1 bin wide. Raise n_fft to "
                f"{2 * math.ceil(patch.sample_rate / width_hz / 2)} or more, or give wider bands."
            )
        fitting = min(count, left // int(width))
        if fitting:
            groups.append((int(width), fitting))
            left -= int(width) * fitting
        if fitting < count:
            break
    return (*groups, (left, 1)) if left else tuple(groups)


def first_bins(config: UNetConfig, patch: PatchSpec) -> tuple[int, ...]:
    """The first bin of every band, ascending from 0; a band ends where the next begins, the last at the last bin."""
    bins, following = [0], 1.0
    while round(following) < patch.bins:
        bins.append(round(following))
        following = max(following * 2 ** (1 / config.bands_per_octave), bins[-1] + 1)
    return tuple(bins)


def check_size(config: ModelConfig, patch: PatchSpec) -> None:
    """Check that a machine can hold a network and a clip.  Nothing is built for it.

    Raises:
        ConfigError: it has too many parameters, a layer or a receptive field that is too large, or bands narrower than a bin.
    """
    parameters, layer, context = config.sizes(patch)
    clip = f"clips of {patch.clip_samples} samples, hop_length {patch.hop_length} and n_fft {patch.n_fft}"
    for value, limit, what, remedy in (
        (parameters, MAX_PARAMETERS, "parameters", "Lower its channels, growth, blocks or kernel sizes"),
        (4 * layer, MAX_LAYER_BYTES, f"bytes in its largest layer for {clip}", "Shorten data.patch.clip_samples"),
        (context, MAX_CONTEXT_SAMPLES, "samples of context", "Lower its dilations or kernel sizes"),
    ):
        if value > limit:
            raise ConfigError(f"{type(config).__name__} has {value:,} {what}; they must be at most {limit:,}. {remedy}.")
