"""JSON documents that were written elsewhere, or long ago: read within bounds, and checked against their types."""

import json
import math
from pathlib import Path
from typing import Any

from data_pipeline.dataclass_json import decode
from data_pipeline.errors import UserError

MAX_BYTES = 256 << 20
"""Size of the largest document: the metadata of a million recordings."""

_MAX_DEPTH = 50


def read_json(path: Path, annotation: Any, error: type[UserError], remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        annotation: type of its content, as `data_pipeline.dataclass_json.decode` takes it.
        error: class of the error.
        remedy: a sentence for its message.

    Returns:
        The content as JSON gives it: dictionaries and lists, not dataclasses.

    Raises:
        FileNotFoundError: there is no such file.
        error: it cannot be read, is no JSON, or has other types; the message names the file and the field.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: has {size:,} bytes; jaxpu writes at most {MAX_BYTES:,}. {remedy}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause}). {remedy}") from cause
    return parse_json(content, annotation, str(path), error, remedy)


def parse_json(content: bytes, annotation: Any, where: str, error: type[UserError], remedy: str) -> Any:
    """Parse the content of a JSON file; `where` names it in errors.  See `read_json`."""
    try:
        value = json.loads(content.decode())
        _check_depth(value)
    except (ValueError, RecursionError) as cause:
        raise error(f"{where}: is damaged ({cause}). {remedy}") from cause
    check_json(value, annotation, where, error, remedy)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError if lists and objects are nested too deeply to be copied, compared or written again."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        containers = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [item for container in containers for item in container]
    if level:
        raise ValueError(f"lists and objects are nested deeper than {_MAX_DEPTH}")


def check_json(value: Any, annotation: Any, where: str, error: type[UserError], remedy: str) -> None:
    """Check the types of parsed JSON.  See `read_json`."""
    try:
        decode(annotation, value)
    except UserError as cause:
        raise error(f"{where}: {cause} {remedy}") from cause


def finite(value: Any) -> Any:
    """The value with None instead of infinity and NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
