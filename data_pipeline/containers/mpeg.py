"""MPEG audio (.mp3): its frames, counted.

An .mp3 states its length in a first frame that holds no sound (`Xing`, `Info` or `VBRI`), if its encoder could go back to fill it
in.  Without one, libsndfile multiplies the size of the file by the bit rate of its first frame, which is silence in many songs.
Only the frames tell: an hour has 138,000, and reading their headers takes less than a second.
"""

import dataclasses
import re
import struct
from collections.abc import Callable
from pathlib import Path

from data_pipeline.containers.links import Bytes, Contents, Link, joined, truncated

_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_STATED_FRAMES = 2  # Encoders disagree whether their statement counts itself and the last frame.
_STATED_BYTES = 40  # The name of a statement stands within them.
_MEND = "if it was cut on purpose, `ffmpeg -i OLD -c copy NEW` mends that"
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")


@dataclasses.dataclass(frozen=True)
class _Frame:
    length: int  # In bytes.
    num_samples: int
    sample_rate: int
    num_channels: int
    side_bytes: int  # Between the header and the data, where `Xing` stands in a frame without sound.

    @property
    def format(self) -> tuple[int, int]:
        return self.sample_rate, self.num_channels


@dataclasses.dataclass
class _Part:
    """Frames from one that states a length, or from the first, to the next that states one."""

    begin: int
    frame: _Frame
    count: int = 0
    stated: int | None = None
    trimmed: int = 0
    end: int = 0

    def link(self) -> Link:
        return Link(
            self.begin, self.end, least=max(0, self.count * self.frame.num_samples - self.trimmed), stated=bool(self.stated)
        )


def begins(data: Bytes, begin: int) -> bool:
    """Whether two frames of one format begin at a byte, or a frame that ends with the file: MPEG audio, whatever the suffix."""
    frame = _frame(data[begin : begin + 4])
    return frame is not None and _is_followed(data, lambda position: _frame(data[position : position + 4]), begin, frame)


def contents(path: Path, data: Bytes, begin: int) -> Contents | None:
    """Count the frames of an MPEG audio file.

    Args:
        path: for messages.
        data: the file.
        begin: byte behind a leading ID3 tag.

    Returns:
        None if this is no MPEG audio, or of a free bit rate, so that nothing can be said.

    Raises:
        AudioError: the last frame is incomplete, fewer frames are there than stated, or the format changes.
    """
    headers: dict[bytes, _Frame | None] = {}

    def frame_at(position: int) -> _Frame | None:
        header = data[position : position + 4]
        if header not in headers:
            headers[header] = _frame(header)
        return headers[header]

    parts: list[_Part] = []
    position, end, size = begin, begin, len(data)
    tagged = False
    while position < size:
        frame = frame_at(position)
        # A frame counts if it follows one of its format, or if another one, a tag or the end follows it.
        expected = parts and position == end and frame is not None and frame.format == parts[-1].frame.format
        if frame is None or not (expected or _is_followed(data, frame_at, position, frame)):
            tagged = tagged or data[position : position + 3] == b"ID3"
            position = _skip(data, position, at_frame=frame is None)
            continue
        if position + frame.length > size:
            if not expected or (parts and parts[-1].stated and parts[-1].count + _STATED_FRAMES >= parts[-1].stated):
                break  # Stray bytes: all that was promised is there.
            raise truncated(path, f"its last frame has {size - position} of {frame.length} bytes ({_MEND})")
        if parts and frame.format != parts[-1].frame.format:
            raise joined(path, position, parts[-1].frame.format, frame.format)
        stated, trimmed = None, 0
        start = data[position : position + _STATED_BYTES]
        if b"Xing" in start or b"Info" in start or b"VBRI" in start:
            stated, trimmed = _statement(data[position : position + frame.length], frame)
        complete = parts and parts[-1].count + _STATED_FRAMES >= (parts[-1].stated or 0)
        if stated is not None or not parts or (tagged and complete):
            parts.append(_Part(position, frame, 0, stated, trimmed))
        tagged = False
        if stated is None:
            parts[-1].count += 1
        position = end = parts[-1].end = position + frame.length
    if not parts:
        return None
    for part in parts:
        if part.stated is not None and part.stated > part.count + _STATED_FRAMES:
            raise truncated(path, f"its header promises {part.stated} frames, the file has {part.count} ({_MEND})")
    return Contents(tuple(part.link() for part in parts))


