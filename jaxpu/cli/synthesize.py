"""`jaxpu synthesize`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxpu.cli.command import Answer, parse

EXAMPLES = """\
  jaxpu synthesize corpus
  jaxpu synthesize corpus --renderer fluidsynth --train 100 --test 10 --seconds 30
"""


@dataclasses.dataclass(frozen=True)
class SynthesizeArguments:
    """Synthesize a small multitrack corpus in the layout of MUSDB18-HQ.

    Attributes:
        root: folder for the songs.
        train: number of training songs.
        test: number of test songs.
        seconds: length of each song in seconds.
        sample_rate: sample rate in Hz; by default 16000, or 44100 with fluidsynth.
        seed: seed of the random generator; the same seed gives the same songs.
        renderer: waveforms computes mono songs quickly; fluidsynth renders songs in stereo that are closer to real ones, with the
            programs fluidsynth, flite, espeak-ng and ffmpeg and a sound font.
        families: with fluidsynth, write stems such as guitar and piano in place of other.
        sound_fonts: with fluidsynth, sound fonts; each song uses one of them; by default FluidR3_GM of Debian.
    """

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    train: int = 24
    test: int = 4
    seconds: float = 20.0
    sample_rate: int | None = None
    seed: int = 0
    renderer: Literal["waveforms", "fluidsynth"] = "waveforms"
    families: bool = False
    sound_fonts: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()


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
        renderer=arguments.renderer,
        families=arguments.families,
        sound_fonts=arguments.sound_fonts,
    )
    return Answer(f"Wrote {arguments.train} training and {arguments.test} test songs to {arguments.root}.")
