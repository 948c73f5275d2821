"""Checkpoints of a run: the only file that imports Orbax.

A run keeps its last checkpoint, to resume from, and its best one, to separate with.  Orbax commits a checkpoint by a rename:
a process killed during a save leaves the previous checkpoint intact.  Orbax is imported where a run is opened: it takes a quarter
of a second, and archives do not need it.
"""

import contextlib
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.dataclass_json import RENAMED_FIELDS
from data_pipeline.errors import UserError, WriteError, printable
from data_pipeline.files import refused
from data_pipeline.stored_json import check_json
from jaxpu import parallel
from jaxpu.artifacts import archive
from jaxpu.artifacts.quiet_threads import quiet_threads, wait_for_callbacks
from jaxpu.artifacts.records import RESUME_FIELDS, ModelRecord, ResumeRecord
from jaxpu.artifacts.starters import resolved
from jaxpu.config import Config
from jaxpu.config_files import from_json, to_json
from jaxpu.core.network import TrainedModel, variable_shapes

logging.getLogger("absl").setLevel(logging.WARNING)  # At INFO, Orbax reports every phase of every save.


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit; the message says which and what to do."""


class RunCheckpoints(contextlib.AbstractContextManager["RunCheckpoints"]):
    """The checkpoints of one run, in `run_dir/checkpoints`."""

    def __init__(self, run_dir: str | Path) -> None:
        from orbax.checkpoint import v1 as ocp

        self._directory = directory = (Path(run_dir) / "checkpoints").absolute()
        self._failed = False
        if parallel.process_index() == 0:
            _remove_unfinished(directory)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), policies.BestN(get_metric_fn=_score, n=1)]),
        )

    def __exit__(self, *_: object) -> None:
        if self._failed:
            with quiet_threads():
                with contextlib.suppress(Exception):  # Orbax raises the error of the save once more.
                    self._checkpointer.close()
                wait_for_callbacks()
            with contextlib.suppress(OSError):  # What is unfinished takes the space that is missing.
                _remove_unfinished(self._directory)
        else:
            self._checkpointer.close()

    @property
    def kept(self) -> str:
        """Words on the checkpoint that remains when training ends early."""
        step = self.latest_step
        return "There is no checkpoint yet" if step is None else f"The checkpoint of step {step} is kept"

    @property
    def resume_hint(self) -> str:
        """Words on the checkpoint that remains, and on the remedy, where the disk refuses data."""
        return f"{self.kept}: free some space and rerun the same command to resume."

    @property
    def latest_step(self) -> int | None:
        """Step of the last checkpoint; None before the first."""
        latest = self._checkpointer.latest
        return None if latest is None else int(latest.step)

    def save(self, step: int, *, state: Any, variables: Any, score: float, config: Config, info: dict[str, Any]) -> None:
        """Save a checkpoint, returning when it is on disk; remove those that are no longer the last or the best.

        Args:
            step: number of steps done.
            state: full training state, a tree of arrays, to resume from.
            variables: the network's variables that separate at this step.
            score: selection score; higher is better, and -inf never the best.
            config: run configuration.
            info: JSON-serialisable description.

        Raises:
            WriteError: the disk refuses the checkpoint, or the folder no longer exists; earlier checkpoints are kept.
        """
        if not self._directory.is_dir():  # Orbax would make it again, without the files beside it.
            self._failed = True
            raise WriteError(f"{self._directory}: no longer exists. Something removed it while the run was being trained.")
        # Host arrays: every process holds all of them, and Orbax lets the first process write.
        arrays = jax.device_get({"state": state, "variables": variables})
        metadata = {"config": to_json(config), "info": info}
        hint, reason = self.resume_hint, None
        with quiet_threads():
            try:
                self._checkpointer.save_checkpointables(
                    step, arrays, overwrite=True, metrics={"score": score}, custom_metadata=metadata
                )
            except Exception as error:  # Orbax and TensorStore raise a ValueError for a full disk.
                self._failed, reason = True, _reason_of_disk(error)
                if reason is None:
                    raise
            if self._failed:
                wait_for_callbacks()
        if reason is not None:
            raise WriteError(f"{self._directory}: {refused(self._directory, reason)} {hint}")

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """Load the state of the last checkpoint, and its record: `config` and `info`.

        Args:
            state: a training state with the shapes and dtypes to expect.

        Raises:
            CheckpointError: the stored state has other shapes, or the record of the training is damaged.
        """
        step = self.latest_step
        with _damage_named(self._checkpointer.directory):
            metadata = self._checkpointer.checkpointables_metadata(step)
            record = _record(metadata, ResumeRecord, f"The checkpoint of step {step} in {self._checkpointer.directory}")
        tree = metadata.metadata["state"]
        wanted = _by_name(state)
        stored = _present_names(_by_name(tree), wanted)
        shapes, wanted_shapes = ({name: tuple(leaf.shape) for name, leaf in each.items()} for each in (stored, wanted))
        differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted_shapes.get(name))
        if differing:
            # Orbax would not name the array, and would leave unfinished reads behind.
            name = differing[0]
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._checkpointer.directory} does not fit this config: {name} has shape "
                f"{shapes.get(name)} there and {wanted_shapes.get(name)} here ({len(differing)} arrays differ). "
                "Use another run directory, or the config that the run was started with."
            )
        loaded = self._checkpointer.load_checkpointables(step, {"state": jax.tree.map(_abstract, tree)})["state"]
        leaves = _present_names(_by_name(loaded), wanted)
        # Copies: the training step donates the memory of its state, and cannot do so twice where two names share an array.
        restored = jax.tree.unflatten(jax.tree.structure(state), [jnp.copy(leaves[name]) for name in wanted])
        return restored, record


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has a checkpoint; only a complete one is named by its step alone."""
    return bool(_steps(run_dir / "checkpoints"))


