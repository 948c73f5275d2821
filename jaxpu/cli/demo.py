"""`jaxpu demo`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, parse
from jaxpu.config import Config
from jaxpu.config_files import load_config

EXAMPLES = """\
  jaxpu demo
  jaxpu demo -o shorter --songs 12 --train.num-steps 100 --objective.remix-steps 50
"""


@dataclasses.dataclass(frozen=True)
class DemoArguments:
    """The whole way on songs that it makes itself; about 10 minutes on 2 cores.

    Attributes:
        config: of the data and the run.
        out: folder of all that is written.
        songs: to train on.
        test_songs: to test on.
        seconds: length of a song.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo")
    songs: int = 24
    test_songs: int = 4
    seconds: float = 20.0


def run(args: Sequence[str]) -> Answer:
    """Goes the whole way."""
    arguments = parse(DemoArguments, "demo", args, EXAMPLES, DemoArguments(load_config("demo")))
    from jaxpu.cli.demo_pipeline import demo

    demo(
        arguments.config,
        arguments.out,
        num_train=arguments.songs,
        num_test=arguments.test_songs,
        seconds=arguments.seconds,
    )
    return Answer(f"Next: jaxpu separate {arguments.out / 'run'} RECORDING -o DIR")
