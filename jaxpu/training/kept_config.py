"""The config in the folder of a run, and the configs that can continue the run."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.files import write_text, writing
from data_pipeline.stored_json import read_json
from jaxpu.artifacts.checkpoints import has_checkpoint
from jaxpu.config import Config, ConfigError
from jaxpu.config_files import from_json, to_json

FREE_SPACE = "Free some space and rerun the same command, or choose another folder (--run)."
"""The remedy when the disk refuses the first files of a run."""


def check_config(config: Config, path: Path) -> None:
    """Refuse the folder of a run whose steps so far would differ under this config.  `path` is that of its config.

    A run without a checkpoint has no such steps: its start failed, and another config may be the remedy.  The file of another
    program is refused, too: it would be replaced.
    """
    if not has_checkpoint(path.parent):
        if _is_foreign(path):
            raise ConfigError(f"{path}: is not the config of a run, and would be replaced. Choose another folder (--run).")
    elif path.exists():
        remedy = "Restore it from a copy, or use another folder (--run)."
        stored = from_json(read_json(path, Config, ConfigError, remedy))
        check_continues(stored, config, path)


def _is_foreign(path: Path) -> bool:
    """Whether a file is the JSON of another program; of what is damaged nobody knows."""
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return not (isinstance(stored, dict) and stored.get("kind") == "Config")


def keep_config(config: Config, path: Path) -> None:
    """Write the config of a run, unless it is there."""
    text = json.dumps(to_json(config), indent=2)
    with writing(path, FREE_SPACE):
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)


def check_continues(stored: Config, config: Config, path: Path) -> None:
    """Raise ConfigError if the steps so far of the run whose config is in `path` would differ under this config."""
    differing = list(_differences(to_json(_as_of(stored, config)), to_json(config)))
    if not differing:
        return
    extends = config.train.num_steps > stored.train.num_steps
    hint = ""
    if extends and config.train.schedule != "constant":
        hint = f" The {config.train.schedule} schedule depends on train.num_steps, so its steps so far were others."
    raise ConfigError(
        f"{path} belongs to a run with another config: {'; '.join(differing)}.{hint} Use another folder (--run), or the config "
        "of this run."
    )


def _as_of(stored: Config, wanted: Config) -> Config:
    """A stored config with those fields of another that do not change the steps done, so that the run can continue with them.

    More steps do not under a constant learning rate, after a warm-up or not: `jaxpu.core.step.make_optimizer` uses their number
    for the cosine schedule alone.  The fields of evaluation only decide when a checkpoint is saved and when the run ends; the
    scores of more batches, though, cannot be compared with earlier ones.  `clips_at_once` may be lowered for a device with less
    memory; steps then differ as far as batch normalization averages over fewer clips.
    """
    names = ["eval_every", "patience", "on_blank", "clips_at_once"]
    if wanted.train.select_by == "last":
        names.append("eval_batches")
    if wanted.train.num_steps > stored.train.num_steps and stored.train.schedule == "constant":
        names.append("num_steps")
    changes = {name: getattr(wanted.train, name) for name in names}
    return dataclasses.replace(stored, train=dataclasses.replace(stored.train, **changes))


def _differences(stored: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """The fields in which two configs differ, as JSON, with both values."""
    if isinstance(stored, dict) and isinstance(wanted, dict) and stored.get("kind") == wanted.get("kind"):
        for field in stored:
            yield from _differences(stored[field], wanted[field], f"{name}.{field}" if name else field)
    elif stored != wanted:
        kinds = [value.get("kind", value) if isinstance(value, dict) else value for value in (stored, wanted)]
        yield f"{name} is {kinds[0]!r} there and {kinds[1]!r} here"
