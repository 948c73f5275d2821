"""Reading and writing audio files of any length in constant memory, block by block; damaged files raise errors."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
import soxr

from data_pipeline import decoders
from data_pipeline.decoders import BLOCK_SAMPLES, AudioInfo, Blocks, require_ffmpeg
from data_pipeline.errors import AudioError
from data_pipeline.files import replacing

__all__ = [
    "BLOCK_SAMPLES",
    "WRITE_SUFFIXES",
    "AudioInfo",
    "Blocks",
    "Writer",
    "mean_and_deviation",
    "probe",
    "read_blocks",
    "require_ffmpeg",
    "resample_blocks",
    "resampled_length",
]

# libsndfile reads these; ffmpeg reads all others.
_SOUNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

# The last two frames of an mp3: encoders disagree whether the header counts them.
_LOSSY_TOLERANCE = 2 * 1152
_WAV_MAX_BYTES = (1 << 32) - 4096

_PCM_BITS = {"PCM_16": 16, "PCM_24": 24}
_OGG_MAX_RATE = 200_000

_WRITE_FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "FLOAT"),
    ".flac": ("FLAC", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
WRITE_SUFFIXES: tuple[str, ...] = tuple(_WRITE_FORMATS)
"""Suffixes of the formats that `Writer` supports."""


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Number of samples after resampling `num_samples`: the exact ratio, rounded half up."""
    return (2 * num_samples * to_rate + from_rate) // (2 * from_rate)


def probe(path: str | os.PathLike[str], *, stream: int = 0) -> AudioInfo:
    """Read the header of a file without decoding it.

    Args:
        path: an audio file.
        stream: number of the audio stream, from 0; only containers such as .stem.mp4 have several.

    Raises:
        AudioError: the file is missing, unreadable, visibly truncated or of zero length.
    """
    path = Path(path)
    file, ffprobe_streams = _open(path, stream)
    if file is None:
        info = ffprobe_streams[stream]
    else:
        with file:
            info = _soundfile_info(file)
    if info.num_samples == 0:
        raise _zero_length(path)
    return info


def read_blocks(
    path: str | os.PathLike[str],
    *,
    block_samples: int = BLOCK_SAMPLES,
    sample_rate: int | None = None,
    stream: int = 0,
) -> Blocks:
    """Read a file from start to end in constant memory.

    Args:
        path: an audio file that soundfile or ffmpeg reads.
        block_samples: block length in samples per channel.
        sample_rate: resample to this rate in Hz; None keeps the rate of the file.
        stream: number of the audio stream in a container, from 0.

    Yields:
        float32 (channels, block_samples), the last one shorter. With `sample_rate` the blocks hold
        `resampled_length(...)` samples in all.

    Raises:
        AudioError: the file is unreadable, truncated or of zero length, or contains NaN or infinite samples.  Truncation is
            detected from the header, codec or container; .wma, raw .aac and headerless .mp3 cut between two frames look
            complete.  Missing samples are never replaced by zeros.
    """
    path = Path(path)
    if block_samples <= 0:
        raise ValueError(f"block_samples is {block_samples}; it must be positive.")
    file, ffprobe_streams = _open(path, stream)
    if file is None:
        info = ffprobe_streams[stream]
        blocks = decoders.ffmpeg_blocks(path, info, stream, block_samples)
    else:
        info = _soundfile_info(file)
        blocks = _soundfile_blocks(path, file, info, block_samples)
    with contextlib.closing(blocks):
        checked = _checked(path, blocks, info.sample_rate)
        yield from resample_blocks(checked, info.sample_rate, sample_rate or info.sample_rate, block_samples)