def _frame(header: bytes) -> _Frame | None:
    """Read the header of a frame; None if it is none, or of a free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version = {0: 2.5, 2: 2, 3: 1}.get(header[1] >> 3 & 3)
    layer = 4 - (header[1] >> 1 & 3)
    rate_index, bits_index = header[2] >> 2 & 3, header[2] >> 4
    if version is None or layer == 4 or rate_index == 3 or bits_index in (0, 15):
        return None
    sample_rate = _RATES[rate_index] // {1: 1, 2: 2, 2.5: 4}[version]
    bits = 1000 * _KBITS[1 if version == 1 else 2, layer if version == 1 else min(layer, 2)][bits_index - 1]
    padding = header[2] >> 1 & 1
    num_channels = 1 if header[3] >> 6 == 3 else 2
    if layer == 1:
        return _Frame((12 * bits // sample_rate + padding) * 4, 384, sample_rate, num_channels, 0)
    num_samples = 576 if layer == 3 and version != 1 else 1152
    side = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[version == 1, num_channels] if layer == 3 else 0
    return _Frame(num_samples // 8 * bits // sample_rate + padding, num_samples, sample_rate, num_channels, side)


def _is_followed(data: Bytes, frame_at: Callable[[int], _Frame | None], position: int, frame: _Frame) -> bool:
    following = position + frame.length
    after = frame_at(following) if following + 4 <= len(data) else None
    return following == len(data) or (after is not None and after.format == frame.format) or _tag_length(data, following) > 0


def _skip(data: Bytes, position: int, *, at_frame: bool) -> int:
    """Where to look next for a frame: behind a tag, or at the next bytes that may begin one."""
    if at_frame and (length := _tag_length(data, position)):
        return position + length
    following = data.search(_SYNC, position + 1)
    return following if following >= 0 else len(data)


def _tag_length(data: Bytes, position: int) -> int:
    """Length of a tag that stands among the frames; 0 if none does."""
    start = data[position : position + 32]
    if start[:3] == b"TAG":
        return 128
    if start[:3] == b"ID3" and len(start) >= 10:
        return id3_length(start)
    if start[:8] == b"APETAGEX" and len(start) == 32:
        size, flags = struct.unpack("<4xI4xI", start[8:24])
        return 32 + size if flags & 1 << 29 else 32  # The footer stands behind what it describes.
    return 0


def id3_length(start: bytes) -> int:
    """Length of an ID3v2 tag, from its first 10 bytes: four digits of 7 bits, without the header, and a footer."""
    size = 0
    for digit in start[6:10]:
        size = size << 7 | digit & 0x7F
    return 10 + size + (10 if start[5] & 16 else 0)


def _statement(data: bytes, frame: _Frame) -> tuple[int | None, int]:
    """Number of frames that a frame without sound states (None for one with sound), and samples to trim from both ends."""
    if data[36:40] == b"VBRI":
        return int.from_bytes(data[50:54], "big"), 0
    begin = 4 + frame.side_bytes
    if data[begin : begin + 4] not in (b"Xing", b"Info") or len(data) < begin + 12:
        return None, 0
    flags, count = struct.unpack(">II", data[begin + 4 : begin + 12])
    lame = begin + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    gaps = data[lame + 21 : lame + 24]
    delay, padding = (gaps[0] << 4 | gaps[1] >> 4, (gaps[1] & 15) << 8 | gaps[2]) if len(gaps) == 3 and any(gaps) else (0, 0)
    return count if flags & 1 else 0, delay + padding
