"""TFRecord files, written without TensorFlow: importing it takes longer than preparing several songs.

A TFRecord file is a sequence of records, each framed as

    length of the payload: uint64 | masked CRC-32C of the length: uint32 | payload | masked CRC-32C of the payload: uint32

in little endian.  The payload is a `tf.train.Example`, a protocol buffer, here always with the same four features: `level`
(float32), `start` (int64), `stft` (the bytes of the array) and `track` (int64).
"""

import contextlib
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import google_crc32c
import numpy as np

from data_pipeline import files
from data_pipeline.errors import DataError

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
"""Bytes that the framing adds to a payload."""


def writing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn an OSError of the body into a WriteError that names the path."""
    return files.writing(
        path,
        "Finished tracks are kept, and no incomplete files remain: free some space, or raise the limit of file sizes, and rerun "
        "the same command.",
    )


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
    content = stft.tobytes()
    # The content is large: it is copied only once, into the record.  The headers around it need its length alone.
    value = _header(1, len(content))
    feature = _header(1, len(value) + len(content)) + value
    entry = _field(1, b"stft") + _header(2, len(feature) + len(content)) + feature
    pieces = [
        _entry("level", _field(2, _field(1, struct.pack("<f", level)))),
        _entry("start", _field(3, _field(1, _varint(start)))),
        _header(1, len(entry) + len(content)) + entry,
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
        with writing(path):
            self._file = path.open("wb")

    def write(self, payload: bytes) -> int:
        """Append a record; return its offset in bytes."""
        offset = self.size
        length = struct.pack("<Q", len(payload))
        with writing(self._path):
            self._file.write(length + struct.pack("<I", _masked_crc(length)))
            self._file.write(payload)
            self._file.write(struct.pack("<I", _masked_crc(payload)))
        self.size += len(payload) + FRAME_BYTES
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with writing(self._path):  # Closing flushes the buffer.
            self._file.close()


def ends_in_file(path: Path, offset: int) -> bool:
    """Whether the record at an offset ends within its file, by the length that it announces.  Raises OSError."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        length = file.read(8)
        return len(length) == 8 and offset + struct.unpack("<Q", length)[0] + FRAME_BYTES <= os.fstat(file.fileno()).st_size


def read_record(path: Path, offset: int) -> bytes:
    """Read the payload of the record at an offset in bytes.  Raises DataError if the file is missing, too short or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(min(max(offset, 0), size))
            header = file.read(HEADER_BYTES) if offset >= 0 else b""
            if len(header) == HEADER_BYTES and struct.unpack("<I", header[8:])[0] == _masked_crc(header[:8]):
                length = struct.unpack("<Q", header[:8])[0]
                if offset + length + FRAME_BYTES <= size:
                    payload = file.read(length)
                    if struct.unpack("<I", file.read(4))[0] == _masked_crc(payload):
                        return payload
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Prepare the data again.") from error
    raise DataError(
        f"{path}: the record at byte {offset} is damaged (its checksum does not match). "
        f"Copy the dataset again, or delete {os.fspath(path.parent)} and prepare it again."
    )


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


def _entry(name: str, feature: bytes) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, feature))