def resample_blocks(blocks: Iterator[np.ndarray], from_rate: int, to_rate: int, block_samples: int = BLOCK_SAMPLES) -> Blocks:
    """Resample consecutive float32 blocks (channels, n) with soxr's high-quality filter, in constant memory.

    The result does not depend on the sizes of the input blocks.  Resampling is linear: signals of equal length stay aligned, and
    the sum of two resampled signals is the resampled sum up to float32 rounding.

    Yields:
        float32 (channels, block_samples), the last one shorter; `resampled_length(...)` samples in all.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    resampler: soxr.ResampleStream | None = None
    pieces: list[np.ndarray] = []  # (n, channels); between two rounds fewer than block_samples in all.
    pending = 0
    num_channels = 1
    while True:
        block = next(blocks, None)
        if block is not None:
            num_channels = block.shape[0]
        if resampler is None:
            resampler = soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32", quality="HQ")
        chunk = np.zeros((0, num_channels), np.float32) if block is None else np.ascontiguousarray(block.T)
        pieces.append(resampler.resample_chunk(chunk, last=block is None))
        pending += len(pieces[-1])
        if pending >= block_samples or block is None:
            joined = np.concatenate(pieces)
            whole = len(joined) if block is None else pending - pending % block_samples
            for begin in range(0, whole, block_samples):
                yield np.ascontiguousarray(joined[begin : min(begin + block_samples, whole)].T)
            pieces, pending = [joined[whole:]], len(joined) - whole
        if block is None:
            return


def mean_and_deviation(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Compute mean and standard deviation (ddof = 1) over all samples of all channels, in constant memory.

    The deviation of a constant signal is given as 1, so that dividing by it leaves silence silent.

    Args:
        blocks: consecutive blocks of the signal, of any shape.
    """
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        # The update of Chan, Golub & LeVeque (1983): no cancellation in signals with an offset.
        samples = block.astype(np.float64)
        difference = samples.mean() - mean
        squares += np.square(samples - samples.mean()).sum() + difference**2 * count * samples.size / (count + samples.size)
        mean += difference * samples.size / (count + samples.size)
        count += samples.size
    deviation = math.sqrt(squares / max(count - 1, 1))
    # By rounding, a constant signal may have a small deviation.
    return mean, deviation if deviation > 1e-7 * abs(mean) else 1.0


