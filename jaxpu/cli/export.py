"""`jaxpu export`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxpu.cli.command import Answer, Json, parse

EXAMPLES = """\
  jaxpu export runs/recordings -o model.zip --licence CC-BY-4.0 --description "Trained on 40 h of my own recordings."
  jaxpu export runs/recordings -o program.zip --format stablehlo --licence MIT --description "Trained on 24 synthetic songs."
"""


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """A run as an archive to hand on, with config, licence, scores and a card.  The other commands take it like a run.

    Attributes:
        run: run directory.
        out: a file that ends in .zip, or a new folder.
        licence: of the parameters: an SPDX identifier such as CC-BY-4.0.
        description: of the training data, for the card: which recordings, how many, whose.
        format: `jaxpu`: the parameters; `stablehlo`: a program that runs without jaxpu, for CPU, CUDA and TPU.
        scores: scores.json of this checkpoint; RUN/evaluation/scores.json by default, where it is there.
        json: print what the archive says of itself as one JSON document.
    """

    run: tyro.conf.Positional[Path]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    licence: str
    description: str
    format: Literal["jaxpu", "stablehlo"] = "jaxpu"
    scores: Path | None = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Writes an archive."""
    arguments = parse(ExportArguments, "export", args, EXAMPLES)
    from jaxpu.artifacts.export import export
    from jaxpu.artifacts.info import describe

    export(
        arguments.run,
        arguments.out,
        licence=arguments.licence,
        description=arguments.description,
        program=arguments.format == "stablehlo",
        scores=arguments.scores,
    )
    return Answer(f"{arguments.out}: its README.md tells how to use it.", describe(str(arguments.out)))
