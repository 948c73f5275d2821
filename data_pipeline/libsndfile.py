"""Decoding for `data_pipeline.audio` with libsndfile, whose idea of a file's length is compared with the file's bytes."""

import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline import containers, decoders
from data_pipeline.containers import Link
from data_pipeline.decoders import BLOCK_SAMPLES, AudioInfo, Blocks, reason_of, shorter_than_promised
from data_pipeline.errors import AudioError
from data_pipeline.progress import say_once

ERRORS = (soundfile.SoundFileError, OSError, AssertionError, ValueError)
"""Errors of soundfile; an AssertionError where fewer samples were read or written than asked for, a ValueError where libsndfile
read past the end that it had announced."""

_LOSSY = frozenset({"MPEG_LAYER_III", "MPEG_LAYER_II", "MPEG_LAYER_I", "VORBIS", "OPUS"})
# The last two frames of an mp3: encoders disagree whether the header counts them.
_LOSSY_TOLERANCE = 2 * 1152
_END_S = 10.0  # An Ogg page holds at most some seconds; what ffmpeg decodes in place of libsndfile is kept in memory.
_UNKNOWN_LENGTH = 1 << 62  # A FLAC from a pipe: libsndfile reports the largest integer, and fails at the end.
VORBIS_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4), 8: (0, 2, 1, 7, 5, 6, 3, 4)}
"""By number of channels, the channels of Ogg Vorbis in the order of WAV and FLAC, which all other formats are decoded to.  Vorbis
has the centre second and the low frequencies last (Vorbis I specification, section 4.3.9); libsndfile leaves them so."""

_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}


class UnreadableError(Exception):
    """libsndfile does not read the file, or not all of it; the message is the reason.  ffmpeg may do better."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A file that libsndfile reads, alone or with ffmpeg for some of the recordings in it.

    Attributes:
        path: of the file.
        info: rate, channels and length of all its recordings.
        subtype: libsndfile's name of the coding, of the first one.
        links: its recordings.
        by_ffmpeg: those of which libsndfile would read less than there is.
        least: number of samples that are certainly there.
    """

    path: Path
    info: AudioInfo
    subtype: str
    links: tuple[Link, ...]
    by_ffmpeg: frozenset[Link]
    least: int

    @property
    def uncompressed(self) -> bool:
        """Whether the samples are stored one by one."""
        return self.subtype in _BYTES

    def blocks(self, block_samples: int) -> Blocks:
        """Decode the file; like `data_pipeline.audio.read_blocks`."""
        with contextlib.closing(self._complete_blocks(block_samples)) as blocks:
            yield from _regrouped(blocks, block_samples)

    def _complete_blocks(self, block_samples: int) -> Blocks:
        position, last = 0, None
        with contextlib.closing(self._link_blocks(block_samples)) as blocks:
            for last in blocks:
                position += last.shape[1]
                yield last
        if self.least - position > (_LOSSY_TOLERANCE if self.subtype in _LOSSY else 0):
            failure = self._failure(self.links[0], 0, position, self.least, "the decoder stops")
            if self.subtype != "VORBIS" or last is None or self.least - position > _END_S * self.info.sample_rate:
                raise failure
            yield self._end(last, position, failure)

    def _end(self, last: np.ndarray, position: int, failure: AudioError) -> np.ndarray:
        """Decode the end of an Ogg Vorbis file with ffmpeg: libsndfile stops at the first page that calls itself the last.

        Args:
            last: the last block that libsndfile decoded, (channels, n).
            position: number of samples that it decoded in all.
            failure: raised if ffmpeg decodes no more, or decodes `last` otherwise.
        """
        decoders.require_ffmpeg()
        begin, end, kept = position - last.shape[1], 0, [last[:, :0]]
        try:
            for block in decoders.ffmpeg_blocks(self.path, dataclasses.replace(self.info, num_samples=None), 0, BLOCK_SAMPLES):
                if end + block.shape[1] > begin:
                    kept.append(block[:, max(begin - end, 0) :])
                end += block.shape[1]
        except AudioError:
            raise failure from None
        found = np.concatenate(kept, axis=1)
        if end < self.least - _LOSSY_TOLERANCE or not np.allclose(found[:, : last.shape[1]], last, atol=1e-4):
            raise failure
        return found[:, last.shape[1] :]

    def _link_blocks(self, block_samples: int) -> Blocks:
        position = 0
        for link in self.links:
            decode = self._ffmpeg_blocks if link in self.by_ffmpeg else self._libsndfile_blocks
            for block in decode(link, block_samples, position):
                position += block.shape[1]
                yield block

    def _ffmpeg_blocks(self, link: Link, block_samples: int, before: int) -> Blocks:
        info = dataclasses.replace(self.info, num_samples=None)
        span = ("mp3" if self.subtype.startswith("MPEG") else "flac", link.begin, link.end)
        return decoders.ffmpeg_blocks(self.path, info, 0, block_samples, span=span, before=before)

    def _libsndfile_blocks(self, link: Link, block_samples: int, before: int) -> Blocks:
        position = 0
        with _opened(self.path, link, len(self.links) == 1) as file:
            # libsndfile's own conversion from 16 bit to float gives the same numbers, six times slower.
            dtype, scale = ("int16", np.float32(2**-15)) if file.subtype == "PCM_16" else ("float32", np.float32(1))
            order = VORBIS_ORDER.get(file.channels) if file.subtype == "VORBIS" else None
            try:
                while len(data := file.read(block_samples, dtype=dtype, always_2d=True)):
                    position += len(data)
                    with np.errstate(invalid="ignore"):  # A signalling NaN, which the caller finds.
                        block = np.multiply(data.T, scale, order="C", dtype=np.float32)
                    yield block if order is None else block[list(order)]
            except ERRORS as error:
                raise self._failure(link, before, position, file.frames, reason_of(error)) from error

    def _failure(self, link: Link, before: int, position: int, promised: int, reason: str) -> AudioError:
        """The file is damaged if its last sample is there, and truncated if it is not.

        Args:
            link: the recording of which decoding failed.
            before: number of samples before it.
            position: number of its samples that were decoded, in whole blocks.
            promised: number of its samples.
            reason: message of the decoder.
        """
        sole, last = len(self.links) == 1, link.least is not None  # Frames that were counted are there.
        with contextlib.suppress(*ERRORS), _opened(self.path, link, sole) as file:
            file.seek(file.frames - 1)
            last = last or len(file.read(1)) > 0
        with contextlib.suppress(*ERRORS), _opened(self.path, link, sole) as file:
            file.seek(position)
            while count := len(file.read(1024)):
                position += count
        if last:
            return containers.damaged(self.path, (before + position) / self.info.sample_rate, reason)
        return shorter_than_promised(self.path, before + promised, before + position)


