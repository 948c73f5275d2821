"""`jaxpu train`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import DONE, INTERRUPTED, Answer, Json, check_folders, config_argument, next_line, parse
from jaxpu.config import Config
from jaxpu.config.cluster import Cluster

EXAMPLES = """\
  jaxpu train recordings
  jaxpu train baseline --objective.class-prior 0.7 --train.num-steps 20000 --run runs/prior7
"""


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a model. Run the same command again to resume.

    Attributes:
        config: run configuration.
        data: folder that `jaxpu prepare` wrote.
        run: folder for checkpoints and logs.
        cluster: processes that train together.
        json: print the last evaluation as one JSON document.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    data: Annotated[Path | None, tyro.conf.arg(name="prepared", metavar="DIR", help_behavior_hint="(default: data/CONFIG)")] = (
        None
    )
    run: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/CONFIG)")] = None
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = Cluster()
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Start or resume the run."""
    name, command, config, rest = config_argument("train", args)
    arguments = parse(TrainArguments, command, rest, EXAMPLES, TrainArguments(config))
    from jaxpu import parallel
    from jaxpu.training.loop import ASKED_TO_STOP, train

    run = arguments.run or Path("runs") / name
    data = arguments.data or Path("data") / name
    check_folders(data, run)
    with parallel.joined(arguments.cluster):
        results = train(arguments.config, data, run)
    status = INTERRUPTED if results["stopped"] == ASKED_TO_STOP else DONE
    if parallel.process_index() > 0:
        return Answer(status=status)
    scores = ", ".join(f"{key} {value:.4g}" for key, value in results.items() if isinstance(value, float))
    resume = status == INTERRUPTED
    following = next_line("train", *args) if resume else next_line("separate", run, "RECORDING", "-o", "separated")
    text = f"{run}: step {results['step']}, {results['stopped']}. {scores}\n{following}"
    return Answer(text, {"run": str(run), **results}, status)
