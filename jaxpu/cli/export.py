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
    """Package a trained model as an archive, with its config, licence, scores and model card.

    The other commands take an archive of the format `jaxpu` like a run.

    Attributes:
        run: run directory.
        out: archive to write: a file that ends in .zip, or a new folder.
        licence: licence of the parameters, as an SPDX identifier such as CC-BY-4.0.
        description: training data, for the model card: which recordings, how many, whose.
        format: `jaxpu` stores the parameters; `stablehlo` stores a program for CPU, CUDA and TPU that runs without jaxpu.
        scores: scores of this checkpoint, as `jaxpu evaluate` wrote them.
        json: print the description of the archive as one JSON document.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="ARCHIVE")]
    licence: Annotated[str, tyro.conf.arg(metavar="SPDX")]
    description: Annotated[str, tyro.conf.arg(metavar="TEXT")]
    format: Literal["jaxpu", "stablehlo"] = "jaxpu"
    scores: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/evaluation/scores.json, if it exists)")
    ] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Write the archive."""
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
    return Answer(f"Wrote {arguments.out}. Its README.md says how to use it.", describe(str(arguments.out)))
