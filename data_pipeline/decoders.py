"""Decoding for `data_pipeline.audio`: ffmpeg, ffprobe, and checks of containers whose truncation libsndfile does not notice."""

import dataclasses
import functools
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipeline.errors import AudioError

BLOCK_SAMPLES = 1 << 17
"""Default block length in samples per channel: about 3 s at 44.1 kHz."""

Blocks = Generator[np.ndarray, None, None]
"""Consecutive blocks of a signal, float32 (channels, n)."""

# Containers that store the duration; for others ffprobe estimates it from the bit rate or the file size.
_FORMATS_WITH_DURATION = frozenset({"mov", "matroska"})
# Because of priming and edit lists, a stream may decode to a few frames less than its container declares.
_CONTAINER_TOLERANCE_S = 0.25
# ffmpeg exits with success on some truncated files, but prints one of these words.
_TRUNCATION_WORDS = ("prematurely", "partial file", "truncated")


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """Format and length of an audio stream, from the header of its file.

    Attributes:
        sample_rate: in Hz.
        num_channels: 1 for mono, 2 for stereo.
        num_samples: per channel; None if only decoding can tell.  Exact for PCM and FLAC; lossy files may decode to up to 0.25 s
            less.
    """

    sample_rate: int
    num_channels: int
    num_samples: int | None


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


def truncated(path: Path, detail: str) -> AudioError:
    """Make the error for a file that ends too early."""
    return AudioError(f"{path}: is truncated: {detail}. Copy or download it again.")


def check_length(path: Path, info: AudioInfo, position: int, tolerance: float) -> None:
    """Raise AudioError if decoding ended at `position`, more than `tolerance` samples before the end that the header promises."""
    if info.num_samples is not None and info.num_samples - position > tolerance:
        raise truncated(path, f"its header promises {info.num_samples} samples, but decoding ends after {position}")


def check_complete(path: Path) -> None:
    """Raise AudioError if a RIFF, AIFF or Ogg file ends before its container does: libsndfile would silently read less."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
            _check_chunks(path, file, magic, size)
        elif magic[:4] == b"OggS":
            # An Ogg page is at most 65,307 bytes long, so the last one lies in this tail.
            file.seek(max(0, size - (1 << 17)))
            tail = file.read()
            page = tail[tail.rfind(b"OggS") :]
            complete = len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
            if not (complete and page[5] & 4):
                raise truncated(path, "its last Ogg page is incomplete or does not end the stream")


def _check_chunks(path: Path, file: IO[bytes], magic: bytes, size: int) -> None:
    order = ">" if magic[:4] in (b"RIFX", b"FORM") else "<"
    long_size: int | None = None
    while len(header := file.read(8)) == 8:
        name, length = header[:4], struct.unpack(order + "I", header[4:])[0]
        begin = file.tell()
        if name == b"ds64" and len(sizes := file.read(16)) == 16:  # RF64 stores the 64-bit length of `data` here.
            long_size = struct.unpack("<8xQ", sizes)[0]
        if name in (b"data", b"SSND"):
            # A file written to a pipe has the largest number, or none, for an unknown length.
            promised = long_size if length == 0xFFFFFFFF else length
            if promised is not None and begin + promised > size:
                raise truncated(path, f"its header promises {promised} bytes of samples, the file has {size - begin}")
            return
        file.seek(begin + length + length % 2)


def ffprobe_streams(path: Path) -> tuple[AudioInfo, ...]:
    """List the audio streams of a file; cached until the file changes."""
    status = path.stat()
    return _ffprobe_cached(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _ffprobe_cached(path: Path, size: int, mtime_ns: int) -> tuple[AudioInfo, ...]:
    del size, mtime_ns  # Only keys of the cache.
    require_ffmpeg()
    entries = "stream=sample_rate,channels,duration_ts,time_base:format=duration,format_name"
    command = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", entries, "-of", "json", f"file:{path}"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        raise AudioError(f"{path}: cannot be read as audio, or is truncated; ffprobe says: {_last_line(result.stderr, path)}.")
    report = json.loads(result.stdout)
    streams = tuple(_ffprobe_info(stream, report.get("format", {})) for stream in report.get("streams", []))
    if not streams:
        raise AudioError(f"{path}: holds no audio.")
    if any(info.sample_rate <= 0 or info.num_channels <= 0 for info in streams):
        raise AudioError(f"{path}: cannot be read as audio: ffprobe finds no sample rate.")
    return streams


def _ffprobe_info(stream: dict[str, Any], container: dict[str, Any]) -> AudioInfo:
    sample_rate = int(stream["sample_rate"])
    num_samples = None
    if _FORMATS_WITH_DURATION & set(container.get("format_name", "").split(",")):
        if "duration_ts" in stream and "time_base" in stream:
            num_samples = int(stream["duration_ts"] * Fraction(stream["time_base"]) * sample_rate)
        elif "duration" in container:
            num_samples = round(float(container["duration"]) * sample_rate)
    return AudioInfo(sample_rate, int(stream["channels"]), num_samples)


def ffmpeg_blocks(path: Path, info: AudioInfo, stream: int, block_samples: int) -> Blocks:
    """Read an audio stream with ffmpeg at its own rate; otherwise like `data_pipeline.audio.read_blocks`."""
    require_ffmpeg()
    # A few samples past the declared end are the encoder's padding.
    end = 1 << 62 if info.num_samples is None else info.num_samples
    sample_format = ["-f", "f32le", "-c:a", "pcm_f32le", "-ar", str(info.sample_rate), "-ac", str(info.num_channels)]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-threads", "1", "-i", f"file:{path}", "-map", f"0:a:{stream}"]
    # The messages go to a file: a pipe that nobody reads meanwhile would fill up and block ffmpeg.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [*command, *sample_format, "pipe:1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        assert process.stdout is not None
        bytes_per_sample = 4 * info.num_channels
        position, ended = 0, False
        try:
            while position < end and not ended:
                wanted = min(block_samples, end - position)
                data = process.stdout.read(wanted * bytes_per_sample)
                count = len(data) // bytes_per_sample
                ended = count < wanted
                if count:
                    samples = np.frombuffer(data, np.float32, count * info.num_channels)
                    yield np.ascontiguousarray(samples.reshape(count, info.num_channels).T)
                position += count
            while not ended:  # Skip the padding; then ffmpeg reports whether it succeeded.
                ended = not process.stdout.read(1 << 16)
        finally:
            if not ended:
                process.kill()
            process.stdout.close()
            process.wait()
        messages.seek(0)
        text = messages.read().decode(errors="replace")
    if process.returncode or any(word in text for word in _TRUNCATION_WORDS):
        raise truncated(
            path, f"decoding stops near {position / info.sample_rate:.2f} s ({_last_line(text, path)}), or it is corrupt"
        )
    check_length(path, info, position, tolerance=_CONTAINER_TOLERANCE_S * info.sample_rate)


def _last_line(text: str, path: Path) -> str:
    lines = [line.replace(f"file:{path}: ", "").strip().rstrip(".") for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
