"""Configs as files: a Python file that assigns one `Config` to the name `config`, and JSON beside a run."""

import dataclasses
import difflib
import importlib.resources
import runpy
import types
import typing
from pathlib import Path
from typing import Any

from jaxpu.config import Config
from jaxpu.config.errors import ConfigError


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-serialisable values, with the class of every nested dataclass under `kind`."""

    def convert(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: convert(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {"kind": type(value).__name__, **fields}
        if isinstance(value, tuple):
            return [convert(item) for item in value]
        return value

    return convert(config)


REMOVED_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {"BootstrapConfig": {"teacher": ("average",), "round_steps": ()}}
"""Fields that configs once had: by class and name the values that mean what the class does now; none: it never matters."""


def from_json(values: dict[str, Any]) -> Config:
    """The `Config` that `to_json` wrote, by this version or an earlier one.

    Raises:
        ConfigError: on fields that this version does not know, or values it refuses.
    """
    return decode(Config, values)


def decode(annotation: Any, value: Any) -> Any:
    """A value of a field, or of a whole config, from what `to_json` made of it.

    Args:
        annotation: a dataclass, a union of dataclasses, or the type of a plain field.
        value: JSON-serialisable; the class of a dataclass stands under `kind`, and may be missing where only one is possible.

    Raises:
        ConfigError: as `from_json`.
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
        raise ConfigError(
            f"The stored config has a {kind!r} where one of {', '.join(classes)} must be; it comes from another version."
        )
    cls = classes[kind]
    hints = typing.get_type_hints(cls)
    kept = _without_removed(kind, {name: item for name, item in value.items() if name != "kind"})
    unknown = set(kept) - set(hints)
    if unknown:
        raise ConfigError(f"{kind} has no field {', '.join(sorted(unknown))}; another version wrote the stored config.")
    return cls(**{name: decode(hints[name], item) for name, item in kept.items()})


def _without_removed(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a stored dataclass without those in `REMOVED_FIELDS`.

    Raises:
        ConfigError: one of them has a value that this version cannot follow.
    """
    removed = REMOVED_FIELDS.get(kind, {})
    for name, harmless in removed.items():
        if name in values and harmless and values[name] not in harmless:
            raise ConfigError(
                f"The stored config has {kind}.{name} = {values[name]!r}, which jaxpu no longer offers; it must be "
                f"{' or '.join(map(repr, harmless))}. Train the model again."
            )
    return {name: value for name, value in values.items() if name not in removed}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def config_names() -> list[str]:
    """Names of the configs that come with jaxpu."""
    return sorted(path.name.removesuffix(".py") for path in _shipped_configs().iterdir() if path.name.endswith(".py"))


def _shipped_configs() -> Any:
    installed = importlib.resources.files("jaxpu").joinpath("configs")
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def config_path(name_or_path: str | Path) -> Path:
    """Path of a config's file; see `load_config`."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    # `configs/baseline.py` names the shipped config wherever jaxpu was installed.
    shipped = _shipped_configs().joinpath(path.name.removesuffix(".py") + ".py")
    if len(path.parts) > 2 or (len(path.parts) == 2 and path.parts[0] != "configs") or not shipped.is_file():
        names = config_names()
        close = difflib.get_close_matches(path.stem, names, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"There is no config {str(name_or_path)!r}.{hint} Give a Python file, or one of {', '.join(names)}.")
    return Path(str(shipped))


def load_config(name_or_path: str | Path) -> Config:
    """Load the config in a Python file, or a config that comes with jaxpu by its name.

    Args:
        name_or_path: `baseline`, `configs/baseline.py`, `/anywhere/mine.py`, ...

    Raises:
        ConfigError: there is no such config, or the file defines no `Config` named `config`.
    """
    path = config_path(name_or_path)
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path} must assign a jaxpu.config.Config to the name `config`; it holds {type(config).__name__}.")
    return config
