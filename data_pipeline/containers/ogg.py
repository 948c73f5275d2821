"""Ogg: its pages, which are checked, the streams that follow each other (`cat a.ogg b.ogg`), and its end."""

import dataclasses
import zlib
from pathlib import Path

from data_pipeline.containers.links import Bytes, Contents, Link, damaged, several_streams, truncated

_BEGINS, _ENDS = 2, 4  # Flags of the first and of the last page of a stream.
_HEAD = 27  # Bytes of a page before the table of its segments.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclasses.dataclass
class _Stream:
    """A stream up to the page that was read last.

    Attributes:
        rate: of its granule positions in Hz; 0 where it is no audio, or of another codec.
        sequence: number that its next page must have.
        granule: the last position stated: samples so far; 0 in the headers.
    """

    rate: int
    sequence: int = 0
    granule: int = 0


def contents(path: Path, data: Bytes) -> Contents:
    """Find the streams of an Ogg file that follow each other, and check each page.

    Of streams that follow each other, libsndfile reads the first one only.  Decoders skip damaged pages without a word.

    Raises:
        AudioError: a page is damaged or missing, the last page is incomplete, or does not end its stream.
    """
    begins: list[int] = []
    streams: dict[bytes, _Stream] = {}  # By serial number.
    between = True  # Whether the pages so far begin streams that play at the same time: sound and picture.
    end, flags, complete, before_s = 0, 0, False, 0.0
    while (begin := data.find(b"OggS", end)) >= 0:
        head = data[begin : begin + _HEAD]
        # Between two recordings there may be tags.
        if begin > end and not (flags & _ENDS and head[5:6] and head[5] & _BEGINS):
            raise damaged(path, _seconds(streams, before_s), f"bytes {end} to {begin - 1} are no Ogg page")
        page = _page(data, begin)
        complete = page is not None
        if page is None:
            if data.find(b"OggS", begin + 4) >= 0:
                raise damaged(path, _seconds(streams, before_s), f"the Ogg page at byte {begin} states a wrong length")
            break
        if _checksum(page) != int.from_bytes(page[22:26], "little"):
            raise damaged(path, _seconds(streams, before_s), f"the Ogg page at byte {begin} has a wrong checksum")
        flags, serial = page[5], page[14:18]
        if flags & _BEGINS:
            if not begins or not between:
                begins.append(begin)
                before_s, streams = _seconds(streams, before_s) or 0.0, {}
            streams[serial] = _Stream(_rate(page[_HEAD + page[26] :]))
        between = bool(flags & _BEGINS)
        if not _continues(streams.setdefault(serial, _Stream(0)), page):
            raise damaged(path, _seconds(streams, before_s), f"Ogg pages are missing before byte {begin}")
        end = begin + len(page)
    if not (complete and flags & _ENDS):
        raise truncated(path, "its last Ogg page is incomplete or does not end the stream")
    begins = begins or [0]  # The flag of the first page is missing: libsndfile says the rest.
    count = sum(stream.rate > 0 for stream in streams.values())
    notes = (several_streams(path, count),) if count > 1 else ()
    return Contents(tuple(Link(*span) for span in zip(begins, [*begins[1:], len(data)], strict=True)), notes)


def _page(data: Bytes, begin: int) -> bytes | None:
    """Bytes of the page that begins at a byte; None if the file ends within it."""
    head = data[begin : begin + _HEAD]
    if len(head) < _HEAD:
        return None
    table = data[begin + _HEAD : begin + _HEAD + head[26]]
    size = _HEAD + head[26] + sum(table)
    page = data[begin : begin + size]
    return page if len(table) == head[26] and len(page) == size else None


def _checksum(page: bytes) -> int:
    """CRC-32 of a page (RFC 3533, section 6), by zlib's, which takes the bits of each byte in reverse and inverts twice."""
    plain = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    return int(f"{zlib.crc32(plain, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _rate(packet: bytes) -> int:
    """Rate in Hz of the granule positions of a stream, from its first packet; 0 if unknown."""
    if packet.startswith(b"OpusHead"):
        return 48_000
    if packet.startswith(b"\x01vorbis"):
        return int.from_bytes(packet[12:16], "little")
    if packet.startswith(b"\x7fFLAC"):
        return int.from_bytes(packet[27:30], "big") >> 4
    return 0


def _continues(stream: _Stream, page: bytes) -> bool:
    """Whether a page is the next one of its stream; if so, count it."""
    sequence, granule = int.from_bytes(page[18:22], "little"), int.from_bytes(page[6:14], "little")
    # Behind the headers numbers may jump: recorders join a broadcast midway, and some programs that write tags renumber no pages.
    if sequence != stream.sequence and stream.granule:
        return False
    stream.sequence = (sequence + 1) & 0xFFFFFFFF
    if not granule >> 63:  # A negative number: no packet ends on this page.
        stream.granule = granule
    return True


def _seconds(streams: dict[bytes, _Stream], before_s: float) -> float | None:
    """Time up to which the pages were good; None if it is unknown."""
    times = [stream.granule / stream.rate for stream in streams.values() if stream.rate]
    return before_s + max(times) if times else None
