"""TFRecord files, written without TensorFlow: importing it takes longer than preparing several songs.

A TFRecord file is a sequence of records, each framed as

    length of the payload: uint64 | masked CRC-32C of the length: uint32 | payload | masked CRC-32C of the payload: uint32

in little endian.  The payload is a `tf.train.Example`, a protocol buffer, here always with the same four features: `level`
(float32), `start` (int64), `stft` (the bytes of the array) and `track` (int64).
"""

import functools
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import google_crc32c
import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import writing_data

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
"""Bytes that the framing adds to a payload."""


def encode_example(*, track: int, start: int, level: float, stft: np.ndarray) -> bytes:
    """Serialize a clip as a `tf.train.Example`.

    Args:
        track: number of the track, not negative.
        start: first sample of the clip, not negative.
        level: divisor of the clip; stored as float32.
        stft: stored as its bytes in C order.
    """
    # Feature is one of bytes_list = 1, float_list = 2, int64_list = 3; the values are field 1 of each, numbers packed.
    # Example.features = 1; Features.feature = 1 is a map, whose entries have key = 1 and value = 2.
    # The content is large: it is copied only once, into the record.  The headers around it need its length alone.
    content = stft.tobytes()
    header = _headers(len(content))[1]
    pieces = [
        _entry("level", _field(2, _field(1, struct.pack("<f", level)))),
        _entry("start", _field(3, _field(1, _varint(start)))),
        _header(1, len(header) + len(content)) + header,
        content,
        _entry("track", _field(3, _field(1, _varint(track)))),
    ]
    return b"".join([_header(1, sum(map(len, pieces))), *pieces])


class RecordWriter:
    """Writer of a TFRecord file.  Raises WriteError if the disk refuses the data.

    Attributes:
        size: bytes written so far: the offset of the next record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0
        with writing_data(path):
            self._file = path.open("wb")

    def write(self, payload: bytes) -> int:
        """Append a record; return its offset in bytes."""
        offset = self.size
        length = struct.pack("<Q", len(payload))
        with writing_data(self._path):
            self._file.write(length + struct.pack("<I", _masked_crc(length)))
            self._file.write(payload)
            self._file.write(struct.pack("<I", _masked_crc(payload)))
        self.size += len(payload) + FRAME_BYTES
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with writing_data(self._path):  # Closing flushes the buffer.
            self._file.close()


def read_record(path: Path, offset: int) -> bytes:
    """Read the payload of the record at an offset in bytes.  Raises DataError if the file is missing, too short or damaged.

    By position, which lets other threads run meanwhile and, unlike a memory map, survives a file that is cut short.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            header = os.pread(descriptor, HEADER_BYTES, offset) if 0 <= offset < size else b""
            if len(header) == HEADER_BYTES and struct.unpack("<I", header[8:])[0] == _masked_crc(header[:8]):
                length = struct.unpack("<Q", header[:8])[0]
                # Before reading: memory for the length that a damaged record announces may not exist.
                if offset + length + FRAME_BYTES <= size:
                    payload = os.pread(descriptor, length, offset + HEADER_BYTES)
                    checksum = os.pread(descriptor, 4, offset + HEADER_BYTES + length)
                    if len(payload) == length and struct.pack("<I", _masked_crc(payload)) == checksum:
                        return payload
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Prepare the data again.") from error
    raise DataError(f"{path}: the record at byte {offset} is damaged (its checksum does not match). {_remedy(path)}")


def read_clip(path: Path, offset: int, num_bytes: int) -> tuple[float, memoryview]:
    """Read `level` and the bytes of `stft` of the clip at an offset in bytes, as `encode_example` serializes them.

    Raises DataError as `read_record` does, and if the record holds no clip of `num_bytes` bytes.
    """
    payload = read_record(path, offset)
    # A parser of protocol buffers in Python would take longer than all the rest.
    level_header, content_header = _headers(num_bytes)
    level, content = payload.find(level_header, 0, 100), payload.find(content_header, 0, 100) + len(content_header)
    if level < 0 or content < len(content_header) or content + num_bytes > len(payload):
        raise DataError(f"{path}: the record at byte {offset} is no clip of {num_bytes} bytes. {_remedy(path)}")
    (value,) = struct.unpack_from("<f", payload, level + len(level_header))
    return value, memoryview(payload)[content : content + num_bytes]


def _remedy(path: Path) -> str:
    return f"Copy the dataset again, or delete {os.fspath(path.parent)} and prepare it again."


def _masked_crc(data: bytes) -> int:
    # TFRecord masks its checksums, since the checksum of data that contain checksums would be weak.
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _header(number: int, length: int) -> bytes:
    """Header of a length-delimited field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(length)


def _field(number: int, content: bytes) -> bytes:
    return _header(number, len(content)) + content


@functools.lru_cache(maxsize=8)
def _headers(num_bytes: int) -> tuple[bytes, bytes]:
    """The bytes before the four of `level`, and before the `num_bytes` of `stft`, in their entries of the map."""
    level = _entry_of("level", _field(2, _field(1, bytes(4))))[:-4]
    value = _header(1, num_bytes)
    feature = _header(1, len(value) + num_bytes) + value
    return level, _field(1, b"stft") + _header(2, len(feature) + num_bytes) + feature


def _entry(name: str, feature: bytes) -> bytes:
    return _field(1, _entry_of(name, feature))


def _entry_of(name: str, feature: bytes) -> bytes:
    return _field(1, name.encode()) + _field(2, feature)
