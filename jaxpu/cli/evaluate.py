"""`jaxpu evaluate`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import Answer, Json, parse
from jaxpu.config.cluster import Cluster

EXAMPLES = """\
  jaxpu evaluate runs/baseline MUSDB18/ --report
  jaxpu evaluate model.zip corpus/ -o scores --json > scores.json
"""


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Scores of a model on the test songs of MUSDB18, MUSDB18-HQ or a corpus in their layout.

    Attributes:
        model: run directory, or an archive of `jaxpu export`.
        corpus: root of the corpus.
        out: where the scores go; RUN/evaluation by default, ARCHIVE-evaluation of an archive.
        split: test, validation or train.
        full: museval's filtered metrics, with SIR and SAR; about 1000 times slower.
        workers: processes; one per core by default.
        report: write report.html, a page with the scores, the learning curves, and songs to look at and listen to.
        examples: songs to listen to on that page.
        cluster: the processes that share the songs.
        json: print the scores of every song as one JSON document.
    """

    model: tyro.conf.Positional[Path]
    corpus: tyro.conf.Positional[Path]
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    split: str = "test"
    full: bool = False
    workers: int | None = None
    report: bool = False
    examples: int = 3
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = Cluster()
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Scores a model."""
    arguments = parse(EvaluateArguments, "evaluate", args, EXAMPLES)
    from data_pipeline.tracks import detect_source
    from jaxpu import parallel
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.evaluation.evaluate import default_folder, evaluate, format_table
    from jaxpu.evaluation.html_report import write_report

    out = arguments.out or default_folder(arguments.model)
    with parallel.joined(arguments.cluster):
        model = load_model(arguments.model)
        table = evaluate(
            model,
            detect_source(arguments.corpus),
            out,
            split=arguments.split,
            full=arguments.full,
            num_workers=arguments.workers,
            num_excerpts=arguments.examples if arguments.report else 0,
        )
    if parallel.process_index() > 0:
        return Answer()
    text = f"{format_table(table)}\nScores of every song: {out}"
    if arguments.report:
        text += f"\nLook and listen: {write_report(arguments.model, out)}"
    return Answer(text, json.loads(table.path.read_text(encoding="utf-8")))
