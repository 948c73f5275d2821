"""Settings of a run that do less than they say."""

import dataclasses
import sys

from jaxpu import parallel
from jaxpu.config import Config
from jaxpu.config.objectives import ignored_fields


def warn_of_settings(config: Config) -> None:
    """Print, in process 0 alone, a warning for each setting that has no effect, and for a warm-up longer than the run."""
    if parallel.process_index() == 0:
        for warning in _warnings(config):
            print(f"Warning: {warning}", file=sys.stderr)


def _warnings(config: Config) -> list[str]:
    train, objective = config.train, config.objective
    found = []
    if train.warmup_steps >= train.num_steps:
        found.append(
            f"train.warmup_steps is {train.warmup_steps} and train.num_steps {train.num_steps}: the learning rate never reaches "
            f"train.learning_rate = {train.learning_rate:g}. Lower the warm-up, or raise the number of steps."
        )
    defaults = {field.name: field.default for field in dataclasses.fields(objective)}
    for name, reason in ignored_fields(objective).items():
        if getattr(objective, name) != defaults[name]:
            found.append(
                f"objective.{name} is {getattr(objective, name):g}, which has no effect where objective.{reason} is "
                f"{getattr(objective, reason)!r}. Leave it out, or change {reason}."
            )
    return found
