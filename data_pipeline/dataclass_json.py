"""Frozen dataclasses as JSON and back."""

import dataclasses
import types
import typing
from typing import Any

from data_pipeline.errors import UserError

REMOVED_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {"BootstrapConfig": {"teacher": ("average",), "round_steps": ()}}
"""Fields that classes once had: by class and name the values that mean what the class does now; empty: it never mattered."""


def encode(value: Any) -> Any:
    """Convert a dataclass to JSON-serialisable values, with the class of every nested dataclass under `kind`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [encode(item) for item in value] if isinstance(value, tuple) else value


def decode(annotation: Any, value: Any) -> Any:
    """Convert what `encode`, or `dataclasses.asdict` and JSON, made of a value back to it.

    Args:
        annotation: a dataclass, a union of dataclasses, or the type of a plain field.
        value: JSON-serialisable; the class of a dataclass stands under `kind`, and may be missing where only one is possible.

    Raises:
        UserError: the values have fields that this version does not know, or removed ones with a value that it cannot follow.
    """
    if dataclasses.is_dataclass(annotation):
        annotation = (annotation,)
    elif isinstance(annotation, types.UnionType) and all(dataclasses.is_dataclass(arm) for arm in typing.get_args(annotation)):
        annotation = typing.get_args(annotation)
    else:
        return _as_tuple(value)
    classes = {arm.__name__: arm for arm in annotation}
    kind = value.get("kind", next(iter(classes)) if len(classes) == 1 else None)
    if kind not in classes:
        raise UserError(
            f"The stored config has a {kind!r} where one of {', '.join(classes)} must be; it comes from another version."
        )
    hints = typing.get_type_hints(classes[kind])
    kept = _without_removed(kind, {name: item for name, item in value.items() if name != "kind"})
    unknown = set(kept) - set(hints)
    if unknown:
        raise UserError(f"{kind} has no field {', '.join(sorted(unknown))}; another version wrote the stored config.")
    return classes[kind](**{name: decode(hints[name], item) for name, item in kept.items()})


def _without_removed(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a stored dataclass without those in `REMOVED_FIELDS`."""
    removed = REMOVED_FIELDS.get(kind, {})
    for name, harmless in removed.items():
        if name in values and harmless and values[name] not in harmless:
            raise UserError(
                f"The stored config has {kind}.{name} = {values[name]!r}, which jaxpu no longer offers; it must be "
                f"{' or '.join(map(repr, harmless))}. Train the model again."
            )
    return {name: value for name, value in values.items() if name not in removed}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
