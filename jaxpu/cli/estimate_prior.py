"""`jaxpu estimate-prior`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, Json, UsageError, parse, wants_help
from jaxpu.config import Config
from jaxpu.config_files import load_config

EXAMPLES = """\
  jaxpu estimate-prior data/recordings
  jaxpu estimate-prior demo/data demo_pu --no-best-bin --json
"""


@dataclasses.dataclass(frozen=True)
class EstimatePriorArguments:
    """The class prior of prepared data: from stems where there are any, and from positive and unlabeled data alone.

    Attributes:
        config: its network, weight exponent, batch size and seed matter; that of the demo by default.
        out: a JSON file for the figures.
        json: print the figures as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Estimates the class prior."""
    if wants_help(args):
        parse(EstimatePriorArguments, "estimate-prior DATA [CONFIG]", args, EXAMPLES, EstimatePriorArguments(load_config("demo")))
    if not args or args[0].startswith("-"):
        raise UsageError("Say which data: jaxpu estimate-prior DATA [CONFIG], a folder that `jaxpu prepare` wrote.")
    from data_pipeline.dataset import PatchDataset

    has_config = len(args) > 1 and not args[1].startswith("-")
    dataset = PatchDataset.open(args[0])
    config = dataclasses.replace(load_config(args[1] if has_config else "demo"), data=dataset.config)
    rest = args[2 if has_config else 1 :]
    arguments = parse(EstimatePriorArguments, f"estimate-prior {args[0]}", rest, EXAMPLES, EstimatePriorArguments(config))
    dataset.check(arguments.config.data)
    from jaxpu.estimation import class_prior

    found = {"log_max": class_prior.estimate(dataset, arguments.config)}
    if dataset.has_stems:
        found = {"oracle": class_prior.oracle(dataset, arguments.config), **found}
    if arguments.out is not None:
        class_prior.write_json(arguments.out, found, dataset, arguments.config)
    return Answer(class_prior.table(found, dataset, arguments.config), class_prior.to_json(found, dataset, arguments.config))
