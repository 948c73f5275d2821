"""What the bytes of an audio file say about its length, before anything is decoded."""

import dataclasses
import mmap
from pathlib import Path

from data_pipeline.errors import AudioError

Bytes = mmap.mmap
"""A file, read where it is looked at."""


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


def truncated(path: Path, detail: str) -> AudioError:
    """Make the error for a file that ends too early."""
    return AudioError(f"{path}: is truncated: {detail}. Copy or download it again.")


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
