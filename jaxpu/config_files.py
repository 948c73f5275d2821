"""Configs as files: a Python file that assigns one `Config` to the name `config`, and JSON beside a run."""

import difflib
import importlib.resources
import runpy
from pathlib import Path
from typing import Any

from data_pipeline.dataclass_json import decode, encode
from data_pipeline.errors import ConfigError, UserError
from jaxpu.config import Config

_OWN_CLASS = "Use the classes of jaxpu.config themselves, not classes derived from them."


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON-serialisable values, with the class of every nested dataclass under `kind`."""
    values: dict[str, Any] = encode(config)
    return values


def from_json(values: dict[str, Any]) -> Config:
    """The `Config` that `to_json` wrote, in this version or an earlier one.

    Raises:
        ConfigError: on fields that this version does not know, or values it refuses.
    """
    try:
        config: Config = decode(Config, values)
    except UserError as error:
        raise ConfigError(str(error)) from error
    return config


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
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path} must assign a jaxpu.config.Config to the name `config`; it holds {type(config).__name__}.")
    try:
        stored = from_json(to_json(config))
    except Exception as error:  # What a class of the user's own raises.
        raise ConfigError(f"{path}: its config cannot be stored in a run ({error}). {_OWN_CLASS}") from error
    if stored != config:
        raise ConfigError(f"{path}: its config would not be the same once it is stored in a run. {_OWN_CLASS}")
    return config
