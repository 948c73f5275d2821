"""`jaxpu demo`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, UsageError, check_folders, next_line, parse
from jaxpu.config import Config
from jaxpu.config_files import load_config

EXAMPLES = """\
  jaxpu demo
  jaxpu demo -o shorter --songs 12 --train.num-steps 100 --objective.remix-steps 50
"""


@dataclasses.dataclass(frozen=True)
class DemoArguments:
    """Run the full pipeline on a small synthetic corpus: synthesize, prepare, train, evaluate, separate.

    It takes 2 to 10 minutes on 2 CPU cores. Run the same command again to resume.

    Attributes:
        config: configuration of the data and the run.
        out: folder for all output.
        songs: number of training songs.
        test_songs: number of test songs.
        seconds: length of each song in seconds.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("demo")
    songs: int = 24
    test_songs: int = 4
    seconds: float = 20.0


def run(args: Sequence[str]) -> Answer:
    """Run the pipeline."""
    arguments = parse(DemoArguments, "demo", args, EXAMPLES, DemoArguments(load_config("demo")))
    if arguments.test_songs < 1:
        raise UsageError(f"--test-songs is {arguments.test_songs}; it must be at least 1: the demo scores and separates one.")
    from jaxpu.cli.demo_pipeline import demo

    check_folders(arguments.out)
    demo(
        arguments.config,
        arguments.out,
        num_train=arguments.songs,
        num_test=arguments.test_songs,
        seconds=arguments.seconds,
    )
    return Answer(next_line("separate", arguments.out / "run", "RECORDING", "-o", "separated"))