def _steps(directory: Path) -> list[Path]:
    """Folders of checkpoints, by step."""
    return sorted((path for path in directory.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _remove_unfinished(directory: Path) -> None:
    """Remove what a kill cut short: the temporary folders of saves, and checkpoints that were half removed."""
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path)
    for path in _steps(directory)[:-1]:
        if not (path / "metrics").is_dir():
            shutil.rmtree(path)


def _score(metrics: dict[str, float]) -> float:
    """The score of a checkpoint; Orbax would take NaN for the best."""
    return metrics["score"] if math.isfinite(metrics["score"]) else -math.inf


def _reason_of_disk(error: Exception) -> str | None:
    """The operating system's words in an error of Orbax or TensorStore, which is long; None in any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else None


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by their names, in its order, for any kind of containers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _present_names(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Leaves of a stored state under their present names.

    Before objectives had states of their own, every state held those of `bootstrap`, and the learning rate was not among them.
    """
    renamed = {f"hyperparameters/{old}": f"hyperparameters/{new}" for old, new in RENAMED_FIELDS["BootstrapConfig"].items()}
    stored = {renamed.get(name, name): leaf for name, leaf in stored.items()}
    if "energies" not in stored:
        return stored
    present = {name: leaf for name, leaf in stored.items() if name.partition("/")[0] not in ("energies", "leak", "teacher")}
    present["hyperparameters/learning_rate"] = wanted["hyperparameters/learning_rate"]
    moved = {"steps": "step", "energies": "energies", "false_positive_ratio": "leak"}
    return present | {f"objective_state/{new}": stored[old] for new, old in moved.items() if f"objective_state/{new}" in wanted}


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array to load onto one device."""
    return jax.ShapeDtypeStruct(np.shape(array), array.dtype, sharding=parallel.one_device())


def load_model(path: str | Path, *, which: str = "best") -> TrainedModel:
    """Load a trained model from a run directory or from an archive.

    Args:
        path: run directory, of which only the checkpoint is read; an archive of `jaxpu export`, packed or unpacked; or
            `starter` or `starter-drums`, which come with jaxpu.
        which: `best` by the run's selection criterion, or `last`; an archive holds one model.

    Raises:
        ValueError: `which` is another word.
        CheckpointError: `path` holds no checkpoint or a damaged one, is no text, or holds parameters that are NaN or infinite.
        ArchiveError: the archive is damaged, or its parameters do not fit its network.
    """
    if which not in ("best", "last"):
        raise ValueError(f"which is {which!r}; it must be 'best' or 'last'.")
    path = resolved(path)
    parallel.require_device()
    if archive.is_archive(path):
        description = archive.read_description(path)
        config = from_json(description["config"])
        variables = archive.read_variables(path, variable_shapes(config), description["info"].get("num_networks", 1))
        variables = jax.device_put(variables, parallel.one_device())
        check_finite(variables, path)
        return TrainedModel(config, variables, description["info"])
    directory = (path / "checkpoints").absolute()
    if not directory.is_dir():
        runs = [str(found.parent) for found in sorted(path.glob("*/checkpoints"))]
        hint = f"There are runs in it: {', '.join(runs[:3])}." if runs else "Give what `jaxpu train` or `jaxpu export` wrote."
        missing = "has no folder `checkpoints`" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} is neither a run directory nor an exported archive: it {missing}. {hint}")
    if printable(str(directory)) != str(directory):
        raise CheckpointError(f"{path}: its path is not UTF-8, and Orbax cannot open it. Rename the folder.")
    from orbax.checkpoint import v1 as ocp

    with _damage_named(directory), ocp.training.Checkpointer(directory) as checkpointer:
        # A checkpoint without a score is a removal that a kill cut short.
        found = [checkpoint for checkpoint in checkpointer.checkpoints if _is_scored(checkpoint.metrics)]
        if not found:
            raise CheckpointError(f"{directory} holds no finished checkpoint. Run `jaxpu train` again.")
        chosen = found[-1] if which == "last" else max(found, key=lambda each: (_score(each.metrics), each.step))
        metadata = checkpointer.checkpointables_metadata(chosen.step)
        record = _record(metadata, ModelRecord, f"The checkpoint of step {chosen.step} in {directory}")
        variables = checkpointer.load_checkpointables(
            chosen.step, {"variables": jax.tree.map(_abstract, metadata.metadata["variables"])}
        )["variables"]
    check_finite(variables, path)
    info = {name: value for name, value in record["info"].items() if name not in RESUME_FIELDS}
    return TrainedModel(from_json(record["config"]), variables, info)


@contextlib.contextmanager
def _damage_named(directory: Any) -> Iterator[None]:
    """Turn whatever Orbax raises for a damaged checkpoint into a `CheckpointError` that names the folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Of many classes: of JSON, of its own, of TensorStore.
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{directory}: a checkpoint cannot be read ({reason[:200]}). Restore the folder from a copy, or train again."
        ) from error


def _is_scored(metrics: Any) -> bool:
    return isinstance(metrics, dict) and isinstance(metrics.get("score"), (int, float))


def _record(metadata: Any, annotation: Any, where: str) -> dict[str, Any]:
    """Config and info of a checkpoint, checked."""
    check_json(metadata.custom_metadata, annotation, where, CheckpointError, "Restore it from a copy, or train the model again.")
    record: dict[str, Any] = metadata.custom_metadata
    return record


def check_finite(variables: Any, path: Path) -> None:
    """Raise CheckpointError, naming the model, if some of its parameters are NaN or infinite: its output would be silence or NaN.

    Args:
        variables: a tree of arrays.
        path: run directory or archive, for the message.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _by_name(variables).items()}
    bad = [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if bad:
        raise CheckpointError(
            f"{path}: has parameters that are NaN or infinite, in {len(bad)} of {len(leaves)} arrays, first in {bad[0]}. It "
            "cannot separate anything: copy it again if it is damaged, else train with a lower learning rate."
        )
