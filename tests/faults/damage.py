"""Damage as it happens to files: transfers that end early, sectors lost, files joined, headers and fields of other programs."""

import copy
import json
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ODD_VALUES: tuple[Any, ...] = (
    None, [], {}, "", "x", "../../x", -1, 0, 1, 2, 0.5, 16000.5, 1e308, 10**15, 10**30, -(2**63), True, False,
    float("nan"), float("inf"), [1], ["x"], {"kind": "x"}, "hann", "\ud800", "a" * 5000, [[[[[[]]]]]],
)  # fmt: skip
"""Values that foreign or damaged JSON may have in the place of the right one."""

_NUMBERS = (0, 1, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x1000000)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of a file."""
    return data[: rng.integers(len(data))]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One to sixteen bytes replaced, half of the time among the first hundred."""
    array = np.frombuffer(data, np.uint8).copy()
    end = min(len(array), 100) if rng.random() < 0.5 else len(array)
    array[rng.integers(end, size=rng.integers(1, 17))] = rng.integers(256)
    return array.tobytes()


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of zeros, as of a lost sector."""
    begin = int(rng.integers(len(data)))
    length = int(rng.integers(1, 4097))
    return data[:begin] + bytes(min(length, len(data) - begin)) + data[begin + length :]


def lose(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch missing."""
    begin = int(rng.integers(len(data)))
    return data[:begin] + data[begin + int(rng.integers(1, 4097)) :]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes inserted."""
    begin = int(rng.integers(len(data) + 1))
    return data[:begin] + rng.bytes(int(rng.integers(1, 2000))) + data[begin:]


def extend(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes after the end: noise, zeros, text, or an ID3v1 tag."""
    tail = (rng.bytes(300), bytes(5000), b"LIST" + rng.bytes(40), b"TAG" + bytes(125))[rng.integers(4)]
    return data + tail


def renumber(data: bytes, rng: np.random.Generator) -> bytes:
    """A 32-bit number of the header replaced by one that programs write for an unknown length, or by an absurd one."""
    begin = int(rng.integers(0, max(1, min(len(data) - 4, 120))))
    order = "<" if rng.random() < 0.7 else ">"
    return data[:begin] + np.array(_NUMBERS[rng.integers(len(_NUMBERS))], f"{order}u4").tobytes() + data[begin + 4 :]


def twice(data: bytes, rng: np.random.Generator) -> bytes:
    """A file joined with itself, or with its own beginning."""
    return data + (data if rng.random() < 0.7 else cut(data, rng))


BYTES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (cut, flip, blank, lose, insert, extend, renumber, twice)
"""Damage of any file."""


def damage_bytes(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One or two kinds of damage: their names, and the file."""
    names = []
    for _ in range(1 + (rng.random() < 0.25)):
        if not data:
            break
        kind = BYTES[rng.integers(len(BYTES))]
        names.append(kind.__name__)
        data = kind(data, rng)
    return "+".join(names), data


def damage_json(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """A JSON document with one to three values replaced, removed or renamed, or another document, or damaged text."""
    if rng.random() < 0.1:
        value = ODD_VALUES[rng.integers(len(ODD_VALUES))]
        return f"all {value!r:.30}", json.dumps(value)
    if rng.random() < 0.15:
        name, data = damage_bytes(text.encode(), rng)
        return name, data.decode("utf-8", errors="surrogateescape")
    document = json.loads(text)
    names = []
    for _ in range(rng.integers(1, 4)):
        places = list(_places(document))
        if not places:
            break
        container, key = places[rng.integers(len(places))]
        choice = rng.random()
        if choice < 0.7:
            value = ODD_VALUES[rng.integers(len(ODD_VALUES))]
            container[key] = copy.deepcopy(value)
            names.append(f"{key}={value!r:.30}")
        elif choice < 0.9:
            del container[key]
            names.append(f"no {key}")
        elif isinstance(container, dict):
            container["unknown"] = container.pop(key)
            names.append(f"{key} renamed")
    return ", ".join(names), json.dumps(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: its container, and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def damage_archive(path: Path, rng: np.random.Generator) -> str:
    """Damage a zip archive in place: its bytes, its `model.json`, or its arrays."""
    choice = rng.random()
    if choice < 0.35:
        name, data = damage_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
        return name
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if choice < 0.8:
        name, text = damage_json(files["model.json"].decode(), rng)
        files["model.json"] = text.encode("utf-8", errors="surrogateescape")
    elif choice < 0.9:
        name, files["parameters.npz"] = damage_bytes(files["parameters.npz"], rng)
    else:
        name, files["parameters.npz"] = _damage_arrays(files["parameters.npz"], rng)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return name


def _damage_arrays(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    with np.load(BytesIO(content)) as stored:
        arrays = dict(stored)
    name = sorted(arrays)[rng.integers(len(arrays))]
    array = arrays.pop(name)
    kind = ("missing", "nan", "float64", "big-endian", "transposed", "scalar", "renamed", "text")[rng.integers(8)]
    changed = {
        "missing": {},
        "nan": {name: np.full_like(array, np.nan)},
        "float64": {name: array.astype(np.float64)},
        "big-endian": {name: array.astype(">f4")},
        "transposed": {name: np.asfortranarray(array.T)},
        "scalar": {name: array.ravel()[0]},
        "renamed": {f"../{name}": array},
        "text": {name: np.array("x")},
    }[kind]
    file = BytesIO()
    np.savez(file, **arrays, **changed)
    return f"{name} {kind}", file.getvalue()
