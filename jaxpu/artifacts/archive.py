"""The file format of a shared model: a zip archive, or the folder that it unpacks to, without any pickle.

- `model.json`: config, information on the training, licence, description, scores;
- `README.md`: the model card, the same for people;
- `parameters.npz`: the arrays, by names such as `params/conv_0/kernel`, of an ensemble `0/params/conv_0/kernel`;
- or a program, `separate.stablehlo` or `mask.onnx`.
"""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.errors import UserError, shown
from data_pipeline.files import replacing
from data_pipeline.stored_arrays import ArrayError, opened_zip, read_arrays, read_member
from data_pipeline.stored_json import check_json, parse_json
from jaxpu.artifacts.records import ModelDocument

FORMAT = 1
"""Version of the format."""

MAX_NETWORKS = 64
"""Networks of an ensemble, at most."""

_MAX_DESCRIPTION_BYTES = 16 << 20
_COPY_AGAIN = "Copy or export it again."

MODEL_FILE, CARD_FILE, PARAMETERS_FILE = "model.json", "README.md", "parameters.npz"

Form = Literal["jaxpu", "stablehlo", "onnx"]
"""Contents of an archive: parameters, or a program that runs without jaxpu."""

PROGRAM_FILES: dict[Form, str] = {"stablehlo": "separate.stablehlo", "onnx": "mask.onnx"}
KINDS: dict[Form, str] = {"jaxpu": "model", "stablehlo": "StableHLO program", "onnx": "ONNX graph"}
"""Files of the programs, and what model.json calls the forms."""


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
    if path.is_dir() or (path.exists() and not packed):
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
    """Read `model.json`.

    Raises:
        ArchiveError: the archive cannot be read, is damaged or of another format, or a field is missing or not of its type.
    """
    where, content = f"{path}: {MODEL_FILE}", _read(path, MODEL_FILE, _MAX_DESCRIPTION_BYTES)
    description: dict[str, Any] = parse_json(content, dict[str, Any], where, ArchiveError, _COPY_AGAIN)
    if description.get("format") != FORMAT:
        raise ArchiveError(
            f"{path} has format {shown(description.get('format'))}; this version of jaxpu reads {FORMAT}. "
            "Use the version that wrote it."
        )
    check_json(description, ModelDocument, where, ArchiveError, _COPY_AGAIN)
    return description


def variables_to_bytes(variables: Any) -> bytes:
    """Convert variables, nested dictionaries of arrays or a tuple of them, to the contents of `parameters.npz`."""
    file = io.BytesIO()
    if isinstance(variables, tuple):
        variables = {str(number): each for number, each in enumerate(variables)}
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in _flat(variables).items()}
    np.savez(file, **arrays)
    return file.getvalue()


def num_parameters(variables: Any) -> int:
    """Number of trained parameters in variables, without batch statistics."""
    if isinstance(variables, tuple):
        return sum(map(num_parameters, variables))
    return sum(array.size for array in _flat(variables["params"]).values())


def read_variables(path: Path, shapes: Any, num_networks: int = 1) -> Any:
    """Read the variables of an archive.

    Args:
        path: of the archive.
        shapes: variables that the network of its config takes: nested dictionaries with `shape` and `dtype` at the leaves.
        num_networks: networks of the ensemble; 1 if it is none.

    Returns:
        Nested dictionaries of NumPy arrays; `batch_stats` is empty for networks that have none.  Of an ensemble, a tuple of them.

    Raises:
        ArchiveError: the archive holds a program, is damaged, or its arrays do not fit the network.
    """
    if not 1 <= num_networks <= MAX_NETWORKS:
        raise ArchiveError(f"{path}: has {num_networks} networks, and may have 1 to {MAX_NETWORKS}. {_COPY_AGAIN}")
    prefixes = [""] if num_networks == 1 else [f"{number}/" for number in range(num_networks)]
    wanted = {
        prefix + name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for prefix in prefixes for name, leaf in _flat(shapes).items()
    }
    # Twice the size of the arrays, and room for headers: no more is read, whatever the archive announces.
    limit = sum(2 * math.prod(shape) * dtype.itemsize + (1 << 16) for shape, dtype in wanted.values())
    try:
        arrays = read_arrays(io.BytesIO(_read(path, PARAMETERS_FILE, limit)), wanted)
    except ArrayError as error:
        raise ArchiveError(
            f"{path}: {PARAMETERS_FILE} is damaged, or does not fit the network of its config ({error}). {_COPY_AGAIN}"
        ) from error
    variables: list[dict[str, Any]] = [{"params": {}, "batch_stats": {}} for _ in prefixes]
    for each, prefix in zip(variables, prefixes, strict=True):
        for name in _flat(shapes):
            *folders, last = name.split("/")
            place = each
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = arrays[prefix + name]
    return variables[0] if num_networks == 1 else tuple(variables)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries, by their names joined with slashes."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def _read(path: Path, name: str, max_bytes: int) -> bytes:
    """Read a file of an archive, of at most `max_bytes`."""
    try:
        if path.is_dir():
            if not (path / name).exists():
                raise _missing(path, name, [each.name for each in path.iterdir()])
            size = (path / name).stat().st_size
            if size > max_bytes:
                raise ArrayError(f"{name} has {size:,} bytes; at most {max_bytes:,} are possible")
            return (path / name).read_bytes()
        with opened_zip(path) as archive:
            if name not in archive.namelist():
                raise _missing(path, name, archive.namelist())
            return read_member(archive, name, max_bytes)
    except ArrayError as error:
        raise ArchiveError(f"{path} is not an archive of `jaxpu export`, or is damaged ({error}). {_COPY_AGAIN}") from error
    except OSError as error:
        raise ArchiveError(
            f"{path}: {name} cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from error


def _missing(path: Path, name: str, present: list[str]) -> ArchiveError:
    forms = [form for form, file in PROGRAM_FILES.items() if file in present]
    if name == PARAMETERS_FILE and forms:
        return ArchiveError(
            f"{path} contains no parameters: its {KINDS[forms[0]]} runs only outside jaxpu, as its {CARD_FILE} explains. "
            "Export the run again without --format."
        )
    return ArchiveError(
        f"{path} is not a model: it contains no {name}. Name an archive of `jaxpu export` or a run of `jaxpu train`."
    )
