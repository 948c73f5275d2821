"""Networks and their sizes."""

import dataclasses
import math
from typing import Literal

from data_pipeline.config import PatchSpec
from jaxpu.config.errors import ConfigError, require


@dataclasses.dataclass(frozen=True)
class PatchCNNConfig:
    """The convolutional network of PULSE (`make_CNN` in its `model.py`), with free sizes.

    Two convolutions with `channels` channels, then `blocks` blocks of two convolutions each; block i has
    `channels * growth**(i+1)` channels.  Every convolution is followed by ReLU and by channel dropout or batch normalisation.
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

    def __post_init__(self) -> None:
        require(self.channels > 0, self, "channels", "positive")
        require(self.blocks >= 0, self, "blocks", "0 or more")
        require(self.growth > 0, self, "growth", "positive")
        require(0 <= self.pointwise_blocks <= self.blocks, self, "pointwise_blocks", f"from 0 to blocks = {self.blocks}")
        require(all(k > 0 and k % 2 for k in self.kernel_size), self, "kernel_size", "two odd positive numbers")
        require(self.output_kernel_size > 0 and self.output_kernel_size % 2 == 1, self, "output_kernel_size", "odd and positive")
        require(0 <= self.dropout_rate < 1, self, "dropout_rate", "in [0, 1)")
        convolutions = 2 + 2 * (self.blocks - self.pointwise_blocks)
        require(
            len(self.dilations) in (0, convolutions) and all(d > 0 for pair in self.dilations for d in pair),
            self,
            "dilations",
            f"empty or {convolutions} pairs of positive numbers, one for each convolution that is not pointwise",
        )


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

    def __post_init__(self) -> None:
        named = ", ".join(PUBLISHED_BANDS)
        require(
            self.bands in PUBLISHED_BANDS
            if isinstance(self.bands, str)
            else len(self.bands) > 0 and all(width > 0 and count > 0 for width, count in self.bands),
            self,
            "bands",
            f"one of {named}, or pairs of a positive width in Hz and a positive number of bands",
        )
        for field in ("channels", "repeats", "hidden", "mask_hidden"):
            require(getattr(self, field) > 0, self, field, "positive")


ModelConfig = PatchCNNConfig | BandSplitRNNConfig

ConvolutionForm = Literal["xla", "phases", "gradient_by_example"]
"""How convolutions are computed: all forms give the same numbers, to rounding, in different times.

- `xla`: `jax.lax.conv_general_dilated`, for TPUs and exported programs;
- `phases`: `by_phases` of `jaxpu.core.models.convolution` where they are dilated, for GPUs;
- `gradient_by_example`: the function of that name there, for CPUs.
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
