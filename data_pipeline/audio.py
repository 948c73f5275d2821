"""Reading and writing audio files of any length in constant memory, block by block; damaged files raise errors."""

import contextlib
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr

from data_pipeline import containers, decoders, libsndfile
from data_pipeline.audio_writer import SUBTYPES, WRITE_SUFFIXES, Overshoot, Writer
from data_pipeline.decoders import BLOCK_SAMPLES, AudioInfo, Blocks, require_ffmpeg
from data_pipeline.errors import AudioError
from data_pipeline.progress import say_once

__all__ = [
    "BLOCK_SAMPLES",
    "SUBTYPES",
    "WRITE_SUFFIXES",
    "AudioInfo",
    "Blocks",
    "Overshoot",
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

STEM_SUFFIX = ".stem.mp4"
"""Suffix of a mixture and its stems, as streams of one file."""

MAX_CHANNELS = 256
MAX_SAMPLES_PER_BYTE = 10_000
SAMPLE_RATES = (100, 1_000_000)
"""Rates in Hz, lowest and highest, of the recordings that are read."""


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
    info, _ = _open(path, stream)
    _require_plausible(path, info)
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
            detected from the header, codec or container; raw .aac, .mp2 and .ac3, headerless .mp3 and live streams cut between
            two frames look complete.  Damage is detected by checksums in Ogg, FLAC, WavPack, TTA and AC-3; elsewhere a few
            changed bits may pass.  Missing samples are never replaced by zeros.
    """
    path = Path(path)
    if block_samples <= 0:
        raise ValueError(f"block_samples is {block_samples}; it must be positive.")
    info, decode = _open(path, stream)
    _require_plausible(path, info)
    with contextlib.closing(decode(block_samples)) as blocks:
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


def _zero_length(path: Path) -> AudioError:
    return AudioError(f"{path}: holds no audio samples (zero length). Copy it again, or leave it out.")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise AudioError(f"{path}: is not a file." if path.exists() else f"{path}: does not exist.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is an empty file (0 bytes, zero length). Copy or download it again.")


def _require_plausible(path: Path, info: AudioInfo) -> None:
    """Refuse what only a damaged header says, before memory and time are spent on it."""
    if info.num_channels > MAX_CHANNELS:
        raise AudioError(
            f"{path}: has {info.num_channels} channels by its header; at most {MAX_CHANNELS} are read. If it is damaged, copy it "
            "again."
        )
    low, high = SAMPLE_RATES
    if not low <= info.sample_rate <= high:
        raise AudioError(
            f"{path}: has {info.sample_rate} Hz by its header; it must be {low} to {high} Hz. If it is damaged, copy it again."
        )
    num_samples, size = info.num_samples or info.guess or 0, path.stat().st_size
    if num_samples > MAX_SAMPLES_PER_BYTE * size:  # An hour of silence has 1,200 as WavPack, 370 as FLAC.
        raise AudioError(
            f"{path}: has {num_samples} samples by its header, more than {size} bytes can hold. It is damaged: copy it again."
        )


def _open(path: Path, stream: int) -> tuple[AudioInfo, Callable[[int], Blocks]]:
    """Open a file with libsndfile if it reads all of it, otherwise with ffmpeg; also return the function that decodes it."""
    _require_file(path)
    reason = ""
    if stream == 0 and (path.suffix.lower() in _SOUNDFILE_SUFFIXES or containers.libsndfile_reads(path)):
        try:
            source = libsndfile.source(path)
        except libsndfile.UnreadableError as error:
            reason = str(error)
        else:
            # Of other coded formats, ffmpeg knows more.
            if source.uncompressed or path.suffix.lower() in _SOUNDFILE_SUFFIXES:
                return source.info, source.blocks
    if shutil.which("ffmpeg") is None and reason:
        raise AudioError(f"{path}: cannot be read as audio ({reason}; ffmpeg is not installed, which reads more formats).")
    try:
        streams = decoders.ffprobe_streams(path)
    except AudioError as error:
        raise AudioError(f"{error} ({reason})" if reason else str(error)) from error
    if stream >= len(streams):
        raise AudioError(
            f"{path}: has {len(streams)} audio stream(s), so there is no stream {stream}. Is it a complete .stem.mp4?"
        )
    # Workers read what was checked before.
    if len(streams) > 1 and not path.name.lower().endswith(STEM_SUFFIX) and multiprocessing.parent_process() is None:
        say_once(containers.links.several_streams(path, len(streams)))
    info = streams[stream]
    strict = not containers.is_open_ended(path)
    return info, lambda block_samples: decoders.ffmpeg_blocks(path, info, stream, block_samples, strict=strict)


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
