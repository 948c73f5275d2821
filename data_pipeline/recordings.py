"""Recordings as sums and differences of audio files, and the tracks that they form."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline import audio
from data_pipeline.audio import AudioInfo, Blocks
from data_pipeline.config import STEMS
from data_pipeline.errors import AudioError
from data_pipeline.mark_formats import Mark

Split = Literal["train", "validation", "test"]
Span = tuple[int, int | None]
"""First sample and end (exclusive; None: the end of the file) of a stretch."""

_END_TOLERANCE_S = 0.5
"""Excess of a mark over the end of its recording that is cut off: labels drawn to the end of a track often stand out a little."""


@dataclasses.dataclass(frozen=True)
class Part:
    """An audio stream of a file.  `stream` counts from 0; only .stem.mp4 files have more than one."""

    path: Path
    stream: int = 0


@dataclasses.dataclass(frozen=True)
class Recording:
    """A signal that is read lazily: the sum of the streams in `plus` minus the sum of those in `minus`.

    Attributes:
        name: name in messages.
        root: folder of the source; the paths of `identity` are relative to it.
        plus: streams to add, at least one.
        minus: streams to subtract.
        span: for a stretch of the files, its first sample and its end (exclusive; None: the end of the files), at their rate.
    """

    name: str
    root: Path
    plus: tuple[Part, ...]
    minus: tuple[Part, ...] = ()
    span: Span | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """All streams, those of `plus` first."""
        return self.plus + self.minus

    def stretch(self, name: str, span: Span) -> "Recording":
        """A stretch of this recording."""
        return dataclasses.replace(self, name=name, span=span)

    @property
    def whole(self) -> "Recording":
        """The recording of which this is a stretch, or itself."""
        return dataclasses.replace(self, span=None)

    @property
    def info(self) -> AudioInfo:
        """Rate and channels of the files, and the length of the signal.  Raises AudioError if one is damaged or they disagree."""
        return _within(_agreed_info(self.name, self.parts), self.span)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the files in Hz."""
        return self.info.sample_rate

    @property
    def num_channels(self) -> int:
        """Number of channels of the files: 1 for mono, 2 for stereo."""
        return self.info.num_channels

    @property
    def num_samples(self) -> int | None:
        """Length of the signal at the rate of the files; None if only decoding can tell.  See `AudioInfo`."""
        return self.info.num_samples

    def blocks(self, sample_rate: int, stereo: bool, block_samples: int = audio.BLOCK_SAMPLES) -> Blocks:
        """Read the signal from start to end in constant memory.

        All signals of a track are read in blocks of the same sizes, aligned to the sample.  They are summed in float32, before
        channels are averaged and before resampling.

        Args:
            sample_rate: in Hz; files at other rates are resampled.
            stereo: read two channels (mono is duplicated) instead of one (the average of the channels).
            block_samples: block length in samples per channel.

        Yields:
            float32 (2 or 1, block_samples), the last one shorter; of a stretch also the first.

        Raises:
            AudioError: as in `audio.read_blocks`; also if the files disagree in length, rate or channels, if they end before the
                stretch does, or if they have more than two channels and `stereo` is requested.
        """
        info = self.info
        if stereo and info.num_channels > 2:
            raise AudioError(
                f"{self.parts[0].path}: has {info.num_channels} channels; stereo needs a mono or stereo recording. "
                "Prepare mono, or mix it down."
            )
        native_blocks = self._native_blocks(block_samples)
        if self.span is not None:
            native_blocks = _cut(self.name, native_blocks, *self.span)
        with contextlib.closing(native_blocks) as native:
            mixed = native if stereo else (block.mean(axis=0, keepdims=True) for block in native)
            for block in audio.resample_blocks(mixed, info.sample_rate, sample_rate, block_samples):
                yield np.repeat(block, 2, axis=0) if stereo and len(block) == 1 else block

    def read(self) -> np.ndarray:
        """Read the whole signal at its own rate: float32 (1 or 2, samples).  Raises AudioError as `blocks` does."""
        return np.concatenate(list(self.blocks(self.sample_rate, self.num_channels == 2)), axis=1)

    def identity(self) -> list[list[Any]]:
        """List path relative to the root, stream, sign, size in bytes and time of last change of every file; JSON-serialisable.

        A stretch adds its first sample and its end.  Raises AudioError if a file does not exist.
        """
        rows: list[list[Any]] = []
        for index, part in enumerate(self.parts):
            try:
                status = part.path.stat()
            except OSError as error:
                raise _missing(part.path) from error
            sign = 1 if index < len(self.plus) else -1
            row = [part.path.relative_to(self.root).as_posix(), part.stream, sign, status.st_size, status.st_mtime_ns]
            rows.append([*row, *(self.span or ())])
        return rows

    def _native_blocks(self, block_samples: int) -> Blocks:
        with contextlib.ExitStack() as stack:
            readers = []
            for part in self.parts:
                reader = audio.read_blocks(part.path, block_samples=block_samples, stream=part.stream)
                readers.append(stack.enter_context(contextlib.closing(reader)))
            while True:
                blocks = [next(reader, None) for reader in readers]
                lengths = [0 if block is None else block.shape[1] for block in blocks]
                if len(set(lengths)) > 1:
                    raise AudioError(
                        f"{self.name}: its files decode to different lengths: "
                        + ", ".join(
                            f"{_label(part)} ends {max(lengths) - n} samples early"
                            for part, n in zip(self.parts, lengths, strict=True)
                            if n < max(lengths)
                        )
                        + ". Stems must be aligned and have the same length."
                    )
                read = [block for block in blocks if block is not None]
                if not read:
                    return
                yield _sum(read[: len(self.plus)]) - _sum(read[len(self.plus) :]) if self.minus else _sum(read)


