"""WAV, RF64, AIFF, Wave64, CAF and AU: where the samples lie, and whether all are there.

libsndfile takes what it finds for the whole, so that truncation has to be noticed here.  The length in a header is a promise only
if the program that wrote it could go back to fill it in.  A pipe does not allow that: ffmpeg leaves 0xFFFFFFFF, sox 0x7FFFF000
(0x7F000000 in AIFF), arecord 0x80000000, others 0, and a recorder that is killed what it wrote at its start.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.containers.links import Bytes, Contents, Link, truncated

_WAVE64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_HEADERS = {
    "wav": re.compile(rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", re.DOTALL),
    "aiff": re.compile(rb"FORM....AIF[FC]", re.DOTALL),
    "w64": re.compile(re.escape(_WAVE64)),
    "caf": re.compile(rb"caff\x00\x01\x00\x00desc"),
    "au": re.compile(rb"\.snd\x00\x00..", re.DOTALL),
}
_UNKNOWN = (range(0x7F000000, 0x7F000100), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 1 << 32), range(1 << 62, 1 << 64))
# They may stand behind the samples, cut short, without any loss of samples.
_NO_SAMPLES = re.compile(
    rb"LIST|id3 |ID3|bext|iXML|axml|smpl|cue |fact|PEAK|_PMX|acid|inst|JUNK|junk|PAD |FLLR|umid|minf|elm1|regn|DISP|plst|cart"
    rb"|afsp|APPL|MARK|INST|COMT|NAME|AUTH|ANNO|\(c\) |TAG|APETAGEX|levl|LGWV|summ|bext|info|free|uuid|chan|strg|data"
)
_Chunk = tuple[bytes, int, int, int]
"""Name, first byte of the content, its declared length, and where the next chunk begins."""


def kind_of(data: Bytes, at: int = 0) -> str:
    """Name of the format whose header stands at a byte; empty if it is none of this module's."""
    return next((kind for kind, header in _HEADERS.items() if header.match(data[at : at + 16])), "")


def contents(path: Path, data: Bytes, kind: str) -> Contents:
    """Find the samples of a file of a format named by `kind_of`.

    Raises:
        AudioError: the file ends before the samples that its header promises.
    """
    links: list[Link] = []
    notes: list[str] = []
    begin: int | None = 0
    while begin is not None:
        link, begin, rest = _link(path, data, kind, begin)
        links.append(link)
        if rest:
            notes.append(
                f"{path}: {rest} bytes behind its samples are no part of the format; they are left out. If they are samples, "
                "of a recorder that was killed, `sox --ignore-length OLD NEW` or `ffmpeg -ignore_length 1 -i OLD NEW` reads them."
            )
    return Contents(tuple(links), tuple(notes))


def _link(path: Path, data: Bytes, kind: str, begin: int) -> tuple[Link, int | None, int]:
    """The recording that begins at a byte, where the next one begins, and how many bytes behind it belong to none."""
    long_length: int | None = None
    raw = None
    for name, body, length, following in _chunks(data, kind, begin):
        if name == b"ds64":  # RF64 stores the 64-bit length of `data` here.
            long_length = data.number(body + 8, 8, "little")
        if name == b"desc" and kind == "caf":
            raw = _caf_format(data[body : body + 32])
        if name not in (b"data", b"SSND"):
            continue
        if length == 0xFFFFFFFF and long_length is not None:
            length, following = long_length, body + long_length + long_length % 2
        first = body + {"aiff": 8, "caf": 4}.get(kind, 0)
        there = len(data) - body
        if (length == first - body or length == 0) and not _is_chain(data, kind, body):
            open_ended = there > 0
        else:
            open_ended = length > there and any(length in values for values in _UNKNOWN)
            if length > there and not open_ended:
                raise truncated(path, f"its header promises {length} bytes of samples, the file has {there}")
        if open_ended:
            second = data.search(_HEADERS[kind], first)
            end = second if second > 0 else len(data)
            is_last = second < 0 or _repeats(data, kind, end, end - first)
            return Link(begin, end, (first, end), raw=raw), None if is_last else end, 0
        end, second_at, rest = _behind(data, kind, following, odd=length % 2 == 1)
        return Link(begin, end), second_at, rest
    return Link(begin, len(data)), None, 0


