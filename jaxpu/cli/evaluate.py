"""`jaxpu evaluate`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxpu.cli.command import DONE, FAILED, Answer, Json, UsageError, Workers, check_workers, parse
from jaxpu.config.cluster import Cluster

EXAMPLES = """\
  jaxpu evaluate runs/baseline MUSDB18/ --report
  jaxpu evaluate model.zip corpus/ -o scores --json > scores.json
  jaxpu evaluate separated/ corpus/ --target vocals
"""


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Score a model on the test songs of MUSDB18, MUSDB18-HQ, or a corpus of other stems: [train|test]/SONG/NAME.wav.

    Attributes:
        model: run directory, archive written by `jaxpu export`, or `starter` (vocals) or `starter-drums`, which come with jaxpu.
            Or a folder of files that any separator has written: [train|test]/SONG/NAME.wav.
        corpus: root folder of the corpus, with one folder per split.
        out: folder for the scores.
        target: stems that make up the target, if MODEL is a folder of separated files.
        split: songs to score: test, validation or train.
        full: compute museval's filtered metrics too, with SIR and SAR; about 1000 times slower.
        workers: number of processes.
        report: also write report.html, a page with scores, learning curves, spectrograms and players.
        examples: number of songs on that page.
        cluster: processes that share the songs.
        json: print the scores of every song as one JSON document.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    corpus: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    out: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o"], metavar="DIR", help_behavior_hint="(default: RUN/evaluation or MODEL-evaluation)"),
    ] = None
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the only one)")] = ()
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "test"
    full: bool = False
    workers: Workers = None
    report: bool = False
    examples: int = 3
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = Cluster()
    json: Json = False


def run(args: Sequence[str]) -> Answer:
    """Score a model."""
    arguments = parse(EvaluateArguments, "evaluate", args, EXAMPLES)
    check_workers(arguments.workers)
    if arguments.examples < 0:
        raise UsageError(f"--examples is {arguments.examples}; it must be 0 or more.")
    from data_pipeline.tracks import detect_source
    from jaxpu import parallel
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.evaluation.estimates import is_estimates
    from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate, evaluate_estimates, format_table
    from jaxpu.evaluation.html_report import write_report
    from jaxpu.evaluation.table import default_folder

    out = arguments.out or default_folder(arguments.model)
    options = EvaluationOptions(
        split=arguments.split,
        full=arguments.full,
        num_workers=arguments.workers,
        num_excerpts=arguments.examples if arguments.report else 0,
    )
    with parallel.joined(arguments.cluster):
        if arguments.target or is_estimates(arguments.model):
            table = evaluate_estimates(arguments.model, arguments.target, detect_source(arguments.corpus), out, options)
        else:
            table = evaluate(load_model(arguments.model), detect_source(arguments.corpus), out, options)
    if parallel.process_index() > 0:
        return Answer()
    text = f"{format_table(table)}\nScores of every song: {out}"
    if arguments.report:
        text += f"\nOpen {write_report(arguments.model, out)} in a browser to look and listen."
    # The scores of the other songs are there; the status says that some are not.
    status = FAILED if table.failed_tracks else DONE
    return Answer(text, json.loads(table.path.read_text(encoding="utf-8")), status)