@dataclasses.dataclass(frozen=True)
class Track:
    """A track of a source: a song with its stems, a recording with or without the target, or a stretch of either.

    Attributes:
        name: unique name in the source.
        split: "train", "validation" or "test".
        mixture: the signal with the target; None for a target-free recording.
        accompaniment: sum of all stems but the target; None for a recording with the target but without stems.
        target: mixture minus accompaniment; None without stems.  In .stem.mp4 every stream is lossily coded, so this is the stem
            of the target plus coding noise (in stempeg's example 22 dB below the mixture, most of it above 4 kHz).
        stems: all stems by name; empty for a source without stems.
        passages: marked passages without the target, in order, counted from the start of the recording or the stretch.  Then
            `mixture` and `accompaniment` are one recording, and its positive clips lie in these passages.
    """

    name: str
    split: Split
    mixture: Recording | None
    accompaniment: Recording | None
    target: Recording | None = None
    stems: Mapping[str, Recording] = dataclasses.field(default_factory=dict)
    passages: tuple[Mark, ...] = ()

    def stem(self, name: str) -> Recording:
        """Return a stem by its name, such as "vocals"; raise ValueError if there is none of that name."""
        if name not in self.stems:
            raise ValueError(
                f"{self.name}: has no stem {name!r}; it has {', '.join(self.stems) or 'none: its source has no stems'}."
            )
        return self.stems[name]

    def stretch(self, name: str, split: Split, span: Span) -> "Track":
        """A stretch of the track, as a track of its own; one without any of the marked passages has no accompaniment."""

        def cut(recording: Recording | None) -> Recording | None:
            return None if recording is None else recording.stretch(recording.name.replace(self.name, name, 1), span)

        stems = {stem: recording.stretch(f"{name} ({stem})", span) for stem, recording in self.stems.items()}
        passages = _clipped(self.passages, span, self.check().sample_rate) if self.passages else ()
        accompaniment = None if self.passages and not passages else cut(self.accompaniment)
        return Track(name, split, cut(self.mixture), accompaniment, cut(self.target), stems, passages)

    def recordings(self) -> dict[str, Recording]:
        """Signals of the track, by the names "mixture", "accompaniment" and "target"."""
        signals = {"mixture": self.mixture, "accompaniment": self.accompaniment, "target": self.target}
        return {name: recording for name, recording in signals.items() if recording is not None}

    def check(self, *, all_stems: bool = False) -> AudioInfo:
        """Read the headers of the files of all signals, or of all stems.

        Raises AudioError if one is damaged or they disagree in length, rate or channels, or if a mark lies beyond the end.
        """
        recordings = [*self.recordings().values(), *(self.stems.values() if all_stems else ())]
        parts = {part: None for recording in recordings for part in recording.parts}
        info = _within(_agreed_info(self.name, tuple(parts)), recordings[0].span)
        if info.num_samples is not None:
            self.check_passages(info.num_samples / info.sample_rate)
        return info

    def check_passages(self, seconds: float) -> None:
        """Raise AudioError if a marked passage ends after the recording, which has this length."""
        for mark in self.passages:
            if mark.end_s is not None and max(mark.begin_s, mark.end_s - _END_TOLERANCE_S) > seconds:
                raise AudioError(
                    f"{mark.where}: marks {mark.begin_s:g} s to {mark.end_s:g} s of {self.name}, which lasts {seconds:.2f} s. "
                    "Do the marks belong to another version of it?"
                )