def _repeats(data: Bytes, kind: str, begin: int, num_bytes: int) -> bool:
    """Whether a header states the length of what stands before it: libsndfile in a pipe cannot go back to the first one."""
    for name, body, length, following in _chunks(data, kind, begin):
        if name in (b"data", b"SSND"):
            return following > len(data) and length - num_bytes in (0, 4, 8) and body > begin
    return False


def _chunks(data: Bytes, kind: str, begin: int) -> Iterator[_Chunk]:
    if kind == "au":
        offset, length = data.number(begin + 4, 4, "big"), data.number(begin + 8, 4, "big")
        yield b"data", begin + offset, length, begin + offset + length
        return
    position = begin + {"w64": 40, "caf": 8}.get(kind, 12)
    while (chunk := _chunk(data, kind, position, big=data[begin : begin + 4] in (b"RIFX", b"FORM"))) is not None:
        yield chunk
        position = chunk[3]


def _chunk(data: Bytes, kind: str, position: int, *, big: bool) -> _Chunk | None:
    if kind == "w64":  # A GUID, and a length that counts itself and the GUID; chunks begin at multiples of 8 bytes.
        if position + 24 > len(data):
            return None
        length = max(0, data.number(position + 16, 8, "little") - 24)
        return data[position : position + 4], position + 24, length, position + 24 + length + -length % 8
    if kind == "caf":
        if position + 12 > len(data):
            return None
        length = data.number(position + 4, 8, "big")
        return data[position : position + 4], position + 12, length, position + 12 + length
    if position + 8 > len(data):
        return None
    length = data.number(position + 4, 4, "big" if big else "little")
    return data[position : position + 4], position + 8, length, position + 8 + length + length % 2


def _caf_format(description: bytes) -> tuple[str, str, int, int] | None:
    """Format of uncompressed samples, from CAF's `desc` chunk."""
    if len(description) < 32:
        return None
    rate, codec, flags, _, _, channels, bits = struct.unpack(">d4sIIIII", description)
    subtype = {(0, 8): "PCM_S8", (0, 16): "PCM_16", (0, 24): "PCM_24", (0, 32): "PCM_32", (1, 32): "FLOAT", (1, 64): "DOUBLE"}
    if codec != b"lpcm" or (flags & 1, bits) not in subtype:
        return None
    return subtype[flags & 1, bits], "LITTLE" if flags & 2 else "BIG", round(rate), channels


def _is_chain(data: Bytes, kind: str, position: int) -> bool:
    """Whether nothing but whole chunks follows: then a length of 0 is honest."""
    if kind in ("au", "caf", "w64"):
        return position == len(data)
    while position < len(data):
        chunk = _chunk(data, kind, position, big=kind == "aiff")
        if chunk is None or not _is_name(chunk[0]) or chunk[1] + chunk[2] > len(data):
            return bool(_NO_SAMPLES.match(data[position : position + 8]))
        position = chunk[3]
    return True


def _is_name(name: bytes) -> bool:
    return all(32 <= letter < 127 for letter in name)


def _behind(data: Bytes, kind: str, position: int, *, odd: bool) -> tuple[int, int | None, int]:
    """Where a recording ends, where the next one begins, and how many bytes belong to none, from its last sample on."""
    if (
        odd
        and position <= len(data)
        and (_is_name(data[position - 1 : position + 3]) and not _is_name(data[position : position + 4]))
    ):
        position -= 1  # Some programs leave out the byte that pads an odd length.
    while position < len(data):
        if kind_of(data, position) == kind:
            return position, position, 0
        chunk = None if kind == "au" else _chunk(data, kind, position, big=kind == "aiff")
        if chunk is None or not _is_name(chunk[0]) or chunk[1] + chunk[2] > len(data):
            start = data[position : position + (1 << 16)]
            stray = start.strip(b"\0") and not _NO_SAMPLES.match(start)
            return len(data), None, len(data) - position if stray else 0
        position = chunk[3]
    return len(data), None, 0
