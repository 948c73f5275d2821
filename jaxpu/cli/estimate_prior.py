"""`jaxpu estimate-prior`."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, Json, UsageError, parse, wants_help
from jaxpu.config import Config
from jaxpu.config_files import load_config

EXAMPLES = """\
  jaxpu estimate-prior data/recordings
  jaxpu estimate-prior demo/data demo_pu --json
"""


@dataclasses.dataclass(frozen=True)
class EstimatePriorArguments:
    """Estimate the class prior of prepared data: the share of time-frequency bins in which the target is inactive.

    The estimate needs no stems. Where the data have stems, the class prior is computed from them as well.

    Attributes:
        config: configuration whose weight exponent, disjoint_tracks and seed are used; the config of the demo by default.
        out: JSON file for the estimates.
        json: print the estimates as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Estimate the class prior."""
    if wants_help(args):
        parse(EstimatePriorArguments, "estimate-prior DATA [CONFIG]", args, EXAMPLES, EstimatePriorArguments(load_config("demo")))
    if not args or args[0].startswith("-"):
        raise UsageError("The data are missing: jaxpu estimate-prior DATA [CONFIG]. Give a folder that `jaxpu prepare` wrote.")
    from data_pipeline.dataset import PatchDataset

    has_config = len(args) > 1 and not args[1].startswith("-")
    dataset = PatchDataset.open(args[0])
    config = dataclasses.replace(load_config(args[1] if has_config else "demo"), data=dataset.config)
    rest = args[2 if has_config else 1 :]
    arguments = parse(
        EstimatePriorArguments, f"estimate-prior {shlex.quote(args[0])}", rest, EXAMPLES, EstimatePriorArguments(config)
    )
    dataset.check(arguments.config.data)
    from jaxpu.estimation import class_prior

    found = {"log_max": class_prior.estimate(dataset, arguments.config)}
    if dataset.has_stems:
        found = {"oracle": class_prior.oracle(dataset, arguments.config), **found}
    if arguments.out is not None:
        class_prior.write_json(arguments.out, found, dataset, arguments.config)
    return Answer(class_prior.table(found, dataset, arguments.config), class_prior.to_json(found, dataset, arguments.config))