def _regrouped(blocks: Iterator[np.ndarray], block_samples: int) -> Blocks:
    """Bring blocks to a length of `block_samples`, all but the last, which may be shorter."""
    held = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        while held is not None and held.shape[1] >= block_samples:
            yield np.ascontiguousarray(held[:, :block_samples])
            held = held[:, block_samples:] if held.shape[1] > block_samples else None
    if held is not None:
        yield held


def source(path: Path) -> Source:
    """Open a file with libsndfile, and compare the length it finds with what the file's bytes say; cached until it changes.

    Raises:
        AudioError: the file is truncated, or holds recordings of different formats.
        UnreadableError: libsndfile does not read it, or would read less than there is.
    """
    status = path.stat()
    found = _source(path, status.st_size, status.st_mtime_ns)
    if isinstance(found, str):
        raise UnreadableError(found)
    return found


@functools.lru_cache(maxsize=4096)
def _source(path: Path, size: int, mtime_ns: int) -> Source | str:
    del size, mtime_ns  # Only keys of the cache.
    found = containers.contents(path)
    lengths: list[int | None] = []
    certain: list[int] = []
    by_ffmpeg: set[Link] = set()
    formats: list[tuple[int, int, str]] = []
    for link in found.links:
        try:
            with _opened(path, link, len(found.links) == 1) as file:
                reason, length, least = _length(file, link)
                # Of some codings libsndfile reads the header only.
                if not reason and length and file.subtype not in _BYTES:
                    file.read(1)
        except ERRORS as error:
            return f"libsndfile says: {reason_of(error)}"
        if reason and link.least is None:
            return reason
        if reason:
            by_ffmpeg.add(link)
        formats.append((file.samplerate, file.channels, file.subtype))
        if formats[-1][:2] != formats[0][:2]:
            raise containers.joined(path, link.begin, formats[0][:2], formats[-1][:2])
        lengths.append(length)
        certain.append(least)
    sample_rate, num_channels, subtype = formats[0]
    if multiprocessing.parent_process() is None:  # Workers read what was checked before.
        for note in found.notes:
            say_once(note)
        if sum(least > 0 for least in certain) > 1:
            seconds = " + ".join([f"{least / sample_rate:.2f}" for least in certain[:5]] + ["..."] * (len(certain) > 5))
            say_once(f"{path}: holds {len(certain)} recordings, one behind the other ({seconds} s); all are read, as one.")
    num_samples = None if None in lengths else sum(length for length in lengths if length is not None)
    info = AudioInfo(sample_rate, num_channels, num_samples, sum(certain) if num_samples is None else None)
    return Source(path, info, subtype, found.links, frozenset(by_ffmpeg), sum(certain))


