"""FLAC: recordings that follow each other (`cat a.flac b.flac`), and headers that state fewer samples than there are.

The format: RFC 9639.
"""

import re
from collections.abc import Iterator

from data_pipeline.containers.links import Bytes, Contents, Link

_INFO = (b"\0\0\0\x22", b"\x80\0\0\x22")  # The first block of metadata, the last one or not, is 34 bytes long.
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_TAIL_BYTES = 1 << 18
_MAX_HEADER = 16
_BLOCK_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 256 << code - 8 for code in range(8, 16)}}
_SIZE_AT_END = 6, 7  # Codes of block sizes that stand at the end of the header, in one byte or two, less 1.


def contents(data: Bytes, begin: int) -> Contents:
    """Find the recordings of a FLAC file whose first one begins at a byte.

    libsndfile stops after the number of samples that a header states; where the frames go on, the link has their number.
    """
    begins, at = [0], begin
    while (at := data.find(b"fLaC", at + 4)) >= 0:
        if data[at + 4 : at + 8] in _INFO:
            begins.append(at)
    ends = [*begins[1:], len(data)]
    links = []
    for first, end in zip(begins, ends, strict=True):
        info = begin + 8 if first == 0 else first + 8
        stated = data.number(info + 13, 5, "big") & ((1 << 36) - 1)
        there = _last_sample(data[max(info + 34, end - _TAIL_BYTES) : end]) if stated else 0  # 0 leaves the length open.
        links.append(Link(first, end, least=there if there > stated else None))
    return Contents(tuple(links))


def _last_sample(tail: bytes) -> int:
    """Number of samples up to the end of the last frame, by the header of this frame; 0 if it is not found.

    Bytes that look like a header are none unless they follow on those of another.
    """
    last = 0
    ends, sizes = {0}, {-1: 0}  # Last samples of frames that state their first sample, and block sizes of those with a number.
    for number, size, is_variable in _headers(tail):
        if is_variable and number in ends:
            last = number + size
        elif not is_variable and number - 1 in sizes:
            last = number * sizes[number - 1] + size
        if is_variable:
            ends.add(number + size)
        else:
            sizes[number] = size
    return last


def _headers(tail: bytes) -> Iterator[tuple[int, int, bool]]:
    """Number of frame or sample, block size, and whether the size varies, of all that looks like the header of a frame."""
    for match in _SYNC.finditer(tail):
        head = tail[match.start() : match.start() + _MAX_HEADER]
        if len(head) < 6 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] >> 4 > 10 or head[3] & 1:
            continue
        ones = f"{head[4]:08b}".index("0") if head[4] != 255 else 8
        if ones in (1, 8):
            continue
        length = max(ones, 1)
        number = head[4] & (127 >> ones if ones else 127)
        for byte in head[5 : 4 + length]:
            number = number << 6 | byte & 63
        code, at = head[2] >> 4, 4 + length
        if code in _SIZE_AT_END:
            size = int.from_bytes(head[at : at + code - 5], "big") + 1
            at += code - 5
        else:
            size = _BLOCK_SIZES[code]
        at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)  # A rate that stands at the end of the header.
        if at < len(head) and _crc8(head[:at]) == head[at]:
            yield number, size, head[1] == 0xF9


def _crc8(data: bytes) -> int:
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder << 1 ^ (0x107 if remainder & 0x80 else 0)
    return remainder
