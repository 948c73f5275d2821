"""Configuration of patches and of prepared data: frozen, validated, and stored with the records."""

import dataclasses
import hashlib
import json
import re
from typing import Any, Literal

from data_pipeline.dataclass_json import check_fields
from data_pipeline.errors import require

STEMS = ("vocals", "drums", "bass", "other")
"""The stems of MUSDB18, in the order in which jaxpu names them."""

Window = Literal["hamming", "hann", "blackman"]
Level = Literal["clip", "recording", "reference"]

_LIMITS = {"sample_rate": 10**6, "clip_samples": 10**8, "n_fft": 2**20, "win_length": 2**20, "hop_length": 2**20}
"""Largest values of the fields of `PatchSpec`: beyond those of any recording, and small enough to compute with."""


@dataclasses.dataclass(frozen=True)
class PatchSpec:
    """Parameters of the complex STFT patches.  The defaults are PULSE's, at MUSDB18's sample rate.

    A clip of `clip_samples` samples becomes one patch by an STFT with centred frames and reflected edges
    (`librosa.stft(..., center=True, pad_mode="reflect")`), as in PULSE.

    Attributes:
        sample_rate: in Hz; recordings at another rate are resampled.
        stereo: keep two channels (mono recordings are duplicated); otherwise channels are averaged.
        clip_samples: length of a clip in samples at `sample_rate`.
        n_fft: length of the DFT in samples, even.
        win_length: length of the (periodic) window in samples, at most `n_fft`; it is zero-padded to `n_fft`.
        hop_length: samples between frames, at most half of `win_length`.
        window: name of the window.
        level: scope of the scaling to zero mean and unit deviation.  `clip`: each clip separately (PULSE).  `recording`: each
            recording as a whole.  `reference`: no scaling, for sources whose recordings share one reference level.
        dtype: type of the stored real and imaginary parts.
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
        check_fields(self)
        for field, limit in _LIMITS.items():
            require(0 < getattr(self, field) <= limit, self, field, f"positive and at most {limit:,}")
        require(self.n_fft % 2 == 0, self, "n_fft", "even")
        require(self.win_length <= self.n_fft, self, "win_length", f"at most n_fft = {self.n_fft}. Raise n_fft")
        half = f"at most half of win_length = {self.win_length}, else the signal cannot be rebuilt from its STFT"
        require(2 * self.hop_length <= self.win_length, self, "hop_length", half)
        require(self.clip_samples >= self.n_fft, self, "clip_samples", f"at least n_fft = {self.n_fft}")

    @property
    def num_channels(self) -> int:
        """Number of channels: 1 or 2."""
        return 2 if self.stereo else 1

    @property
    def frames(self) -> int:
        """Number of STFT frames."""
        return 1 + self.clip_samples // self.hop_length

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
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
    """Settings of `jaxpu prepare`: how recordings become training data.

    Attributes:
        patch: parameters of the STFT patches.
        target: one or more names.  With stems, the stems that make up the target.  Without, the name of the separated files; for
            vocals, `prepare` also compares quiet moments of the recordings.
        activity_on: signal whose activity decides which clips are kept; `off` keeps all.  `target` needs stems, so a dataset made
            with it is marked "uses stems".
        activity_detector: `band_split_rnn`, the rule of the band-split RNN paper, or `top_db`, that of `librosa.effects.split`:
            less than 60 dB below the loudest part.  See `data_pipeline.activity`.
        target_to_accompaniment_db: if given, every clip is remixed from its stems at a ratio drawn uniformly from this range, in
            dB (PULSE's training lists: -5 to 10).  Needs stems.
        marked_hop: distance between the starts of clips in a marked passage, as a fraction of a clip; other clips do not overlap.
        validation_share: fraction of the training tracks held out, as whole tracks, unless the names are MUSDB18's.
        seed: seed of the validation tracks and the ratios.
    """

    patch: PatchSpec = PatchSpec()
    target: tuple[str, ...] = ("vocals",)
    activity_on: Literal["target", "mixture", "off"] = "mixture"
    activity_detector: Literal["band_split_rnn", "top_db"] = "band_split_rnn"
    target_to_accompaniment_db: tuple[float, float] | None = None
    marked_hop: float = 0.5
    validation_share: float = 0.14
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        names = self.target
        valid = 0 < len(names) == len(set(names)) and all(map(_can_name_a_file, names)) and len("-".join(names).encode()) <= 200
        requirement = "different names, at least one, none empty or with a slash or control characters, together up to 200 bytes"
        require(valid, self, "target", requirement)
        clashes = "-".join(names).casefold() == "accompaniment"
        require(not clashes, self, "target", "another name, such as instruments: the other file of a separation is accompaniment")
        require(0.01 <= self.marked_hop <= 1, self, "marked_hop", "between 0.01 and 1")
        require(0 < self.validation_share < 1, self, "validation_share", "between 0 and 1")
        low, high = self.target_to_accompaniment_db or (0.0, 0.0)
        require(-200 <= low <= high <= 200, self, "target_to_accompaniment_db", "two numbers from -200 to 200, the lower first")
        require(self.seed >= 0, self, "seed", "0 or more")


def _can_name_a_file(name: str) -> bool:
    return re.search(r"[\x00-\x1f\x7f/\ud800-\udfff]", name) is None and name not in ("", ".", "..")


def config_key(config: DataConfig) -> dict[str, Any]:
    """Settings that tell datasets apart; a field that earlier versions lack counts only where it differs from its default."""
    values = dataclasses.asdict(config)
    if config.marked_hop == DataConfig.marked_hop:
        del values["marked_hop"]
    return values


def fingerprint(*parts: Any) -> str:
    """Hash JSON-serialisable values to 16 hexadecimal digits, which change whenever a value does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
