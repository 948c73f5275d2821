"""`jaxpu export`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxpu.cli.command import Answer, Json, UsageError, parse

EXAMPLES = """\
  jaxpu export runs/recordings -o model.zip --licence CC-BY-4.0 --description "Trained on 40 h of my own recordings."
  jaxpu export runs/recordings -o program.zip --format stablehlo --licence MIT --description "Trained on 24 synthetic songs."
  jaxpu export runs/seed_0 runs/seed_1 -o ensemble.zip --licence MIT --description "Trained on 24 synthetic songs."
  jaxpu export starter -o graph.zip --format onnx
"""


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Package a trained model as an archive, with its config, licence, scores and model card.

    The other commands take an archive of the format `jaxpu` like a run. Several models become an ensemble: separation averages
    their masks, and takes proportionally longer.

    Attributes:
        models: run directory; for a program also an archive, or `starter` or `starter-drums`, which come with jaxpu; or several
            runs or archives that differ in their parameters alone.
        out: archive to write: a file that ends in .zip, or a new folder.
        licence: licence of the parameters, as an SPDX identifier such as CC-BY-4.0.
        description: training data, for the model card: which recordings, how many, whose.
        format: `jaxpu` stores the parameters; two run without jaxpu: `stablehlo`, a program for CPU, CUDA and TPU, and `onnx`, a
            graph from STFTs to masks.
        scores: scores of this checkpoint, as `jaxpu evaluate` wrote them.
        json: print the description of the archive as one JSON document.
    """

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODEL...", help_behavior_hint="(required)")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="ARCHIVE")]
    licence: Annotated[
        str | None, tyro.conf.arg(metavar="SPDX", help_behavior_hint="(default: that of an archive; a run has none)")
    ] = None
    description: Annotated[
        str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: that of an archive; a run has none)")
    ] = None
    format: Literal["jaxpu", "stablehlo", "onnx"] = "jaxpu"
    scores: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/evaluation/scores.json, if it exists)")
    ] = None
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Write the archive."""
    arguments = parse(ExportArguments, "export", args, EXAMPLES)
    if not arguments.models:
        raise UsageError("Give at least one model: jaxpu export MODEL... -o ARCHIVE.")
    from jaxpu.artifacts.export import export
    from jaxpu.artifacts.info import describe

    export(
        arguments.models,
        arguments.out,
        licence=arguments.licence,
        description=arguments.description,
        form=arguments.format,
        scores=arguments.scores,
    )
    return Answer(f"Wrote {arguments.out}. Its README.md says how to use it.", describe(str(arguments.out)))
