"""Numbers of an objective that a config leaves to estimation from the data: the class prior and the gain of the positives."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from data_pipeline.dataset import PatchDataset
from data_pipeline.files import write_text
from data_pipeline.stored_json import read_json
from jaxpu import parallel
from jaxpu.config import Config, ConfigError
from jaxpu.estimation import class_prior, positive_gain

ESTIMATES_FILE = "estimates.json"
"""File in the run directory that keeps the estimates."""


_REMEDY = "Delete the file: the same data give the same estimates."


class Estimate(TypedDict):
    """An estimate, as far as it is used."""

    number: float


def _class_prior(dataset: PatchDataset, config: Config) -> tuple[float, dict[str, Any], str]:
    shares = class_prior.estimate(dataset, config)
    words = f"Class prior: {class_prior.in_words(shares.class_prior)}, estimated from the data (see `jaxpu estimate-prior`)."
    return shares.class_prior.value, {"estimator": "log_max", **dataclasses.asdict(shares)}, words


def _positive_gain_db(dataset: PatchDataset, config: Config) -> tuple[float, dict[str, Any], str]:
    gain = positive_gain.estimate_gain_db(dataset, config)
    interval = "" if gain.low is None else f" [{gain.low:+.1f}, {gain.high:+.1f}]"
    words = f"Gain of the positives: {gain.value:+.1f}{interval} dB, estimated from the data."
    if dataset.marked_tracks:
        count = dataset.info["counts"]["train_accompaniment"]
        words = f"{words[:-1]}; marked passages have the level of their songs."
        if count["tracks"] == count.get("marked_tracks"):
            words = "Gain of the positives: none, for all are marked passages, which have the level of their songs."
    return gain.value, dataclasses.asdict(gain), words


ESTIMATORS: dict[str, Callable[[PatchDataset, Config], tuple[float, dict[str, Any], str]]] = {
    "class_prior": _class_prior,
    "positive_gain_db": _positive_gain_db,
}
"""Estimators by field; each returns the number, JSON-serialisable details and a sentence."""


def have_another_basis(run_dir: Path, dataset: PatchDataset, config: Config) -> bool:
    """Whether the estimates in `run_dir` were made from other data or with other settings, so far as they say it.

    Raises ConfigError if their file is damaged.
    """
    path = run_dir / ESTIMATES_FILE
    found: dict[str, Any] = read_json(path, dict[str, Estimate], ConfigError, _REMEDY) if path.exists() else {}
    return any(
        estimate.get(name, value) != value
        for field, estimate in found.items()
        for name, value in _basis(field, dataset, config).items()
    )


def _basis(field: str, dataset: PatchDataset, config: Config) -> dict[str, Any]:
    """Data and settings from which an estimate is made, beside the seed."""
    basis = {"data_fingerprint": dataset.fingerprint, "disjoint_tracks": config.train.disjoint_tracks}
    return basis | ({"weight_exponent": class_prior.weight_exponent(config)} if field == "class_prior" else {})


def with_estimates(
    config: Config, dataset: PatchDataset, run_dir: Path, *, anew: bool = False, progress: bool = True
) -> tuple[Config, dict[str, Any]]:
    """Replace every "estimate" in a config by a number estimated from the data.

    Process 0 estimates once, prints the numbers and keeps them in `run_dir`, so that a resumed run uses the same.

    Args:
        config: run configuration.
        dataset: the prepared data.
        run_dir: run directory.
        anew: estimate even if there are numbers in `run_dir`: the run has not begun, and its data may have been prepared again.
        progress: print the numbers.

    Returns:
        The config with numbers, and by field the estimate as JSON-serialisable values, empty if nothing was to estimate.

    Raises:
        ConfigError: the file in `run_dir` is damaged, or its numbers are none that the objective takes.
    """
    wanted = [field for field in ESTIMATORS if getattr(config.objective, field, None) == "estimate"]
    if not wanted:
        return config, {}
    path = run_dir / ESTIMATES_FILE

    def made_or_read() -> dict[str, Estimate]:
        if anew or not path.exists():
            made = {}
            for field in wanted:
                value, details, words = ESTIMATORS[field](dataset, config)
                if not math.isfinite(value):
                    raise ConfigError(
                        f"{field} cannot be estimated from {dataset.directory}: the estimate is {value}. Give a number, or lower "
                        f"objective.weight_exponent (now {class_prior.weight_exponent(config):g})."
                    )
                made[field] = {"number": value, **details, **_basis(field, dataset, config)}
                if progress:
                    print(words)
            write_text(path, json.dumps(made, indent=1))
        return read_json(path, dict[str, Estimate], ConfigError, _REMEDY)

    found = parallel.of_first_process(made_or_read)
    missing = [field for field in wanted if field not in found]
    if missing:
        raise ConfigError(f"{path}: {missing[0]} is missing. {_REMEDY}")
    numbers: dict[str, Any] = {field: found[field]["number"] for field in wanted}
    try:
        return dataclasses.replace(config, objective=dataclasses.replace(config.objective, **numbers)), found
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} {_REMEDY}") from error
