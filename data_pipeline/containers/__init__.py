"""Length and completeness of an audio file, found in its bytes without decoding."""

import functools
from collections.abc import Callable
from pathlib import Path

from data_pipeline.containers import chunks, flac, links, mpeg, ogg
from data_pipeline.containers.links import Bytes, Contents, Link, damaged, joined, truncated

__all__ = [
    "Contents",
    "Link",
    "check_end",
    "chunks",
    "contents",
    "damaged",
    "flac",
    "is_open_ended",
    "joined",
    "libsndfile_reads",
    "links",
    "mpeg",
    "ogg",
    "truncated",
]

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # Its object of file properties.
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def contents(path: Path) -> Contents:
    """Find the recordings of a file in a format that libsndfile reads; cached until the file changes.

    Raises:
        AudioError: the file ends too early, or it holds recordings of different formats.
    """
    status = path.stat()
    return _contents(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _contents(path: Path, size: int, mtime_ns: int) -> Contents:
    del mtime_ns  # Only a key of the cache.
    with path.open("rb") as file:
        data = Bytes(file)
        begin = mpeg.id3_length(data[:10]) if data[:3] == b"ID3" and size > 10 else 0
        found: Contents | None = None
        if kind := chunks.kind_of(data):
            found = chunks.contents(path, data, kind)
        elif data[:4] == b"OggS":
            found = ogg.contents(path, data)
        elif data[begin : begin + 4] == b"fLaC":
            found = flac.contents(data, begin)
        elif path.suffix.lower() == ".mp3" or mpeg.begins(data, begin):
            found = mpeg.contents(path, data, begin)
        return found or Contents((Link(0, size),))


def is_open_ended(path: Path) -> bool:
    """Whether the header of a WAV or a relative of it leaves open how many bytes of samples follow."""
    return any(link.samples is not None for link in contents(path).links)


def libsndfile_reads(path: Path) -> bool:
    """Whether the header is of a format that libsndfile reads, whatever the suffix."""
    with path.open("rb") as file:
        data = Bytes(file)
        return bool(chunks.kind_of(data))


def check_end(path: Path) -> None:
    """Check where a file ends that only ffmpeg reads, since ffmpeg says nothing of a second recording and little of truncation.

    Raises:
        AudioError: the file ends too early, or a second recording follows the first.
    """
    status = path.stat()
    _check_end(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _check_end(path: Path, size: int, mtime_ns: int) -> None:
    del size, mtime_ns  # Only keys of the cache.
    checks: dict[bytes, Callable[[Path, Bytes], None]] = {_EBML: _check_matroska, _ASF[:4]: _check_asf, b"TTA1": _check_second}
    checks[b"wvpk"] = _check_wavpack
    with path.open("rb") as file:
        data = Bytes(file)
        check = _check_mp4 if data[4:8] == b"ftyp" else checks.get(data[:4])
        if check is not None:
            check(path, data)


def _check_matroska(path: Path, data: Bytes) -> None:
    header, size = _element(data, 4)
    begin, segment = _element(data, header + size + 4) if size is not None else (0, None)
    if size is None or data[header + size : header + size + 4] != _SEGMENT:
        return
    # A live stream leaves the length open.
    end = data.find(data[: min(header + size, 64)], begin) if segment is None else begin + segment
    if end > len(data):
        raise truncated(path, f"its header promises {end} bytes, the file has {len(data)}")
    if end > 0 and data[end : end + 4] == _EBML:
        raise joined(path, end)


def _element(data: Bytes, position: int) -> tuple[int, int | None]:
    """First byte and length of the content of an EBML element whose length stands here; a length of None is unknown."""
    first = data.number(position, 1, "big")
    if not first:
        return position, None
    num_bytes = 9 - first.bit_length()
    value = data.number(position, num_bytes, "big") & ((1 << 7 * num_bytes) - 1)
    return position + num_bytes, None if value == (1 << 7 * num_bytes) - 1 else value


def _check_asf(path: Path, data: Bytes) -> None:
    _check_second(path, data)
    at = data.find(_ASF_FILE, 0, 1 << 20)
    if at < 0 or at + 92 > len(data):
        return
    size, flags = data.number(at + 40, 8, "little"), data.number(at + 88, 4, "little")
    if flags & 1:  # A live stream, whose length is unknown.
        return
    if size > len(data):
        raise truncated(path, f"its header promises {size} bytes, the file has {len(data)}")
    _check_asf_packets(path, data, data.number(16, 8, "little"), data.number(at + 92, 4, "little"))


def _check_asf_packets(path: Path, data: Bytes, begin: int, size: int) -> None:
    """Check the first byte of each packet, since ffmpeg skips one that is zeroed without a word.

    Args:
        path: of the file.
        data: its bytes.
        begin: first byte of the data object.
        size: bytes of each packet.
    """
    first, count = begin + 50, data.number(begin + 40, 8, "little")
    # Nearly all files have 2 bytes for error correction in each packet.  Without, packets may begin with any byte.
    if data[begin : begin + 16] != _ASF_DATA or size < 64 or data.number(first, 1, "big") & 0x8F != 0x82:
        return
    for packet in range(first, min(first + count * size, len(data)), size):
        if data.number(packet, 1, "big") & 0x8F != 0x82:
            raise damaged(path, None, f"no ASF packet begins at byte {packet}, where one is due")


def _check_second(path: Path, data: Bytes) -> None:
    second = data.find(data[:14], 14)
    if second > 0:
        raise joined(path, second)


def _check_wavpack(path: Path, data: Bytes) -> None:
    position, last = 0, 0
    while (position := data.find(b"wvpk", position)) >= 0 and position + 32 <= len(data):
        size, index = data.number(position + 4, 4, "little"), data.number(position + 16, 4, "little")
        if index < last:  # Each block states its first sample.
            raise joined(path, position)
        position, last = position + 8 + size, index


def _check_mp4(path: Path, data: Bytes) -> None:
    position = 0
    while position + 16 <= len(data):
        size, name = data.number(position, 4, "big"), data[position + 4 : position + 8]
        if size == 1:
            size = data.number(position + 8, 8, "big")
        if name == b"ftyp" and position:
            raise joined(path, position)
        if size < 8:
            return  # 0: the last box, as long as the file.
        position += size
        if position > len(data) and name in (b"moof", b"mdat", b"moov"):
            raise truncated(path, f"its last box ends at byte {position}, the file has {len(data)}")
