"""Typed values as JSON and back.

What comes from elsewhere, a stored file or a config that somebody wrote, is checked here against its types before anything is
built from it.  An error names the field by its path and says what it must be.
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any, Literal, NotRequired

from data_pipeline.errors import ConfigError, UserError, shown

Measured = Annotated[float, "may be infinite or NaN"]
"""A number that was measured and is only shown.  A plain `float` must be finite."""

REMOVED_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {"BootstrapConfig": {"teacher": ("average",), "round_steps": ()}}
"""Fields that classes once had: by class and name the values that mean what the class does now; empty: it never mattered."""

RENAMED_FIELDS: dict[str, dict[str, str]] = {"BootstrapConfig": {"trusted_leak": "max_false_positive_ratio"}}
"""Fields that had other names: by class the present name of each."""

_INTEGERS = range(-(2**63), 2**63)
_IN_WORDS = {
    int: "an integer of at most 64 bits",
    float: "a finite number",
    Measured: "a number",
    bool: "True or False",
    str: "text",
    types.NoneType: "None",
}


def encode(value: Any) -> Any:
    """Convert a dataclass to JSON-serialisable values, with the class of every nested dataclass under `kind`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [encode(item) for item in value] if isinstance(value, tuple) else value


def decode(annotation: Any, value: Any) -> Any:
    """Convert what `encode`, or `dataclasses.asdict` and JSON, made of a value back to it, checking every type.

    Args:
        annotation: a dataclass, a TypedDict, a container or union of these, or a plain type.  A TypedDict lists the keys that are
            read, and allows others.
        value: JSON-serialisable; the class of a dataclass stands under `kind`, and may be missing where only one is possible.

    Raises:
        UserError: a value is not of its type, is missing or is refused by its dataclass; or the values have fields that this
            version does not know, or removed ones with a value that it cannot follow.
    """
    return _checked(annotation, value, "", stored=True)


def check_fields(config: Any) -> None:
    """Check the type of every field of a dataclass; called by its `__post_init__`, before it compares them with bounds.

    Raises:
        ConfigError: a field is not of its type.
    """
    cls: Any = type(config)
    for name, hint in _hints(cls).items():
        try:
            _checked(hint, getattr(config, name), f"{cls.__name__}.{name}", stored=False)
        except UserError as error:
            raise ConfigError(str(error)) from error


def _checked(annotation: Any, value: Any, path: str, *, stored: bool) -> Any:
    """The value, if it is of the type; a stored one with its lists as tuples and its objects as dataclasses."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _checked_union(annotation, arguments, value, path, stored=stored)
    if dataclasses.is_dataclass(annotation):
        if stored:
            return _dataclass((annotation,), value, path)
        return value if isinstance(value, typing.cast(type, annotation)) else _refuse(annotation, value, path)
    if typing.is_typeddict(annotation):
        return _typed_dict(annotation, value, path)
    if origin is tuple and isinstance(value, list if stored else tuple):
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        if len(hints) == len(value):
            items = enumerate(zip(hints, value, strict=True))
            return tuple(_checked(hint, item, f"{path}[{number}]", stored=stored) for number, (hint, item) in items)
    if origin is list and isinstance(value, list):
        return [_checked(arguments[0], item, f"{path}[{number}]", stored=stored) for number, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _checked(arguments[1], item, _inside(path, name), stored=stored) for name, item in value.items()}
    if origin is Literal and any(type(value) is type(each) and value == each for each in arguments):
        return value
    if annotation in _IN_WORDS and _is_plain(annotation, value):
        return value
    return _refuse(annotation, value, path)


def _checked_union(annotation: Any, arms: tuple[Any, ...], value: Any, path: str, *, stored: bool) -> Any:
    classes = tuple(arm for arm in arms if dataclasses.is_dataclass(arm))
    if stored and classes and isinstance(value, dict):
        return _dataclass(classes, value, path)
    for arm in arms:
        try:
            return _checked(arm, value, path, stored=stored)
        except UserError:
            # An error inside a list or an object says more than that it is neither of the types.
            inside = typing.get_origin(arm) in (tuple, list, dict) or typing.is_typeddict(arm)
            if inside and isinstance(value, (list, tuple, dict)):
                raise
    return _refuse(annotation, value, path)


def _is_plain(kind: Any, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and number and value in _INTEGERS
    if kind is Measured:
        return number
    if kind is float:
        return number and (value in _INTEGERS if isinstance(value, int) else math.isfinite(value))
    return isinstance(value, kind)


def _dataclass(classes: tuple[Any, ...], value: Any, path: str) -> Any:
    by_name = {each.__name__: each for each in classes}
    if not isinstance(value, dict):
        _refuse(classes[0], value, path)
    kind = value.get("kind", classes[0].__name__ if len(classes) == 1 else None)
    if not isinstance(kind, str) or kind not in by_name:
        names = _listed(map(repr, by_name))
        raise UserError(f"{_inside(path, 'kind')} is {shown(kind)}; it must be {names}. Another version may have written it.")
    hints, fields = _hints(by_name[kind]), dataclasses.fields(by_name[kind])
    kept = _without_removed(kind, {name: item for name, item in value.items() if name != "kind"})
    unknown = set(kept) - set(hints)
    if unknown:
        raise UserError(f"{kind} has no field {', '.join(sorted(unknown))}; another version wrote the stored config.")
    _require_keys({field.name for field in fields if field.default is dataclasses.MISSING}, kept, path)
    return by_name[kind](**{name: _checked(hints[name], item, _inside(path, name), stored=True) for name, item in kept.items()})


def _typed_dict(annotation: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(annotation, value, path)
    hints = _hints(annotation)
    _require_keys(annotation.__required_keys__, value, path)
    read = {name: _checked(hints[name], value[name], _inside(path, name), stored=True) for name in hints if name in value}
    return value | read


def _require_keys(required: typing.AbstractSet[str], value: dict[str, Any], path: str) -> None:
    missing = sorted(required - value.keys())
    if missing:
        raise UserError(f"{_inside(path, missing[0])} is missing.")


def _without_removed(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a stored dataclass by their present names, without those in `REMOVED_FIELDS`."""
    removed, renamed = REMOVED_FIELDS.get(kind, {}), RENAMED_FIELDS.get(kind, {})
    for name, harmless in removed.items():
        if name in values and harmless and values[name] not in harmless:
            raise UserError(
                f"The stored config has {kind}.{name} = {shown(values[name])}, which jaxpu no longer offers; it must be "
                f"{' or '.join(map(repr, harmless))}. Train the model again."
            )
    return {renamed.get(name, name): value for name, value in values.items() if name not in removed}


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint for name, hint in hints.items()}


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse(annotation: Any, value: Any, path: str) -> typing.NoReturn:
    raise UserError(f"{path or 'the content'} is {shown(value)}; it must be {_in_words(annotation)}.")


def _in_words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _listed(map(_in_words, arguments))
    if origin is Literal:
        return _listed(map(repr, arguments))
    if annotation in _IN_WORDS:
        return _IN_WORDS[annotation]
    if origin is tuple:
        size = "" if arguments[-1] is ... else f" of {len(arguments)}"
        return f"a tuple{size} (in JSON a list)"
    if origin is list:
        return "a list"
    return f"a {annotation.__name__}" if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else "an object"


def _listed(words: typing.Iterable[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last
