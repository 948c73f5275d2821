"""Decoding for `data_pipeline.audio` with ffmpeg and ffprobe."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipeline import containers
from data_pipeline.errors import AudioError
from data_pipeline.progress import say_once

BLOCK_SAMPLES = 1 << 17
"""Default block length in samples per channel: about 3 s at 44.1 kHz."""

Blocks = Generator[np.ndarray, None, None]
"""Consecutive blocks of a signal, float32 (channels, n)."""

# Containers that store the duration of every stream.  Of others, ffprobe tells that of the longest, such as the picture, or
# estimates it from the bit rate or the size of the file.
_FORMATS_WITH_DURATION = frozenset({"mov"})
# Because of priming and edit lists, a stream may decode to a few frames less than its container declares.
_CONTAINER_TOLERANCE_S = 0.25
# A decoder may hold back its last frames at an error.
_END_S = 0.5
# ffmpeg exits with success on some truncated files, but prints one of these words.
_TRUNCATION_WORDS = ("prematurely", "partial file", "truncated")
# So it does where it skips part of a damaged Matroska file.
_DAMAGE_WORDS = ("EBML number", "exceeds containing master element")
# Codings of which ffmpeg can check a checksum per frame; unasked, it does not.  Of MPEG audio, good files may have wrong ones.
_CHECKED_CODECS = frozenset({"flac", "tta", "wavpack", "ac3", "eac3"})


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """Format and length of an audio stream, from the header of its file.

    Attributes:
        sample_rate: in Hz.
        num_channels: 1 for mono, 2 for stereo.
        num_samples: per channel, where the file states it for this stream and its bytes bear it out; None if only decoding can
            tell.  Exact for PCM and FLAC; lossy files may decode to up to 0.25 s less.
        guess: the length that the file suggests where `num_samples` is None, for progress bars and the choice of a format that
            has room; None if it suggests none.
    """

    sample_rate: int
    num_channels: int
    num_samples: int | None
    guess: int | None = None


@dataclasses.dataclass(frozen=True)
class _Stream:
    """An audio stream as ffprobe describes it.

    Attributes:
        info: its format and length.
        codec: ffmpeg's name of its coding.
        layout: ffmpeg's name of the places of its channels; None if unknown.
    """

    info: AudioInfo
    codec: str
    layout: str | None


def require_ffmpeg() -> None:
    """Raise AudioError unless both `ffmpeg` and `ffprobe` are on the PATH."""
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if missing:
        raise AudioError(
            f"{' and '.join(missing)} not found on the PATH. musdb, museval and compressed files such as .mp4 need both ffmpeg "
            "and ffprobe. Install them: `apt-get install ffmpeg`, `brew install ffmpeg` or `conda install -c conda-forge ffmpeg`."
        )


def reason_of(error: BaseException) -> str:
    """Message of an error, or the name of its class if it has none."""
    text = str(getattr(error, "error_string", error)).strip().rstrip(".")  # libsndfile's, without the file's name.
    return text or type(error).__name__


def shorter_than_promised(path: Path, promised: int, position: int) -> AudioError:
    """Make the error for a file that ends before its header says."""
    return containers.truncated(path, f"its header promises {promised} samples, but decoding ends after {position}")


def ffprobe_streams(path: Path) -> tuple[AudioInfo, ...]:
    """List the audio streams of a file; cached until the file changes."""
    return tuple(stream.info for stream in _streams(path, ("-i", f"file:{path}")))


def _streams(path: Path, source: tuple[str, ...]) -> tuple[_Stream, ...]:
    """List the audio streams of a file, or of a part of it; cached until the file changes.

    Args:
        path: an audio file.
        source: ffmpeg's arguments that open it.
    """
    status = path.stat()
    return _ffprobe_cached(path, source, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _ffprobe_cached(path: Path, source: tuple[str, ...], size: int, mtime_ns: int) -> tuple[_Stream, ...]:
    del size, mtime_ns  # Only keys of the cache.
    require_ffmpeg()
    containers.check_end(path)
    entries = "stream=codec_name,sample_rate,channels,channel_layout,duration_ts,time_base:format=duration,format_name"
    command = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", entries, "-of", "json", *source]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        raise AudioError(f"{path}: cannot be read as audio; ffprobe says: {_last_line(result.stderr, path)}.")
    report = json.loads(result.stdout)
    streams = tuple(_ffprobe_stream(stream, report.get("format", {})) for stream in report.get("streams", []))
    if not streams:
        raise AudioError(f"{path}: holds no audio.")
    if any(stream.info.sample_rate <= 0 or stream.info.num_channels <= 0 for stream in streams):
        raise AudioError(f"{path}: cannot be read as audio: ffprobe finds no sample rate.")
    return streams


def _ffprobe_stream(stream: dict[str, Any], container: dict[str, Any]) -> _Stream:
    sample_rate = int(stream["sample_rate"])
    num_samples = None
    stated = _FORMATS_WITH_DURATION & set(container.get("format_name", "").split(","))
    if stated and "duration_ts" in stream and "time_base" in stream:
        num_samples = int(stream["duration_ts"] * Fraction(stream["time_base"]) * sample_rate)
    guess = None
    if num_samples is None and "duration" in container:
        guess = round(float(container["duration"]) * sample_rate)
    layout = stream.get("channel_layout", "unknown")
    if places := re.fullmatch(r"\d+ channels \((.+)\)", layout):
        layout = places[1]  # Without a name of its own.
    info = AudioInfo(sample_rate, int(stream["channels"]), num_samples, guess)
    return _Stream(info, stream.get("codec_name", ""), None if layout == "unknown" else layout)


def ffmpeg_blocks(
    path: Path,
    info: AudioInfo,
    stream: int,
    block_samples: int,
    *,
    strict: bool = True,
    span: tuple[str, int, int] | None = None,
    before: int = 0,
) -> Blocks:
    """Read an audio stream with ffmpeg at its own rate; otherwise like `data_pipeline.audio.read_blocks`.

    Args:
        path: an audio file.
        info: of the stream.
        stream: its number among the audio streams.
        block_samples: block length in samples per channel.
        strict: fail at what ffmpeg takes for damage, as it does the last packet where a header leaves the length open.
        span: read only part of the file: its format as ffmpeg names it, first byte and end.
        before: number of samples that lie before them, for messages.
    """
    require_ffmpeg()
    source = ["-i", f"file:{path}"]
    if span is not None:
        source = ["-f", span[0], "-i", f"subfile,,start,{span[1]},end,{span[2]},,:file:{path}"]
    found = _streams(path, tuple(source))[stream]
    sample_format = ["-f", "f32le", "-c:a", "pcm_f32le", "-ar", str(info.sample_rate), *_channels(info, found)]
    arguments = ["-threads", "1", *source, "-map", f"0:a:{stream}", *sample_format, "pipe:1"]
    checks = ["-xerror"] if strict else []
    if strict and found.codec in _CHECKED_CODECS:
        checks += ["-err_detect:a", "crccheck+explode"]
    command = ["ffmpeg", "-nostdin", "-v", "error", *checks, *arguments]
    # The messages go to a file: a pipe that nobody reads meanwhile would fill up and block ffmpeg.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout is not None
        decoded, ended = 0, False
        try:
            for block in _without_padding(_blocks_of(process.stdout, info.num_channels, block_samples), info, block_samples):
                decoded += block.shape[1]
                yield block
            ended = True
        finally:
            if not ended:
                process.kill()
            process.stdout.close()
            process.wait()
        messages.seek(0)
        text = messages.read().decode(errors="replace")
    reason = _last_line(text, path)
    if any(word in text for word in _TRUNCATION_WORDS) or (process.returncode and decoded and _is_end(arguments, info, decoded)):
        raise containers.truncated(path, f"decoding ends near {(before + decoded) / info.sample_rate:.2f} s ({reason})")
    if process.returncode and before + decoded == 0:
        raise AudioError(f"{path}: cannot be decoded; ffmpeg says: {reason}. Convert it with the program that made it.")
    if process.returncode:
        raise containers.damaged(path, (before + decoded) / info.sample_rate, reason)
    skipped = [line for line in text.splitlines() if any(word in line for word in _DAMAGE_WORDS)]
    if strict and skipped:
        raise containers.damaged(path, None, f"ffmpeg says: {_last_line(skipped[0], path)}")
    _check_length(path, info, decoded)


def _channels(info: AudioInfo, found: _Stream) -> list[str]:
    """Arguments for ffmpeg that keep each channel as it is, and their number also where it changes within the file.

    Given only a number, ffmpeg assumes its default layout, and mixes the channels of any other layout into that.
    """
    if found.layout is not None and found.info.num_channels == info.num_channels:
        return ["-channel_layout", found.layout]
    return ["-ac", str(info.num_channels)]


def _is_end(arguments: list[str], info: AudioInfo, decoded: int) -> bool:
    """Whether ffmpeg, told to go on behind errors, finds hardly more than what it decoded before the first one."""
    if info.num_samples is not None:
        return False  # What its container states is there, see `containers.check_end`.
    command = ["ffmpeg", "-nostdin", "-v", "quiet", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        whole = sum(block.shape[1] for block in _blocks_of(process.stdout, info.num_channels, BLOCK_SAMPLES))
    return 0 < whole < decoded + _END_S * info.sample_rate


def _blocks_of(pipe: IO[bytes], num_channels: int, block_samples: int) -> Blocks:
    while data := pipe.read(block_samples * 4 * num_channels):
        count = len(data) // (4 * num_channels)
        samples = np.frombuffer(data, np.float32, count * num_channels)
        yield np.ascontiguousarray(samples.reshape(count, num_channels).T)


def _without_padding(blocks: Blocks, info: AudioInfo, block_samples: int) -> Blocks:
    """Cut a signal at its declared end if the encoder's padding is all that follows; if more does, the declaration is wrong."""
    if info.num_samples is None:
        yield from blocks
        return
    end, padding = info.num_samples, round(_CONTAINER_TOLERANCE_S * info.sample_rate)
    position = 0
    held: list[np.ndarray] = []
    for block in blocks:
        position += block.shape[1]
        held.append(block)
        if position <= end or position > end + padding:
            yield from held
            held = []
    for block in held:
        position -= block.shape[1]
    for block in held:
        if position < end:
            yield np.ascontiguousarray(block[:, : end - position])
        position += block.shape[1]


def _check_length(path: Path, info: AudioInfo, position: int) -> None:
    """Raise AudioError if ffmpeg decoded less than the container declares; say so if it decoded more."""
    if info.num_samples is None:
        return
    tolerance = _CONTAINER_TOLERANCE_S * info.sample_rate
    if info.num_samples - position > tolerance:
        raise shorter_than_promised(path, info.num_samples, position)
    if position - info.num_samples > tolerance:
        declared, decoded = info.num_samples / info.sample_rate, position / info.sample_rate
        say_once(f"{path}: its container declares {declared:.2f} s, but it holds {decoded:.2f} s; all are read.")


def _last_line(text: str, path: Path) -> str:
    lines = [line.replace(f"file:{path}: ", "").strip().rstrip(".") for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
