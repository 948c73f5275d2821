"""The check of marks by the models that come with jaxpu."""

import functools

from data_pipeline.marks_check import MarksCheck
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.starters import STARTERS, starter_path
from jaxpu.separation.suggest import marks_check


def starter_check(target: tuple[str, ...]) -> MarksCheck | None:
    """The check of marks by the starter for a target, for `data_pipeline.prepare.prepare`; None if there is no such starter."""
    name = STARTERS.get(target[0]) if len(target) == 1 else None
    return None if name is None else marks_check(name, functools.partial(load_model, starter_path(name)))
