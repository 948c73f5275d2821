"""Options of a separation, for files and for waveforms."""

import dataclasses
import math
import os
from pathlib import Path

import soundfile

from data_pipeline import audio
from data_pipeline.errors import AudioError

PCM_STEPS = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23}
"""Steps of the integer formats that are written without loss."""

_LOSSLESS_SUFFIXES = (".wav", ".flac")


@dataclasses.dataclass(frozen=True)
class SeparationOptions:
    """Format of the written files, length of the chunks and number of shifts.

    Attributes:
        suffix: `.wav`, `.flac`, `.ogg` or `.mp3`.  By default the recording's own if it is .wav or .flac; else .wav, since
            coding a lossy recording once more loses quality and the exact sum.
        subtype: `FLOAT`, `PCM_24` or `PCM_16`.  By default the recording's own if it is one of them and the format can hold it;
            else FLOAT in .wav and PCM_24 in .flac.
        chunk_s: seconds of a chunk; shorter ones need less memory. By default 5, or more where neighbouring chunks overlap much.
        shifts: grids of STFT frames, each `hop_length / shifts` samples after the one before it, whose targets are averaged; each
            costs as much as a separation.

    Raises:
        AudioError: the suffix is none of these, or has no such subtype.
        ValueError: `chunk_s` is not positive and finite.
    """

    suffix: str | None = None
    subtype: str | None = None
    chunk_s: float | None = None
    shifts: int = 1

    def __post_init__(self) -> None:
        if self.chunk_s is not None and not 0 < self.chunk_s < math.inf:
            raise ValueError(f"chunk_s is {self.chunk_s}; it must be positive and finite.")
        suffixes: tuple[str, ...] = _LOSSLESS_SUFFIXES
        if self.suffix is not None:
            suffixes = (f".{self.suffix.lower().removeprefix('.')}",)
            if suffixes[0] not in audio.WRITE_SUFFIXES:
                raise AudioError(f"The output format is {self.suffix!r}; it must be one of {', '.join(audio.WRITE_SUFFIXES)}.")
            object.__setattr__(self, "suffix", suffixes[0])
        if self.subtype is not None:
            subtypes = list(dict.fromkeys(each for suffix in suffixes for each in audio.SUBTYPES[suffix]))
            if self.subtype.upper() not in subtypes:
                told = f"{' and '.join(suffixes)} it must be one of {', '.join(subtypes)}"
                raise AudioError(f"The sample format is {self.subtype!r}; for {told}.")
            object.__setattr__(self, "subtype", self.subtype.upper())

    def format_for(self, path: Path) -> tuple[str, str | None]:
        """Suffix and subtype of the files that are written for a recording; a subtype of None is `audio.Writer`'s default."""
        own_suffix = path.suffix.lower()
        suffix = self.suffix or (own_suffix if own_suffix in _LOSSLESS_SUFFIXES else ".wav")
        if self.subtype is not None or suffix not in _LOSSLESS_SUFFIXES:
            return suffix, self.subtype
        try:
            own = soundfile.info(os.fsencode(path)).subtype
        except (soundfile.SoundFileError, OSError):
            return suffix, None  # A file that only ffmpeg reads, or one for which `audio.probe` says what is wrong.
        return suffix, own if own in PCM_STEPS or (own == "FLOAT" and suffix == ".wav") else None
