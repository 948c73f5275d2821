"""The mean of the parameters of trained models, which as one network often separates better than each (arXiv 2203.05482)."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from data_pipeline.config import fingerprint
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
    infos = [model.info for model in models]
    info = {
        **infos[0],
        "uses_stems": list(dict.fromkeys(reason for each in infos for reason in each["uses_stems"])),
        # Another one than any run's, so that the scores of a run are not taken for those of the mean.
        "data_fingerprint": fingerprint(*(each["data_fingerprint"] for each in infos)),
        "mean_of": [{"step": each["step"], "data": each.get("data")} for each in infos],
    }
    variables = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0, dtype=np.float32), *(model.variables for model in models))
    return TrainedModel(models[0].config, variables, info)


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
