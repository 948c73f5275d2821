"""The recordings in an audio file, one behind the other, by their bytes: before anything is decoded."""

import dataclasses
import re
from pathlib import Path
from typing import BinaryIO, Literal

from data_pipeline.errors import AudioError

_WINDOW, _OVERLAP = 1 << 18, 64


class Bytes:
    """The bytes of a file, read where they are looked at.

    Not mapped into memory: where a disk fails, or a file shrinks meanwhile, that ends the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._window, self._at = b"", 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        begin, end = span.start or 0, min(span.stop, self._size)
        if begin >= end:
            return b""
        if begin < self._at or end > self._at + len(self._window):
            self._file.seek(begin)
            self._window, self._at = self._file.read(max(_WINDOW, end - begin)), begin
        return self._window[begin - self._at : end - self._at]

    def number(self, at: int, num_bytes: int, order: Literal["little", "big"]) -> int:
        """Return the unsigned integer at a byte; the bytes behind the end of the file count as missing."""
        return int.from_bytes(self[at : at + num_bytes], order)

    def search(self, pattern: re.Pattern[bytes], begin: int = 0, end: int | None = None) -> int:
        """Find the first match, of up to 64 bytes, that begins at `begin` or later; -1 if there is none."""
        end = len(self) if end is None else min(end, len(self))
        while begin < end:
            match = pattern.search(self[begin : min(begin + _WINDOW, end)])
            if match:
                return begin + match.start()
            begin += _WINDOW - _OVERLAP
        return -1

    def find(self, text: bytes, begin: int = 0, end: int | None = None) -> int:
        """Find the first occurrence of up to 64 bytes that begins at `begin` or later; -1 if there is none."""
        end = len(self) if end is None else min(end, len(self))
        while begin < end:
            at = self[begin : min(begin + _WINDOW, end)].find(text)
            if at >= 0:
                return begin + at
            begin += _WINDOW - _OVERLAP
        return -1


@dataclasses.dataclass(frozen=True)
class Link:
    """One of the recordings that a file holds one behind the other.  Nearly every file holds one.

    Attributes:
        begin: first byte.
        end: byte behind the last.
        samples: first byte and byte behind the last of samples whose number the header leaves open: the file comes from a pipe,
            or from a recorder that was killed.  None where the header tells it.
        least: number of samples per channel that its frames hold, if they were counted.
        stated: whether its header, too, tells the length.
        raw: libsndfile's subtype, byte order, rate in Hz and channels, where libsndfile itself cannot read the header.
    """

    begin: int
    end: int
    samples: tuple[int, int] | None = None
    least: int | None = None
    stated: bool = True
    raw: tuple[str, str, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Contents:
    """The recordings of a file, in order, and what to tell the user about it."""

    links: tuple[Link, ...]
    notes: tuple[str, ...] = ()


def several_streams(path: Path, count: int) -> str:
    """The line that only the first of several audio streams is read."""
    return (
        f"{path}: has {count} audio streams, of which the first is read. `ffmpeg -i FILE -map 0:a:1 OUT.wav` extracts the second."
    )


def truncated(path: Path, detail: str) -> AudioError:
    """Make the error for a file that ends too early."""
    return AudioError(f"{path}: is truncated: {detail}. Copy or download it again.")


def damaged(path: Path, at_s: float | None, reason: str) -> AudioError:
    """Make the error for a file that does not end here, but cannot be decoded from a time on; None if the time is unknown."""
    place = f"is damaged: {reason}" if at_s is None else f"is damaged near {at_s:.2f} s: decoding fails there ({reason})"
    return AudioError(f"{path}: {place}. Copy or download it again, or export it again.")


def joined(path: Path, at: int, first: tuple[int, int] | None = None, second: tuple[int, int] | None = None) -> AudioError:
    """Make the error for a file of several recordings that cannot be read as one.

    Args:
        path: of the file.
        at: first byte of the second recording.
        first: rate in Hz and number of channels of the first one, if they are the reason.
        second: those of the second.
    """
    reason = "which ffmpeg does not read"
    if first is not None and second is not None:
        reason = f"of {second[0]} Hz and {second[1]} channel(s) behind one of {first[0]} Hz and {first[1]}"
    return AudioError(
        f"{path}: holds a second recording, from byte {at} on, {reason}. Split it there: `head -c {at}`, `tail -c +{at + 1}`."
    )
