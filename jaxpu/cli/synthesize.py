"""`jaxpu synthesize`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, parse

EXAMPLES = """\
  jaxpu synthesize corpus
  jaxpu synthesize corpus --train 100 --test 10 --sample-rate 44100
"""


@dataclasses.dataclass(frozen=True)
class SynthesizeArguments:
    """Synthesize a small multitrack corpus in the layout of MUSDB18-HQ.

    Attributes:
        root: folder for the songs.
        train: number of training songs.
        test: number of test songs.
        seconds: length of each song in seconds.
        sample_rate: sample rate in Hz.
        seed: seed of the random generator; the same seed gives the same songs.
    """

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    train: int = 24
    test: int = 4
    seconds: float = 20.0
    sample_rate: int = 16_000
    seed: int = 0


def run(args: Sequence[str]) -> Answer:
    """Write the songs."""
    arguments = parse(SynthesizeArguments, "synthesize", args, EXAMPLES)
    from data_pipeline.synthetic.songs import synthesize

    synthesize(
        arguments.root,
        num_train=arguments.train,
        num_test=arguments.test,
        seconds=arguments.seconds,
        sample_rate=arguments.sample_rate,
        seed=arguments.seed,
    )
    return Answer(f"Wrote {arguments.train} training and {arguments.test} test songs to {arguments.root}.")
