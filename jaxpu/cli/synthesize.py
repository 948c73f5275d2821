"""`jaxpu synthesize`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxpu.cli.command import Answer, parse

EXAMPLES = """\
  jaxpu synthesize corpus
  jaxpu synthesize corpus --train 100 --test 10 --sample-rate 44100
"""


@dataclasses.dataclass(frozen=True)
class SynthesizeArguments:
    """A small multitrack corpus from a seed, in the layout of MUSDB18-HQ.

    Attributes:
        root: where the songs go.
        train: songs to train on.
        test: songs to test on.
        seconds: length of a song.
        sample_rate: in Hz.
        seed: decides the songs.
    """

    root: tyro.conf.Positional[Path]
    train: int = 24
    test: int = 4
    seconds: float = 20.0
    sample_rate: int = 16_000
    seed: int = 0


def run(args: Sequence[str]) -> Answer:
    """Makes songs."""
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
    return Answer(f"Songs: {arguments.root}")
