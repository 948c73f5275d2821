"""The runs of a sweep: a grid of hyperparameters and seeds."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpu.config import Config, ConfigError
from jaxpu.config.objectives import ignored_fields, traced_fields

MAX_RUNS = 10_000
"""Most runs of a sweep."""


class Point(NamedTuple):
    """One run of a sweep: the swept values by name, and the config with these values."""

    values: dict[str, float]
    config: Config

    @property
    def name(self) -> str:
        """Name of the run's folder, such as `class_prior=0.6,seed=0`."""
        return ",".join(f"{name}={value!r}" for name, value in [*self.values.items(), ("seed", self.config.train.seed)])


def parse_over(text: str) -> tuple[str, tuple[float, ...]]:
    """`class_prior=.4:.9:6` (start, stop and count, both ends included) or `gamma=0,.1,1` to name and values.

    Raises:
        ConfigError: on anything else.
    """
    name, _, values = text.partition("=")
    with contextlib.suppress(ValueError), np.errstate(invalid="ignore"):
        if ":" in values:
            start, stop, count = values.split(":")
            if not 2 <= int(count) <= MAX_RUNS:  # One cannot include both ends.
                raise ValueError
            # Rounded, so that .4:.9:6 has the .6 that a user would type.
            numbers = tuple(float(f"{value:.8g}") for value in np.linspace(float(start), float(stop), int(count)))
        else:
            numbers = tuple(float(value) for value in values.split(","))
        if numbers and all(map(math.isfinite, numbers)):
            return name.replace("-", "_"), numbers
    raise ConfigError(
        f"--over is {text!r}; it must be NAME=START:STOP:COUNT or NAME=VALUE,VALUE,... with a COUNT from 2 to {MAX_RUNS}."
    )


def _check_names(config: Config, over: Mapping[str, Sequence[float]]) -> None:
    """Raise ConfigError unless the names can be swept, together, with this config."""
    traced = traced_fields(config.objective)
    kind = type(config.objective).__name__
    for name in over:
        if name not in (*traced, "learning_rate"):
            raise ConfigError(f"{name} cannot be swept with {kind}; it must be one of {', '.join([*traced, 'learning_rate'])}.")
    for name, reason in ignored_fields(config.objective).items():
        if name in over and reason not in over:
            found = f"{kind}.{reason} is {getattr(config.objective, reason)!r}"
            raise ConfigError(
                f"{name} has no effect where {found}: all its runs would be the same. Change {reason}, or sweep another number."
            )
    if not over:
        raise ConfigError(f"Say what to sweep: --over NAME=START:STOP:COUNT, one of {', '.join([*traced, 'learning_rate'])}.")
    estimated = getattr(config.objective, "class_prior", None) == "estimate" and "class_prior" not in over
    if "weight_exponent" in over and estimated:
        raise ConfigError(
            'class_prior is "estimate": a sweep has one estimate for all its runs, and it depends on weight_exponent. Give '
            "--objective.class-prior a number, or sweep without weight_exponent."
        )


def make_grid(config: Config, over: Mapping[str, Sequence[float]], num_seeds: int) -> list[list[Point]]:
    """All runs of a sweep: one row for each seed, one column for each combination of values.

    Raises:
        ConfigError: when a name cannot be swept, or the config refuses a value.
    """
    _check_names(config, over)
    if num_seeds < 1:
        raise ConfigError(f"--seeds is {num_seeds}; it must be 1 or more.")
    num_runs = num_seeds * math.prod(map(len, over.values()))
    if num_runs > MAX_RUNS:
        raise ConfigError(f"The values of --over and --seeds make {num_runs:,} runs; a sweep has at most {MAX_RUNS:,}.")

    def point(values: dict[str, float], seed: int) -> Point:
        base: Any = config.objective
        objective = dataclasses.replace(base, **{name: value for name, value in values.items() if name != "learning_rate"})
        rate = values.get("learning_rate", config.train.learning_rate)
        train = dataclasses.replace(config.train, learning_rate=rate, seed=seed)
        return Point(values, dataclasses.replace(config, objective=objective, train=train))

    # Without duplicates: one folder each.
    combinations = [dict(zip(over, values, strict=True)) for values in itertools.product(*map(dict.fromkeys, over.values()))]
    return [[point(values, config.train.seed + number) for values in combinations] for number in range(num_seeds)]


def rectangles(grid: list[list[Point]], at_once: int) -> list[list[list[Point]]]:
    """Rectangles of the grid of at most `at_once` runs: whole rows where they fit, else parts of one, as equal as can be."""
    rows, columns = len(grid), len(grid[0])
    row_parts = np.array_split(np.arange(rows), math.ceil(rows / max(at_once // columns, 1)))
    column_parts = np.array_split(np.arange(columns), math.ceil(columns / at_once))
    return [[[grid[row][column] for column in some] for row in these] for these in row_parts for some in column_parts]
