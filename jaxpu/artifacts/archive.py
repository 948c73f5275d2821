"""The file format of a shared model: a zip archive, or the folder that it unpacks to, without any pickle.

- `model.json`: config, information on the training, licence, description, scores;
- `README.md`: the model card, the same for people;
- `parameters.npz`: the arrays, by names such as `params/conv_0/kernel`; or instead `separate.stablehlo`: a program.
"""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import replacing

FORMAT = 1
"""Version of the format."""

MODEL_FILE, CARD_FILE, PARAMETERS_FILE, PROGRAM_FILE = "model.json", "README.md", "parameters.npz", "separate.stablehlo"


class ArchiveError(UserError):
    """An archive that cannot be written or used."""


def is_archive(path: Path) -> bool:
    """Whether a path can be an archive: a file, or a folder with a `model.json`."""
    return path.is_file() or (path / MODEL_FILE).is_file()


def write(path: Path, description: dict[str, Any], files: dict[str, bytes]) -> None:
    """Write an archive in one step.  The same contents give the same bytes.

    Args:
        path: with the suffix `.zip` a file, which is replaced; else a folder, which must not exist.
        description: for `model.json`, JSON-serialisable; `format` is added.
        files: contents of the other files, by name.

    Raises:
        ArchiveError: the folder exists.
    """
    files = {MODEL_FILE: json.dumps({"format": FORMAT, **description}, indent=2).encode() + b"\n", **files}
    packed = path.suffix == ".zip"
    if path.exists() and not packed:
        raise ArchiveError(f"{path} exists. Delete it, or choose another name; one that ends in .zip is a single file.")
    with replacing(path) as temporary:
        if packed:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # Without the time.
        else:
            temporary.mkdir()
            for name, content in files.items():
                (temporary / name).write_bytes(content)


def read_description(path: Path) -> dict[str, Any]:
    """Read `model.json`."""
    try:
        description = json.loads(_read(path, MODEL_FILE))
    except ValueError as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"{path}: {MODEL_FILE} is damaged ({error}). Copy or export it again.") from error
    if description.get("format") != FORMAT:
        raise ArchiveError(
            f"{path} has format {description.get('format')}; this version of jaxpu reads {FORMAT}. Use the version that wrote it."
        )
    return description


def variables_to_bytes(variables: Any) -> bytes:
    """Convert variables, nested dictionaries of arrays, to the contents of `parameters.npz`."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in _flat(variables).items()}
    np.savez(file, **arrays)
    return file.getvalue()


def num_parameters(variables: Any) -> int:
    """Number of trained parameters in variables, without batch statistics."""
    return sum(array.size for array in _flat(variables["params"]).values())


def read_variables(path: Path, shapes: Any) -> dict[str, Any]:
    """Read the variables of an archive.

    Args:
        path: of the archive.
        shapes: variables that the network of its config takes: nested dictionaries with `shape` and `dtype` at the leaves.

    Returns:
        Nested dictionaries of NumPy arrays; `batch_stats` is empty for networks that have none.

    Raises:
        ArchiveError: the archive holds a program, is damaged, or its arrays do not fit the network.
    """
    content = _read(path, PARAMETERS_FILE)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArchiveError(f"{path}: {PARAMETERS_FILE} is damaged ({error}). Copy or export it again.") from error
    wanted = _flat(shapes)
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != _kind(wanted.get(name)))
    if differing:
        name = differing[0]
        raise ArchiveError(
            f"{path}: the parameters do not fit the network of its config: {name} is {_in_words(found.get(name))} in "
            f"{PARAMETERS_FILE} and {_in_words(_kind(wanted.get(name)))} in the network ({len(differing)} arrays differ). "
            "Export the run again."
        )
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = variables
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return variables


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries, by their names joined with slashes."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def _kind(leaf: Any) -> tuple[tuple[int, ...], np.dtype] | None:
    return None if leaf is None else (tuple(leaf.shape), np.dtype(leaf.dtype))


def _in_words(kind: tuple[tuple[int, ...], np.dtype] | None) -> str:
    return "missing" if kind is None else f"{kind[1]} {kind[0]}"


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (KeyError, FileNotFoundError) as error:
        if name == PARAMETERS_FILE:
            raise ArchiveError(
                f"{path} contains no parameters but a StableHLO program, which runs only outside jaxpu, as its {CARD_FILE} "
                "explains. Export the run again without --format."
            ) from error
        raise ArchiveError(
            f"{path} is not a model: it contains no {name}. Name an archive of `jaxpu export` or a run of `jaxpu train`."
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ArchiveError(
            f"{path} is not an archive of `jaxpu export`, or is damaged ({error}). Copy or export it again."
        ) from error