class Writer:
    """Writer of an audio file, block by block; the file appears under its name only when it is complete.

    The blocks go to a hidden file in the same folder, which is renamed at the end of the `with` statement, or removed after an
    error.  Integer formats round to the nearest step and clip at full scale, so that PCM read by `read_blocks` is written back
    bit for bit.

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
        if suffix not in _WRITE_FORMATS:
            raise AudioError(
                f"{self.path}: cannot write {suffix or 'a file without suffix'}; use one of {', '.join(WRITE_SUFFIXES)}."
            )
        if suffix == ".ogg" and sample_rate > _OGG_MAX_RATE:
            # libsndfile 1.2 crashes there instead of refusing.
            raise AudioError(f"{self.path}: .ogg cannot hold {sample_rate} Hz, only up to {_OGG_MAX_RATE}. Write .wav or .flac.")
        container, default = _WRITE_FORMATS[suffix]
        self.subtype = subtype or default
        allowed = {"WAV": ("FLOAT", "PCM_16", "PCM_24"), "FLAC": ("PCM_24", "PCM_16")}.get(container, (default,))
        if self.subtype not in allowed:
            raise AudioError(f"{self.path}: {suffix} cannot be written as {self.subtype}; use one of {', '.join(allowed)}.")
        self._bytes_per_sample = num_channels * _PCM_BITS.get(self.subtype, 32) // 8
        self._max_samples = _WAV_MAX_BYTES // self._bytes_per_sample if container == "WAV" else None
        if self._max_samples is not None and num_samples is not None and num_samples > self._max_samples:
            container, self._max_samples = "RF64", None
        self._num_channels = num_channels
        self._written = 0
        if not self.path.parent.is_dir():
            raise AudioError(f"{self.path}: the folder {self.path.parent} does not exist. Create it first.")
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            try:
                file = soundfile.SoundFile(os.fsencode(partial), "w", sample_rate, num_channels, self.subtype, format=container)
            except (soundfile.SoundFileError, OSError) as error:
                raise AudioError(
                    f"{self.path}: {suffix} cannot hold {num_channels} channels at {sample_rate} Hz "
                    f"({decoders.reason_of(error)}). Write .wav or .flac, or resample first."
                ) from error
            self._file = stack.enter_context(file)
            self._stack = stack.pop_all()

    def write(self, block: np.ndarray) -> None:
        """Append a float block (channels, n); full scale is 1."""
        if block.ndim != 2 or block.shape[0] != self._num_channels:
            raise ValueError(f"{self.path}: a block has shape {block.shape}; it must be ({self._num_channels}, samples).")
        self._written += block.shape[1]
        if self._max_samples is not None and self._written > self._max_samples:
            raise AudioError(f"{self.path}: a .wav holds at most 4 GiB. Pass num_samples to write RF64, or write .flac.")
        # libsndfile's encoders have trouble with very long buffers.
        for begin in range(0, block.shape[1], BLOCK_SAMPLES):
            data = _quantised(block[:, begin : begin + BLOCK_SAMPLES].T, self.subtype)
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

    def _refused(self, error: BaseException) -> AudioError:
        free = shutil.disk_usage(self.path.parent).free
        return AudioError(
            f"{self.path}: cannot be written ({decoders.reason_of(error)}). The disk has {free / 1e6:.0f} MB left; is it full?"
        )


def _quantised(data: np.ndarray, subtype: str) -> np.ndarray:
    """Quantise floats for libsndfile, whose own conversion scales by 32767 in writing but 32768 in reading."""
    bits = _PCM_BITS.get(subtype)
    if bits is None:
        return data.astype(np.float32, copy=False)
    full_scale = 1 << (bits - 1)
    steps = np.clip(np.rint(data.astype(np.float64) * full_scale), -full_scale, full_scale - 1).astype(np.int32)
    return steps.astype(np.int16) if bits == 16 else steps << 8  # 24 bits are the upper ones of libsndfile's 32.


def _zero_length(path: Path) -> AudioError:
    return AudioError(f"{path}: holds no audio samples (zero length). Remove it, or record it again.")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise AudioError(f"{path}: is not a file." if path.exists() else f"{path}: does not exist.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is an empty file (0 bytes, zero length). Copy or download it again.")


def _open(path: Path, stream: int) -> tuple[soundfile.SoundFile | None, tuple[AudioInfo, ...]]:
    """Open a file with libsndfile if possible; otherwise return None and the audio streams found by ffprobe."""
    _require_file(path)
    reason = ""
    if path.suffix.lower() in _SOUNDFILE_SUFFIXES and stream == 0:
        decoders.check_complete(path)
        try:
            file = soundfile.SoundFile(os.fsencode(path))  # soundfile itself refuses names that are not UTF-8.
            # A FLAC from a pipe does not store its length: libsndfile then reports the largest integer, and fails at the end.
            if file.frames < 1 << 62:
                return file, ()
            file.close()
        except (soundfile.SoundFileError, OSError) as error:
            reason = f"libsndfile says: {decoders.reason_of(error)}; "
    if shutil.which("ffmpeg") is None and reason:
        raise AudioError(f"{path}: cannot be read as audio ({reason}ffmpeg is not installed, which reads more formats).")
    try:
        streams = decoders.ffprobe_streams(path)
    except AudioError as error:
        raise AudioError(f"{error} ({reason.rstrip('; ')})" if reason else str(error)) from error
    if stream >= len(streams):
        raise AudioError(
            f"{path}: has {len(streams)} audio stream(s), so there is no stream {stream}. Is it a complete .stem.mp4?"
        )
    return None, streams


def _soundfile_info(file: soundfile.SoundFile) -> AudioInfo:
    return AudioInfo(file.samplerate, file.channels, file.frames)


def _soundfile_blocks(path: Path, file: soundfile.SoundFile, info: AudioInfo, block_samples: int) -> Blocks:
    lossy = file.subtype in ("MPEG_LAYER_III", "MPEG_LAYER_II", "MPEG_LAYER_I", "VORBIS", "OPUS")
    # libsndfile's own conversion from 16 bit to float gives the same numbers, six times slower.
    dtype, scale = ("int16", np.float32(2**-15)) if file.subtype == "PCM_16" else ("float32", np.float32(1))
    position = 0
    with file:
        try:
            while len(data := file.read(block_samples, dtype=dtype, always_2d=True)):
                position += len(data)
                yield np.multiply(data.T, scale, order="C", dtype=np.float32)
        except (soundfile.SoundFileError, OSError) as error:
            raise decoders.truncated(
                path, f"decoding stops near {position / info.sample_rate:.2f} s ({decoders.reason_of(error)}), or it is corrupt"
            ) from error
    decoders.check_length(path, info, position, tolerance=_LOSSY_TOLERANCE if lossy else 0)


def _checked(path: Path, blocks: Iterator[np.ndarray], sample_rate: int) -> Blocks:
    position = 0
    for block in blocks:
        if not np.isfinite(block).all():
            first = int(np.argmin(np.isfinite(block).all(axis=0)))
            raise AudioError(
                f"{path}: has samples that are NaN or infinite, the first at {(position + first) / sample_rate:.3f} s. "
                "Export it again, or repair these samples."
            )
        position += block.shape[1]
        yield block
    if position == 0:
        raise _zero_length(path)
