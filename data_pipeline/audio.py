"""Reading and writing audio files in blocks: any length in flat memory, and a clear error instead of a wrong signal."""

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

__all__ = [
    "AUDIO_SUFFIXES",
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

# What libsndfile reads by itself; every other file goes through ffmpeg.
_SOUNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

AUDIO_SUFFIXES: frozenset[str] = _SOUNDFILE_SUFFIXES | {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".ac3"}
"""Suffixes, in lower case, that a search for recordings picks up."""

# The last two frames of an mp3: encoders do not agree whether its header counts them.
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
"""Suffixes that `Writer` knows."""


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` become by resampling: the exact ratio, rounded half up."""
    return (2 * num_samples * to_rate + from_rate) // (2 * from_rate)


def probe(path: str | os.PathLike[str], *, stream: int = 0) -> AudioInfo:
    """Reads the header of a file, without decoding.

    Args:
        path: an audio file.
        stream: which of its audio streams, counted from 0; only containers such as .stem.mp4 have several.

    Raises:
        AudioError: it is missing, unreadable, visibly truncated or of zero length.
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
    start: int = 0,
    stop: int | None = None,
    stream: int = 0,
) -> Blocks:
    """Reads a file from start to end in flat memory.

    Args:
        path: an audio file that soundfile or ffmpeg reads.
        block_samples: samples of a block, per channel.
        sample_rate: resample to this rate in Hz; None keeps the file's own.
        start: first sample, counted at the file's own rate.
        stop: one past the last sample, at the file's own rate; None, or more than there are, means the end.
        stream: which audio stream of a container, counted from 0.

    Yields:
        float32 (channels, block_samples), the last one shorter. With `sample_rate` the blocks hold
        `resampled_length(...)` samples in all.

    Raises:
        AudioError: the file is unreadable, truncated or of zero length, or has samples that are NaN or infinite.
            Truncation shows where the file's own header, codec or container gives it away; .wma, raw .aac and headerless
            .mp3 cut between two frames look complete. Nothing is ever padded with zeros.
    """
    path = Path(path)
    if block_samples <= 0 or start < 0 or (stop is not None and stop < start):
        raise ValueError(
            f"block_samples = {block_samples}, start = {start}, stop = {stop}: need block_samples > 0, 0 <= start <= stop."
        )
    file, ffprobe_streams = _open(path, stream)
    if file is None:
        info = ffprobe_streams[stream]
        blocks = decoders.ffmpeg_blocks(path, info, stream, block_samples, start, stop)
    else:
        info = _soundfile_info(file)
        blocks = _soundfile_blocks(path, file, info, block_samples, start, stop)
    with contextlib.closing(blocks):
        checked = _checked(path, blocks, info.sample_rate, start, stop)
        yield from resample_blocks(checked, info.sample_rate, sample_rate or info.sample_rate, block_samples)


def resample_blocks(blocks: Iterator[np.ndarray], from_rate: int, to_rate: int, block_samples: int = BLOCK_SAMPLES) -> Blocks:
    """Resamples consecutive float32 blocks (channels, n) with soxr's high quality filter, in flat memory.

    The result does not depend on the sizes of the blocks that come in, and is linear: signals of equal length stay aligned,
    and the sum of two resampled signals is the resampled sum, to float32 rounding.

    Yields:
        float32 (channels, block_samples), the last one shorter; `resampled_length(...)` samples in all.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    resampler: soxr.ResampleStream | None = None
    pieces: list[np.ndarray] = []  # (n, channels), fewer than block_samples in all between two rounds
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
    """Mean and deviation (ddof = 1) of all samples of all channels; a deviation of 1 for a constant signal."""
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        # Chan, Golub & LeVeque's update: nothing cancels in signals with an offset.
        samples = block.astype(np.float64)
        difference = samples.mean() - mean
        squares += np.square(samples - samples.mean()).sum() + difference**2 * count * samples.size / (count + samples.size)
        mean += difference * samples.size / (count + samples.size)
        count += samples.size
    deviation = math.sqrt(squares / max(count - 1, 1))
    # Rounding leaves a constant signal a deviation, too.
    return mean, deviation if deviation > 1e-7 * abs(mean) else 1.0


class Writer:
    """Writes an audio file block by block; the file appears under its name only when it is complete.

    The blocks go to a hidden file in the same folder, which is renamed at the end of the `with` statement, and removed
    where an error ends it. Integer formats are rounded to the nearest step and clipped to full scale, so that PCM that was
    read by `read_blocks` is written back bit for bit.

    Args:
        path: its suffix (.wav, .flac, .ogg, .mp3) chooses the format. The folder must exist.
        sample_rate: in Hz.
        num_channels: of every block.
        subtype: for .wav FLOAT (default), PCM_16 or PCM_24; for .flac PCM_24 (default) or PCM_16.
        num_samples: expected length; a .wav that will not fit into 4 GiB is then written as RF64.

    Raises:
        AudioError: the format is unknown or cannot hold the rate or the channels, or the disk refuses the data.
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
        self._partial = self.path.with_name(f".{self.path.name}.part")
        if not self.path.parent.is_dir():
            raise AudioError(f"{self.path}: the folder {self.path.parent} does not exist. Make it first.")
        try:
            self._file = soundfile.SoundFile(self._partial, "w", sample_rate, num_channels, self.subtype, format=container)
        except (soundfile.SoundFileError, OSError) as error:
            self._partial.unlink(missing_ok=True)
            raise AudioError(
                f"{self.path}: {suffix} cannot hold {num_channels} channels at {sample_rate} Hz ({decoders.reason_of(error)}). "
                "Write .wav or .flac, or resample first."
            ) from error

    def write(self, block: np.ndarray) -> None:
        """Appends a float block (channels, n); full scale is 1."""
        if block.ndim != 2 or block.shape[0] != self._num_channels:
            raise ValueError(f"{self.path}: a block has shape {block.shape}; it must be ({self._num_channels}, samples).")
        self._written += block.shape[1]
        if self._max_samples is not None and self._written > self._max_samples:
            raise AudioError(f"{self.path}: a .wav holds at most 4 GiB. Pass num_samples to write RF64, or write .flac.")
        # libsndfile's encoders have trouble with very long buffers, hence the short ones.
        for begin in range(0, block.shape[1], BLOCK_SAMPLES):
            data = _quantised(block[:, begin : begin + BLOCK_SAMPLES].T, self.subtype)
            try:
                self._file.write(np.ascontiguousarray(data))
            # soundfile asserts that everything was written: so a full disk shows.
            except (soundfile.SoundFileError, OSError, AssertionError) as error:
                raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                self._partial.replace(self.path)
        except (soundfile.SoundFileError, OSError) as failure:
            raise self._refused(failure) from failure
        finally:
            self._partial.unlink(missing_ok=True)

    def _refused(self, error: BaseException) -> AudioError:
        free = shutil.disk_usage(self.path.parent).free
        return AudioError(
            f"{self.path}: cannot be written ({decoders.reason_of(error)}). The disk has {free / 1e6:.0f} MB left; is it full?"
        )


def _quantised(data: np.ndarray, subtype: str) -> np.ndarray:
    """Floats as libsndfile should get them. Its own conversion scales by 32767 but reads by 32768, so PCM would not come back."""
    bits = _PCM_BITS.get(subtype)
    if bits is None:
        return data.astype(np.float32, copy=False)
    full_scale = 1 << (bits - 1)
    steps = np.clip(np.rint(data.astype(np.float64) * full_scale), -full_scale, full_scale - 1).astype(np.int32)
    return steps.astype(np.int16) if bits == 16 else steps << 8  # 24 bits sit at the top of libsndfile's 32


def _zero_length(path: Path) -> AudioError:
    return AudioError(f"{path}: holds no audio samples (zero length). Remove it, or record it again.")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise AudioError(f"{path}: is not a file." if path.exists() else f"{path}: does not exist.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is an empty file (0 bytes, zero length). Copy or download it again.")


def _open(path: Path, stream: int) -> tuple[soundfile.SoundFile | None, tuple[AudioInfo, ...]]:
    """The file opened by libsndfile where it can; otherwise None, and ffprobe's audio streams."""
    _require_file(path)
    reason = ""
    if path.suffix.lower() in _SOUNDFILE_SUFFIXES and stream == 0:
        decoders.check_complete(path)
        try:
            file = soundfile.SoundFile(path)
            # A FLAC from a pipe does not know its length: libsndfile then gives the largest integer, and fails at the end.
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


def _soundfile_blocks(
    path: Path, file: soundfile.SoundFile, info: AudioInfo, block_samples: int, start: int, stop: int | None
) -> Blocks:
    lossy = file.subtype in ("MPEG_LAYER_III", "MPEG_LAYER_II", "MPEG_LAYER_I", "VORBIS", "OPUS")
    # libsndfile's own way from 16 bit to float gives the same numbers, six times slower.
    dtype, scale = ("int16", np.float32(2**-15)) if file.subtype == "PCM_16" else ("float32", np.float32(1))
    with file:
        try:
            position = 0
            if not lossy:
                position = file.seek(min(start, file.frames))
            while position < start:  # a decoder with memory is exact only when it decodes from the beginning
                skipped = len(file.read(min(BLOCK_SAMPLES, start - position), dtype="float32", always_2d=True))
                if not skipped:
                    break
                position += skipped
            while stop is None or position < stop:
                wanted = block_samples if stop is None else min(block_samples, stop - position)
                data = file.read(wanted, dtype=dtype, always_2d=True)
                if not len(data):
                    break
                position += len(data)
                yield np.multiply(data.T, scale, order="C", dtype=np.float32)
        except (soundfile.SoundFileError, OSError) as error:
            raise decoders.truncated(
                path, f"decoding stops near {position / info.sample_rate:.2f} s ({decoders.reason_of(error)}), or it is corrupt"
            ) from error
    decoders.check_length(path, info, position, start, stop, tolerance=_LOSSY_TOLERANCE if lossy else 0)


def _checked(path: Path, blocks: Iterator[np.ndarray], sample_rate: int, start: int, stop: int | None) -> Blocks:
    position = start
    for block in blocks:
        if not np.isfinite(block).all():
            first = int(np.argmin(np.isfinite(block).all(axis=0)))
            raise AudioError(
                f"{path}: has samples that are NaN or infinite, the first at {(position + first) / sample_rate:.3f} s. "
                "Export it again, or repair those samples."
            )
        position += block.shape[1]
        yield block
    if position == 0 and stop is None:
        raise _zero_length(path)
