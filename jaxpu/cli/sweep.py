"""`jaxpu sweep`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import DONE, INTERRUPTED, Answer, Json, UsageError, config_argument, parse
from jaxpu.config import Config

EXAMPLES = """\
  jaxpu sweep demo_pu --prepared demo/data --over class_prior=.4:.9:6 --over gamma=0,.1,1 --seeds 3
  jaxpu sweep recordings --over learning_rate=1e-4,3e-4,1e-3
"""


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Many runs that differ in hyperparameters and seeds.  The same command goes on where it stopped.

    Attributes:
        config: of all runs, but for what is swept.
        over: NAME=START:STOP:COUNT or NAME=VALUE,VALUE,... of a number of the objective, or learning_rate.  Given several
            times, all combinations are trained.
        seeds: runs of each combination, with the config's seed and the following ones.
        at_once: runs trained at once; as many as the device's memory holds by default, and one on CPUs.
        data: what `jaxpu prepare` wrote; data/CONFIG by default.
        run: where the runs, the table and the plot go; runs/sweep-CONFIG by default.
        json: print the table as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    seeds: int = 1
    at_once: int | None = None
    data: Annotated[Path | None, tyro.conf.arg(name="prepared")] = None
    run: Path | None = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Trains many runs."""
    name, config, rest = config_argument("sweep", args)
    arguments = parse(SweepArguments, f"sweep {name}", rest, EXAMPLES, SweepArguments(config))
    from jaxpu.training.grid import parse_over
    from jaxpu.training.loop import ASKED_TO_STOP
    from jaxpu.training.sweep import sweep
    from jaxpu.training.sweep_table import format_table

    over = [parse_over(text) for text in arguments.over]
    if len(dict(over)) < len(over):
        raise UsageError(f"--over is given twice for one name: {', '.join(arguments.over)}. Put all its values into one.")
    run = arguments.run or Path("runs") / f"sweep-{name}"
    data = arguments.data or Path("data") / name
    table = sweep(arguments.config, data, run, dict(over), num_seeds=arguments.seeds, at_once=arguments.at_once)
    text = "\n".join(
        [
            format_table(table),
            f"Table and plot: {run / 'sweep.json'}, {run / 'sweep.png'}. Every folder in {run} is a run.",
            f"Next: jaxpu separate {run / table[0]['folder']} RECORDING -o DIR",
        ]
    )
    interrupted = any(row["stopped"] == ASKED_TO_STOP for row in table)
    return Answer(text, json.loads((run / "sweep.json").read_text()), INTERRUPTED if interrupted else DONE)
