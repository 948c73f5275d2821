"""`jaxpu sweep`."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import (
    DONE,
    FAILED,
    INTERRUPTED,
    Answer,
    Json,
    UsageError,
    check_folders,
    config_argument,
    next_line,
    parse,
)
from jaxpu.config import Config

EXAMPLES = """\
  jaxpu sweep demo_pu --prepared demo/data --over class_prior=.4:.9:6 --over gamma=0,.1,1 --seeds 3
  jaxpu sweep recordings --over learning_rate=1e-4,3e-4,1e-3
"""


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Train many models that differ in hyperparameters and seeds, and compare them in a table and a plot.

    Run the same command again to resume, or with more values or seeds to extend the sweep.

    Attributes:
        config: configuration that all runs share, apart from the swept values.
        over: hyperparameter and its values, as NAME=START:STOP:COUNT or NAME=VALUE,VALUE,...; NAME is a number of the objective
            or learning_rate. With several --over, every combination is trained.
        seeds: number of runs for each combination, with consecutive seeds.
        at_once: number of runs trained at the same time on one device.
        data: folder that `jaxpu prepare` wrote.
        run: folder for the runs, the table and the plot.
        json: print the table as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    over: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUES")] = ()
    seeds: int = 1
    at_once: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: as many as the memory holds; 1 on CPUs)")
    ] = None
    data: Annotated[Path | None, tyro.conf.arg(name="prepared", metavar="DIR", help_behavior_hint="(default: data/CONFIG)")] = (
        None
    )
    run: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/sweep-CONFIG)")] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Train the runs."""
    name, command, config, rest = config_argument("sweep", args)
    arguments = parse(SweepArguments, command, rest, EXAMPLES, SweepArguments(config))
    from jaxpu.training.grid import parse_over
    from jaxpu.training.loop import ASKED_TO_STOP
    from jaxpu.training.sweep import sweep
    from jaxpu.training.sweep_table import errors_compare, format_table

    over = dict(parse_over(text) for text in arguments.over)
    if len(over) < len(arguments.over):
        raise UsageError(f"--over names a hyperparameter twice: {', '.join(arguments.over)}. Put all its values in one --over.")
    run = arguments.run or Path("runs") / f"sweep-{name}"
    data = arguments.data or Path("data") / name
    check_folders(data, run)
    table = sweep(arguments.config, data, run, over, num_seeds=arguments.seeds, at_once=arguments.at_once)
    interrupted = any(row["stopped"] == ASKED_TO_STOP for row in table)
    scored = [row for row in table if math.isfinite(row.get("estimated_error", math.nan))]
    lines = [
        format_table(table, over),
        f"Table and plot: {run / 'sweep.json'}, {run / 'sweep.png'}. Every folder in {run} is a run.",
    ]
    if interrupted:
        lines.append(next_line("sweep", *args))
    elif not scored:
        lines.append("No run has a score: none reached its first evaluation.")
    elif errors_compare(over):
        # Held-out losses cannot be compared between hyperparameters; this error can.
        best = min(scored, key=lambda row: row["estimated_error"])
        lines.append(f"The run of the lowest estimated error: {run / best['folder']}.")
        lines.append(next_line("separate", run / best["folder"], "RECORDING", "-o", "separated"))
    status = INTERRUPTED if interrupted else DONE if scored else FAILED
    return Answer("\n".join(lines), json.loads((run / "sweep.json").read_text()), status)
