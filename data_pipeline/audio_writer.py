"""Writing audio files block by block; a file appears under its name only when it is complete and was read again."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile

from data_pipeline import decoders, libsndfile
from data_pipeline.decoders import BLOCK_SAMPLES
from data_pipeline.errors import AudioError
from data_pipeline.files import replacing

_WAV_MAX_BYTES = (1 << 32) - 4096

_PCM_BITS = {"PCM_16": 16, "PCM_24": 24}
_OGG_MAX_RATE = 200_000
_FLAC_MAX_CHANNELS = 8

_CONTAINERS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
SUBTYPES: dict[str, tuple[str, ...]] = {
    ".wav": ("FLOAT", "PCM_16", "PCM_24"),
    ".flac": ("PCM_24", "PCM_16"),
    ".ogg": ("VORBIS",),
    ".mp3": ("MPEG_LAYER_III",),
}
"""Sample formats that `Writer` supports, by suffix; the first is the default."""

WRITE_SUFFIXES: tuple[str, ...] = tuple(SUBTYPES)
"""Suffixes of the formats that `Writer` supports."""


class Overshoot:
    """Count of samples beyond full scale, which integer formats clip.

    Attributes:
        count: number of them.
        peak: largest absolute value of all samples; full scale is 1.
    """

    def __init__(self) -> None:
        self.count, self.peak = 0, 0.0

    def add(self, block: np.ndarray) -> None:
        """Count the samples of a block (channels, n)."""
        peak = float(max(block.max(initial=0), -block.min(initial=0)))
        self.peak = max(self.peak, peak)
        if peak > 1:
            self.count += int(np.count_nonzero(np.abs(block) > 1))

    @property
    def peak_db(self) -> float:
        """Peak in dB relative to full scale; minus infinity for silence."""
        return 20 * math.log10(self.peak) if self.peak else -math.inf


class Writer:
    """Writer of an audio file, block by block; the file appears under its name only when it is complete.

    The blocks go to a hidden file in the same folder.  At the end of the `with` statement its header, its container and its last
    seconds are read again (`libsndfile.check_written`), and it is renamed; after an error it is removed.  Integer formats round
    to the nearest step and clip at full scale, so that PCM read by `read_blocks` is written back bit for bit.

    Args:
        path: audio file in an existing folder; the suffix (.wav, .flac, .ogg, .mp3) determines the format.
        sample_rate: in Hz.
        num_channels: number of channels of every block.
        subtype: for .wav FLOAT (default), PCM_16 or PCM_24; for .flac PCM_24 (default) or PCM_16.
        num_samples: expected length; if known, a .wav above 4 GiB is written as RF64.

    Raises:
        AudioError: the format is unknown or does not support the rate or the channels, or the disk refuses the data.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        num_channels: int,
        *,
        subtype: str | None = None,
        num_samples: int | None = None,
    ) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in SUBTYPES:
            raise AudioError(
                f"{self.path}: cannot write {suffix or 'a file without suffix'}; use one of {', '.join(WRITE_SUFFIXES)}."
            )
        if suffix == ".ogg" and sample_rate > _OGG_MAX_RATE:
            # libsndfile 1.2 crashes there instead of refusing.
            raise AudioError(f"{self.path}: .ogg cannot hold {sample_rate} Hz, only up to {_OGG_MAX_RATE}. Write .wav or .flac.")
        container, allowed = _CONTAINERS[suffix], SUBTYPES[suffix]
        self.subtype = subtype or allowed[0]
        if self.subtype not in allowed:
            raise AudioError(f"{self.path}: {suffix} cannot be written as {self.subtype}; use one of {', '.join(allowed)}.")
        self._bytes_per_sample = num_channels * _PCM_BITS.get(self.subtype, 32) // 8
        self._max_samples = _WAV_MAX_BYTES // self._bytes_per_sample if container == "WAV" else None
        if self._max_samples is not None and num_samples is not None and num_samples > self._max_samples:
            container, self._max_samples = "RF64", None
        self._num_channels = num_channels
        order = libsndfile.VORBIS_ORDER.get(num_channels) if self.subtype == "VORBIS" else None
        self._order = None if order is None else np.argsort(order)
        self._written = 0
        if not self.path.parent.is_dir():
            raise AudioError(f"{self.path}: the folder {self.path.parent} does not exist. Create it first.")
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            try:
                file = soundfile.SoundFile(os.fsencode(partial), "w", sample_rate, num_channels, self.subtype, format=container)
            except (soundfile.SoundFileError, OSError) as error:
                others = ".wav" if suffix == ".flac" or num_channels > _FLAC_MAX_CHANNELS else ".wav or .flac"
                raise AudioError(
                    f"{self.path}: {suffix} cannot hold {num_channels} channels at {sample_rate} Hz "
                    f"({decoders.reason_of(error)}). Write {others}{', or resample first' if num_channels <= 2 else ''}."
                ) from error
            stack.push(self._verify(partial))
            self._file = stack.enter_context(file)
            self._stack = stack.pop_all()

    def write(self, block: np.ndarray) -> None:
        """Append a float block (channels, n); full scale is 1."""
        if block.ndim != 2 or block.shape[0] != self._num_channels:
            raise ValueError(f"{self.path}: a block has shape {block.shape}; it must be ({self._num_channels}, samples).")
        self._written += block.shape[1]
        if self._max_samples is not None and self._written > self._max_samples:
            raise AudioError(f"{self.path}: a .wav holds at most 4 GiB. Write .flac (`--format flac`).")
        if self._order is not None:
            block = block[self._order]
        # libsndfile's encoders have trouble with very long buffers.
        for begin in range(0, block.shape[1], BLOCK_SAMPLES):
            data = _quantized(block[:, begin : begin + BLOCK_SAMPLES].T, self.subtype)
            try:
                self._file.write(np.ascontiguousarray(data))
            # soundfile asserts that all was written: this is how it reports a full disk.
            except (soundfile.SoundFileError, OSError, AssertionError) as error:
                raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self._stack.__exit__(kind, error, traceback)
        except (soundfile.SoundFileError, OSError) as failure:
            raise self._refused(failure) from failure

    def _verify(self, partial: Path) -> Callable[..., None]:
        def verify(kind: type[BaseException] | None, *_: object) -> None:
            if kind is None:
                try:
                    libsndfile.check_written(partial, self._written)
                except (libsndfile.UnreadableError, AudioError) as error:
                    raise self._refused(OSError("what was written does not hold all samples")) from error

        return verify

    def _refused(self, error: BaseException) -> AudioError:
        free = shutil.disk_usage(self.path.parent).free
        return AudioError(
            f"{self.path}: cannot be written ({decoders.reason_of(error)}). The disk has {free / 1e6:.0f} MB left; is it full?"
        )


def _quantized(data: np.ndarray, subtype: str) -> np.ndarray:
    """Quantise floats for libsndfile, whose own conversion scales by 32767 in writing but 32768 in reading."""
    bits = _PCM_BITS.get(subtype)
    if bits is None:
        return data.astype(np.float32, copy=False)
    full_scale = 1 << (bits - 1)
    steps = np.clip(np.rint(data.astype(np.float64) * full_scale), -full_scale, full_scale - 1).astype(np.int32)
    return steps.astype(np.int16) if bits == 16 else steps << 8  # 24 bits are the upper ones of libsndfile's 32.