def _agreed_info(name: str, parts: tuple[Part, ...]) -> AudioInfo:
    infos = []
    for part in parts:
        if not part.path.exists():
            raise _missing(part.path)
        infos.append(audio.probe(part.path, stream=part.stream))
    for field, unit in (("num_channels", "channel(s)"), ("sample_rate", "Hz"), ("num_samples", "samples")):
        values = [getattr(info, field) for info in infos]
        if len(set(values) - {None}) > 1:  # A length of None shows itself in decoding.
            raise AudioError(
                f"{name}: its files disagree: "
                + ", ".join(f"{_label(part)} has {value} {unit}" for part, value in zip(parts, values, strict=True))
                + ". The mixture and all stems of a track must have the same length, rate and channels."
            )
    return next((info for info in infos if info.num_samples is not None), infos[0])


def _clipped(passages: tuple[Mark, ...], span: Span, sample_rate: int) -> tuple[Mark, ...]:
    """The passages inside a stretch, counted from its first sample."""
    first_s = span[0] / sample_rate
    last_s = math.inf if span[1] is None else span[1] / sample_rate
    clipped = []
    for mark in passages:
        end_s = min(last_s, math.inf if mark.end_s is None else mark.end_s)
        if max(mark.begin_s, first_s) < end_s:
            begin_s = max(mark.begin_s - first_s, 0.0)
            clipped.append(Mark(begin_s, None if end_s == math.inf else end_s - first_s, mark.where))
    return tuple(clipped)


def _within(info: AudioInfo, span: Span | None) -> AudioInfo:
    """The info of a stretch."""
    if span is None:
        return info
    ends = [end for end in (span[1], info.num_samples) if end is not None]
    return dataclasses.replace(info, num_samples=max(min(ends) - span[0], 0) if ends else None)


def _cut(name: str, blocks: Blocks, begin: int, end: int | None) -> Blocks:
    """Yield the samples from `begin` to `end` of consecutive blocks; those before are dropped, those after not read."""
    position = 0
    with contextlib.closing(blocks):
        while (end is None or position < end) and (block := next(blocks, None)) is not None:
            piece = block[:, max(begin - position, 0) : None if end is None else end - position]
            position += block.shape[1]
            if piece.shape[1]:
                yield piece
    if position <= begin or (end is not None and position < end):
        raise AudioError(
            f"{name}: ends after {position} samples, before the end of its stretch from {begin} to {end or 'the end'}. "
            "Has the file changed? Prepare the data again."
        )


def _missing(path: Path) -> AudioError:
    if path.stem in ("mixture", *STEMS) and path.parent.is_dir():
        wavs = sorted(other.name for other in path.parent.glob("*.wav"))
        return AudioError(
            f"{path}: does not exist. A track of MUSDB18-HQ is a folder with mixture.wav and "
            f"{', '.join(f'{stem}.wav' for stem in STEMS)}; this one holds {', '.join(wavs) or 'no .wav'}."
        )
    return AudioError(f"{path}: does not exist.")


def _label(part: Part) -> str:
    return f"{part.path} (stream {part.stream})" if part.stream else str(part.path)


def _sum(blocks: list[np.ndarray]) -> np.ndarray:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total
