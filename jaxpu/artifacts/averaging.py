"""The mean of the parameters of trained models, which as one network often separates better than each (arXiv 2203.05482)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpu.artifacts.archive import ArchiveError, is_archive
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.core.network import TrainedModel


def load_mean(paths: Sequence[Path]) -> TrainedModel:
    """Load runs and average their parameters and batch statistics.

    Args:
        paths: two or more run directories, whose trainings began with the same parameters (`train.init_from`).

    Returns:
        A model with the config of the first run.  `mean_of` in its record has the step and the data of every run.

    Raises:
        ArchiveError: one of them is an archive, or the runs differ in their beginning, network, patches, target or objective.
        CheckpointError: one of them has no checkpoint.
    """
    for path in paths:
        if is_archive(path):
            raise ArchiveError(f"{path} is an archive, and only runs are averaged. Name the run that it was made from.")
    models = [load_model(path) for path in paths]
    for path, model in zip(paths[1:], models[1:], strict=True):
        _check_alike(paths[0], models[0], path, model)
    variables = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0, dtype=np.float32), *(model.variables for model in models))
    infos = [model.info for model in models]
    info = {
        **infos[0],
        "uses_stems": list(dict.fromkeys(reason for each in infos for reason in each["uses_stems"])),
        # Of the mean alone, so that the scores of a run, or of another mean, are not taken for its own.
        "data_fingerprint": hashlib.sha256(b"".join(array.tobytes() for array in jax.tree.leaves(variables))).hexdigest()[:16],
        "data": _at_mean_level([each.get("data") for each in infos]),
        "mean_of": [{"step": each["step"], "data": each.get("data")} for each in infos],
    }
    return TrainedModel(models[0].config, variables, info)


def _at_mean_level(records: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The first record of data, with the mean level of all: models with the level `reference` bring recordings to it."""
    if None in records:
        return None
    counts = [record["counts"] for record in records if record is not None]
    levels = [each.get("train_mixture", {}).get("level_db") for each in counts]
    if None in levels:
        return records[0]
    mixture = {**counts[0]["train_mixture"], "level_db": float(np.mean(levels))}
    return {**(records[0] or {}), "counts": {**counts[0], "train_mixture": mixture}}


def _check_alike(path: Path, model: TrainedModel, other_path: Path, other: TrainedModel) -> None:
    configs = (model.config, other.config)
    for name, mine, others in (
        ("train.init_from", *(config.train.init_from for config in configs)),
        ("model", *(config.model for config in configs)),
        ("data.patch", *(config.data.patch for config in configs)),
        ("data.target", *(config.data.target for config in configs)),
        ("objective", *(type(config.objective).__name__ for config in configs)),
    ):
        if mine != others:
            raise ArchiveError(
                f"{path} and {other_path} cannot be averaged: {name} is {mine!r} in the first and {others!r} in the second. "
                "Average runs that differ only in their recordings, seed, steps or rates."
            )
    if not model.config.train.init_from:
        raise ArchiveError(
            f"{path} and {other_path} cannot be averaged: they began with random parameters, and the mean of unrelated networks "
            "separates nothing. Train both from the same model, with train.init_from."
        )
