"""Run the experiments of docs/results.md, once each, and write the tables and pictures of the documents.

    make results CORPUS=DIR                         run what has not been run yet, in order; stop and rerun it at any time
    make results CORPUS=DIR RESULTS_ARGS="--only vocals_remix --minutes 60"
    python benchmarks/run_experiments.py --tables   write the tables and pictures again from benchmarks/results/*.json

CORPUS is in the layout of MUSDB18-HQ.  A finished experiment is one JSON file in benchmarks/results; its run and the prepared
data are in the folder of --work.  A run that was killed resumes.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pictures
import tables
from experiments import TARGETS, Experiment, experiments

from data_pipeline.dataset import PatchDataset
from data_pipeline.files import write_text
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Musdb18HQ
from jaxpu import __version__
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config_files import to_json
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.monitoring.run_log import read_log
from jaxpu.training.loop import ASKED_TO_STOP, train

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRACK_SCORES = ("si_sdr_improvement", "sdr_target", "sdr_accompaniment", "kept_energy", "blank_rate")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="root of the corpus")
    parser.add_argument("--unheard", type=Path, help="root of a corpus whose test songs have unheard voices")
    parser.add_argument("--more", type=Path, help="root of a corpus with the same test songs and more training songs")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="folder of prepared data and runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "results", help="folder of the pictures")
    parser.add_argument("--documents", type=Path, nargs="*", default=DOCUMENTS, help="files whose tables are written")
    parser.add_argument("--only", default="", help="only experiments whose name begins with this")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no experiment after this time")
    parser.add_argument("--tables", action="store_true", help="write the tables and pictures, run nothing")
    arguments = parser.parse_args(args)
    chosen = [experiment for experiment in experiments() if experiment.name.startswith(arguments.only)]
    if not chosen:
        parser.error(f"there is no experiment whose name begins with {arguments.only!r}")
    if not arguments.tables:
        if arguments.corpus is None:
            parser.error("say which corpus: make results CORPUS=DIR")
        run_missing(chosen, arguments)
    for target in TARGETS:
        pictures.draw_curves(arguments.pictures / f"curves_{target}.png", target, tables.read_all(arguments.results))
    tables.write_all(arguments.results, arguments.documents)


def run_missing(chosen: list[Experiment], arguments: argparse.Namespace) -> None:
    """Run the experiments that have no JSON file yet, as far as their corpora and the time allow."""
    deadline = time.monotonic() + 60 * arguments.minutes
    corpora = {"main": arguments.corpus, "unheard": arguments.unheard, "more": arguments.more}
    for number, experiment in enumerate(chosen, 1):
        path = arguments.results / f"{experiment.name}.json"
        root = corpora[experiment.songs]
        if path.exists() or root is None:
            continue
        if time.monotonic() >= deadline:
            break
        print(f"{number}/{len(chosen)} {experiment.name}", flush=True)
        training = Musdb18HQ(arguments.more if experiment.songs == "more" else arguments.corpus)
        result = run(experiment, training, Musdb18HQ(root), arguments.work)
        write_text(path, json.dumps(result, indent=1) + "\n")
        tables.write_all(arguments.results, arguments.documents)
        if experiment.block == experiment.target:
            songs, runs = Path(arguments.corpus) / "test", arguments.work / "runs"
            found = tables.read_all(arguments.results)
            pictures.draw_masks(arguments.pictures / f"masks_{experiment.target}.png", experiment.target, found, songs, runs)


def run(experiment: Experiment, corpus: Musdb18HQ, test: Musdb18HQ, work: Path) -> dict[str, Any]:
    """Train one experiment on a corpus and score it on the test songs of another; return what its JSON file holds."""
    data = f"{experiment.target}_{experiment.config.data.patch.sample_rate}"
    data_dir = work / "data" / (f"more_{data}" if experiment.songs == "more" else data)
    if not data_dir.is_dir():
        prepare(corpus, experiment.config.data, data_dir)
    run_dir = work / "runs" / experiment.run_name
    ended = train(experiment.config, data_dir, run_dir)
    if ended["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{experiment.name}: {ASKED_TO_STOP}.")
    model = load_model(run_dir)
    # The baselines are the same for every run of a target.
    first = experiment.seed == 0 and experiment.method == "remix" and experiment.songs == "main"
    table = evaluate(model, test, work / "scores" / experiment.name, EvaluationOptions(baselines=first))
    lines = read_log(run_dir)
    validation = [{name: value for name, value in line.items() if name != "kind"} for line in lines if line["kind"] == "evaluate"]
    return {
        "name": experiment.name,
        "target": experiment.target,
        "method": experiment.method,
        "seed": experiment.seed,
        "config": to_json(experiment.config),
        "jaxpu": __version__,
        "machine": model.info["machine"],
        "data": PatchDataset.open(data_dir).fingerprint,
        "train_s": round(training_seconds(lines, experiment.config.train.batch_size), 1),
        "stopped": ended["stopped"],
        "selected_step": model.info["step"],
        "selected_by": model.info["select_by"],
        "uses_stems": model.info["uses_stems"],
        "warnings": [line["text"] for line in lines if line["kind"] == "warning"],
        "validation": validation,
        "scores": {
            method: {name: {key: scores.to_json()[key] for key in TRACK_SCORES} for name, scores in by_track.items()}
            for method, by_track in table.tracks.items()
        },
    }


def training_seconds(lines: list[dict[str, Any]], batch_size: int) -> float:
    """Seconds of all training steps of a run, without evaluations; it may have been interrupted."""
    seconds, step = 0.0, 0
    for line in lines:
        if line["kind"] == "train":
            seconds += (line["step"] - step) * batch_size / line["clips_per_s"]
            step = line["step"]
    return seconds


if __name__ == "__main__":
    main()