def check_written(path: Path, num_samples: int) -> None:
    """Check a file that was just written, by its header, its container and its last seconds.

    All before those passed through writes whose outcome is known; what an encoder writes while it is closed does not, and
    libsndfile is silent when a full disk refuses it.

    Args:
        path: .wav, .flac, .ogg or .mp3.
        num_samples: number of samples per channel that were written.

    Raises:
        AudioError: the file ends too early.
        UnreadableError: it cannot be read.
    """
    if num_samples == 0:
        return
    counted = containers.contents(path).links[0].least
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            length, lossy = file.frames, file.subtype in _LOSSY
            begin = max(0, length - BLOCK_SAMPLES)
            file.seek(begin)
            position = begin + len(file.read(BLOCK_SAMPLES))
    except ERRORS as error:
        raise UnreadableError(reason_of(error)) from error
    if length < num_samples or (length > num_samples and not lossy) or (counted is not None and counted < num_samples):
        raise UnreadableError(f"its header tells {length} samples of {num_samples}")
    if position < length:
        raise UnreadableError(f"it can be decoded up to sample {position} of {length}")


def _length(file: soundfile.SoundFile, link: Link) -> tuple[str, int | None, int]:
    """Why libsndfile does not read all of a recording, or ""; its length, or None; and the number of samples certainly there."""
    if file.frames >= _UNKNOWN_LENGTH:
        return "its header leaves the length open", None, 0
    if file.subtype == "OPUS" and file.channels > 2:
        return "libsndfile does not read surround Opus to its end", None, 0
    if link.least is None and file.subtype.startswith("MPEG") and file.format != "MP3":
        return "libsndfile guesses its length from the bit rate", None, 0  # MP3 in WAV.
    if link.samples is not None:
        if file.subtype not in _BYTES:  # libsndfile looks at the size of the file, except where the header says 0.
            return ("", file.frames, file.frames) if file.frames else ("its header leaves the length open", None, 0)
        there = (link.samples[1] - link.samples[0]) // (_BYTES[file.subtype] * file.channels)
        return (
            ("", file.frames, there) if file.frames == there else (f"its header tells {file.frames} of {there} samples", None, 0)
        )
    if link.least is None:
        return "", file.frames, file.frames
    if file.frames < link.least - _LOSSY_TOLERANCE:
        return f"libsndfile expects {file.frames} of {link.least} samples", None, link.least
    if link.stated and file.frames <= link.least + _LOSSY_TOLERANCE:
        return "", file.frames, file.frames
    # A guess from the bit rate; but libsndfile reads to the end of the frames.
    return "", None, link.least


@contextlib.contextmanager
def _opened(path: Path, link: Link, sole: bool) -> Iterator[soundfile.SoundFile]:
    """Open one of the recordings of a file."""
    with contextlib.ExitStack() as stack:
        if sole and link.samples is None:
            yield stack.enter_context(soundfile.SoundFile(os.fsencode(path)))
            return
        raw = link.raw if link.samples is not None else None
        if raw is None:
            part: bytes | io.RawIOBase = os.fsencode(path) if sole else stack.enter_context(_Slice(path, link.begin, link.end))
            file = stack.enter_context(soundfile.SoundFile(part))
            if link.samples is None or file.subtype not in _BYTES:
                yield file
                return
            if file.frames == (link.samples[1] - link.samples[0]) // (_BYTES[file.subtype] * file.channels):
                yield file  # libsndfile itself looked at the size of the file.
                return
            big = (file.format in ("AIFF", "CAF", "AU") or _magic(path, link.begin) == b"RIFX") and file.endian != "LITTLE"
            raw = file.subtype, "BIG" if big else "LITTLE", file.samplerate, file.channels
        subtype, endian, sample_rate, num_channels = raw
        assert link.samples is not None
        samples = stack.enter_context(_Slice(path, *link.samples))
        yield stack.enter_context(soundfile.SoundFile(samples, "r", sample_rate, num_channels, subtype, endian, format="RAW"))


def _magic(path: Path, begin: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(4)


class _Slice(io.RawIOBase):
    """Bytes of a file, as a file."""

    def __init__(self, path: Path, begin: int, end: int) -> None:
        super().__init__()
        self._file = io.BufferedReader(io.FileIO(path), 1 << 16)
        self._begin, self._end = begin, end
        self._file.seek(begin)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}[whence]
        return self._file.seek(max(self._begin, start + offset)) - self._begin

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        room = max(0, min(len(buffer), self._end - self._file.tell()))
        return self._file.readinto(memoryview(buffer)[:room])

    def close(self) -> None:
        self._file.close()
        super().close()
