"""Zip and npz archives that were written elsewhere: sizes and types are checked before memory is asked for."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.errors import UserError

Kind = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype of an array."""

_HEADER_BYTES = 1 << 16


class ArrayError(UserError):
    """Arrays that are damaged or not those that are expected.  The message is a clause that says why."""


@contextlib.contextmanager
def opened_zip(file: Path | BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; damage that is found in the body, too, is an `ArrayError`.

    Raises:
        OSError: the file is missing or cannot be read.
        ArrayError: it is no zip archive, or is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    # zipfile, its decompressors and NumPy's parser of headers raise errors of some fifteen classes.
    except Exception as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise ArrayError(str(error) or type(error).__name__) from error


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Read a file in a zip archive of `opened_zip`.

    Raises:
        ArrayError: it is missing, is there twice, or is larger than `max_bytes`, or others that `opened_zip` turns into one.
    """
    info = _member(archive, name)
    if info.file_size > max_bytes:
        raise ArrayError(f"{name} has {info.file_size:,} bytes; at most {max_bytes:,} are possible")
    # zipfile reads no more than the size that it announces.
    return archive.read(info)


def read_arrays(file: Path | BinaryIO, wanted: Mapping[str, Kind]) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file, which must be exactly those that are wanted.

    Args:
        file: the npz file.
        wanted: shape and dtype by name.

    Raises:
        OSError: the file is missing or cannot be read.
        ArrayError: it is damaged, or its arrays are others.  They are compared before any is read.
    """
    with opened_zip(file) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        differing = sorted(names ^ wanted.keys())
        differing = differing or sorted(name for name, kind in wanted.items() if _kind(archive, name) != kind)
        if differing:
            name = differing[0]
            found = _in_words(_kind(archive, name)) if name in names else "missing"
            expected = _in_words(wanted[name]) if name in wanted else "nothing"
            raise ArrayError(f"{name} is {found}; it must be {expected} ({len(differing)} arrays differ)")
        return {name: _read(archive, name, kind) for name, kind in wanted.items()}


def _read(archive: zipfile.ZipFile, name: str, kind: Kind) -> np.ndarray:
    shape, dtype = kind
    size = math.prod(shape) * dtype.itemsize
    content = read_member(archive, f"{name}.npy", size + _HEADER_BYTES)
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array


def _kind(archive: zipfile.ZipFile, name: str) -> Kind:
    """Shape and dtype in the header of an array, which is all that is read."""
    with archive.open(_member(archive, f"{name}.npy")) as file:
        header = io.BytesIO(file.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ArrayError(f"{name} has version {version} of NumPy's format; it must be 1.0 or 2.0")
    read_header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(header)
    return shape, dtype


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ArrayError(f"{name} is in it {len(found)} times")
    return found[0]


def _in_words(kind: Kind) -> str:
    shape, dtype = kind
    return f"{dtype} {shape}"
