"""What a patch is and which data is prepared: frozen, validated, and stored beside the records."""

import dataclasses
import hashlib
import json
from typing import Any, Literal

STEMS = ("vocals", "drums", "bass", "other")
"""The stems of MUSDB18, in the order in which jaxpu names them."""

Window = Literal["hamming", "hann", "blackman"]
Level = Literal["clip", "recording", "reference"]


@dataclasses.dataclass(frozen=True)
class PatchSpec:
    """How audio becomes patches of complex STFT.  The defaults are PULSE's, at MUSDB18's sample rate.

    A clip of `clip_samples` samples becomes one patch by an STFT with centred frames and reflected edges
    (`librosa.stft(..., center=True, pad_mode="reflect")`), as in PULSE.

    Attributes:
        sample_rate: in Hz; recordings at another rate are resampled.
        stereo: keep two channels (mono recordings are doubled); otherwise channels are averaged.
        clip_samples: length of a clip in samples at `sample_rate`.
        n_fft: length of the DFT in samples, even.
        win_length: length of the (periodic) window in samples, at most `n_fft`; it is zero-padded to `n_fft`.
        hop_length: samples between frames, at most half of `win_length`.
        window: name of the window.
        level: what is scaled to zero mean and unit deviation.  `clip`: every clip by itself (PULSE).  `recording`: every
            recording as a whole.  `reference`: nothing, for sources whose recordings share one reference level.
        dtype: of the stored real and imaginary parts.
    """

    sample_rate: int = 44_100
    stereo: bool = False
    clip_samples: int = 50_000
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    window: Window = "hamming"
    level: Level = "clip"
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        for name in ("sample_rate", "clip_samples", "n_fft", "win_length", "hop_length"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(f"PatchSpec.{name} is {value}; it must be positive.")
        if self.n_fft % 2:
            raise ValueError(f"PatchSpec.n_fft is {self.n_fft}; it must be even.")
        if self.win_length > self.n_fft:
            raise ValueError(f"PatchSpec.win_length is {self.win_length}; it must be at most n_fft = {self.n_fft}. Raise n_fft.")
        if 2 * self.hop_length > self.win_length:
            raise ValueError(
                f"PatchSpec.hop_length is {self.hop_length}; it must be at most half of win_length = {self.win_length}, "
                "else the signal cannot be rebuilt from its STFT."
            )
        if self.clip_samples < self.n_fft:
            raise ValueError(f"PatchSpec.clip_samples is {self.clip_samples}; it must be at least n_fft = {self.n_fft}.")

    @property
    def num_channels(self) -> int:
        """Channels of a patch."""
        return 2 if self.stereo else 1

    @property
    def frames(self) -> int:
        """Frames in a patch."""
        return 1 + self.clip_samples // self.hop_length

    @property
    def bins(self) -> int:
        """Frequency bins in a patch."""
        return 1 + self.n_fft // 2

    @property
    def patch_shape(self) -> tuple[int, int, int, int]:
        """(channels, frames, bins, 2): the last axis holds the real and the imaginary part."""
        return (self.num_channels, self.frames, self.bins, 2)

    @property
    def clip_s(self) -> float:
        """Length of a clip in seconds."""
        return self.clip_samples / self.sample_rate


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data `jaxpu prepare` makes from a source of recordings.

    Attributes:
        patch: how audio becomes patches.
        target: one or several names: stems of the source, where it has stems; else only what the separated files are called.
        activity_on: the signal whose activity decides which clips are kept.  `target` needs stems, so a dataset made with it is
            marked "uses stems".
        activity_detector: the rule: that of the band-split RNN paper, or `top_db`, that of `librosa.effects.split`: less than
            60 dB below the loudest part; see `data_pipeline.activity`.
        target_to_accompaniment_db: where given, every mixture is mixed anew from its stems with a ratio drawn uniformly
            from this range in dB (PULSE's training lists: -5 to 10).  Needs stems.
        validation_share: share of the training tracks held out, whole, where the names are not MUSDB18's.
        seed: draws the validation tracks and the ratios.
    """

    patch: PatchSpec = PatchSpec()
    target: tuple[str, ...] = ("vocals",)
    activity_on: Literal["target", "mixture", "off"] = "mixture"
    activity_detector: Literal["band_split_rnn", "top_db"] = "band_split_rnn"
    target_to_accompaniment_db: tuple[float, float] | None = None
    validation_share: float = 0.14
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.target or len(set(self.target)) != len(self.target) or any(not name or "/" in name for name in self.target):
            raise ValueError(
                f"DataConfig.target is {self.target!r}; it must hold different names, at least one, none empty or with a slash."
            )
        if not 0 < self.validation_share < 1:
            raise ValueError(f"DataConfig.validation_share is {self.validation_share}; it must lie between 0 and 1.")
        if self.target_to_accompaniment_db is not None:
            low, high = self.target_to_accompaniment_db
            if not low <= high:
                raise ValueError(
                    f"DataConfig.target_to_accompaniment_db is ({low}, {high}); the first must not exceed the second."
                )


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-serialisable values: 16 hexadecimal digits that change whenever a value does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
