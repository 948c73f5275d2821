"""Runs the experiments of docs/results.md once each and writes its tables and pictures.

    make results CORPUS=DIR                         all that have not been run yet, in order; stop and start it as you like
    make results CORPUS=DIR RESULTS_ARGS="--only vocals_remix --minutes 60"
    python benchmarks/results.py --tables           write the tables and pictures again from docs/results/*.json

CORPUS is in the layout of MUSDB18-HQ.  A finished experiment is one JSON file in docs/results; its run and the prepared data lie
in the folder of --work.  A run that was killed goes on where it was.
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
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Musdb18HQ
from jaxpu import __version__
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config_files import to_json
from jaxpu.evaluation.evaluate import evaluate
from jaxpu.monitoring.run_log import read_log
from jaxpu.training.loop import ASKED_TO_STOP, train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
TRACK_SCORES = ("si_sdr_improvement", "sdr_target", "sdr_accompaniment", "kept_energy", "blank_rate")


def main(args: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="root of the corpus")
    parser.add_argument("--unheard", type=Path, help="root of a corpus whose test songs have unheard voices")
    parser.add_argument("--more", type=Path, help="root of a corpus with the same test songs and more for training")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="folder of prepared data and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files and pictures")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "results.md", help="file that the tables go into")
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
        deadline = time.monotonic() + 60 * arguments.minutes
        for number, experiment in enumerate(chosen, 1):
            path = arguments.results / f"{experiment.name}.json"
            root = {"main": arguments.corpus, "unheard": arguments.unheard, "more": arguments.more}[experiment.songs]
            if path.exists() or root is None:
                continue
            if time.monotonic() > deadline:
                break
            print(f"{number}/{len(chosen)} {experiment.name}", flush=True)
            training = Musdb18HQ(arguments.more if experiment.songs == "more" else arguments.corpus)
            result = run(experiment, training, Musdb18HQ(root), arguments.work)
            write(path, json.dumps(result, indent=1) + "\n")
            tables.write_all(arguments.results, arguments.document)
            if experiment.block == experiment.target:
                songs, runs = Path(arguments.corpus) / "test", arguments.work / "runs"
                found = tables.read_all(arguments.results)
                pictures.draw_masks(arguments.results / f"masks_{experiment.target}.png", experiment.target, found, songs, runs)
    for target in TARGETS:
        pictures.draw_curves(arguments.results / f"curves_{target}.png", target, tables.read_all(arguments.results))
    tables.write_all(arguments.results, arguments.document)


def run(experiment: Experiment, corpus: Musdb18HQ, test: Musdb18HQ, work: Path) -> dict[str, Any]:
    """Prepares and trains one experiment on a corpus and scores it on the test songs of another; JSON-serialisable."""
    data = f"{experiment.target}_{experiment.config.data.patch.sample_rate}"
    data_dir = work / "data" / (f"more_{data}" if experiment.songs == "more" else data)
    if not data_dir.is_dir():
        prepare(corpus, experiment.config.data, data_dir)
    run_dir = work / "runs" / experiment.run_name
    ended = train(experiment.config, data_dir, run_dir)
    if ended["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{experiment.name}: {ASKED_TO_STOP}.")
    model = load_model(run_dir)
    # Doing nothing and the masks are the same for every run of a target.
    first = experiment.seed == 0 and experiment.method == "remix" and experiment.songs == "main"
    table = evaluate(model, test, work / "scores" / experiment.name, baselines=first)
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
    """Time of all training steps, without evaluations, of a run that may have been interrupted."""
    seconds, step = 0.0, 0
    for line in lines:
        if line["kind"] == "train":
            seconds += (line["step"] - step) * batch_size / line["clips_per_s"]
            step = line["step"]
    return seconds


def write(path: Path, text: str) -> None:
    """Under a temporary name first: a file that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
