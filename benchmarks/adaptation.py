"""Measure what `adapt` brings: the starter trained further, without stems, on songs with marks, and scored on the same songs.

    python benchmarks/adaptation.py --songs NAME=CORPUS ... --work DIR

A CORPUS has the layout of MUSDB18-HQ; all its songs are used.  Their mixtures are the recordings, their marks the rests of the
vocals less margins, as in benchmarks/marks.py.  Beside it is the config `recordings`, from these songs alone.  With the first
seed alone: the marks that the starter suggests in place of these; the network of `adapt` trained for as many steps from random
parameters; and the config `two_folders`, the patch CNN, trained for as long as `recordings` asks.  `--ways` chooses among these.
The rows go to benchmarks/results/measured/adaptation.json, in place of those of the same songs and ways.  A run that was killed
resumes.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from marks import mean_and_singles, rests_of, write_labels
from tables import slug

from data_pipeline.files import available_processors, write_text
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ, find_tracks
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import BootstrapConfig, Config
from jaxpu.config_files import load_config
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.monitoring.run_log import read_log
from jaxpu.separation.suggest import suggest
from jaxpu.training.loop import ASKED_TO_STOP, train

RESULTS = Path(__file__).resolve().parent / "results" / "measured" / "adaptation.json"
STARTER, ADAPTED = "the starter", "adapted"
SUGGESTED, ALONE = "adapted, the starter's own marks", "from these songs alone, as many steps"
RECORDINGS, TWO_FOLDERS = (f"from these songs alone, `{name}`" for name in ("recordings", "two_folders"))
WAYS = {"adapted": ADAPTED, "suggested": SUGGESTED, "alone": ALONE, "recordings": RECORDINGS, "two_folders": TWO_FOLDERS}

NUM_CLIPS = 6

Score = tuple[float, float, float]
"""SI-SDR improvement, mean and worst song, and SDR, in dB."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", nargs="+", required=True, metavar="NAME=CORPUS")
    parser.add_argument("--work", type=Path, required=True, help="folder of recordings, marks, prepared data and runs")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(args)
    found = json.loads(arguments.results.read_text(encoding="utf-8"))["rows"] if arguments.results.exists() else []
    rows = {(label, way): [label, way, *rest] for label, way, *rest in found}
    for name, corpus in (each.split("=", 1) for each in arguments.songs):
        work = arguments.work / slug(name)
        minutes = make_material(Path(corpus), work)
        label = f"{name}, {minutes:.1f} min of marks"
        for way in (WAYS[each] for each in arguments.ways):
            seeds = arguments.seeds if way in (ADAPTED, RECORDINGS) else arguments.seeds[:1]
            scores, errors = zip(*(run(work, way, seed) for seed in seeds), strict=True)
            if way == ADAPTED:
                rows[label, STARTER] = [label, STARTER, *cells([score("starter", work, STARTER)]), errors[0][0]]
            rows[label, way] = [label, way, *cells(scores), ", ".join(after for _, after in errors)]
            print(" | ".join(rows[label, way]), flush=True)
    order = [STARTER, *WAYS.values()]
    table = {
        "commands": ["python benchmarks/adaptation.py --songs NAME=CORPUS ... --work DIR"],
        "machine": (
            "Vocals, scored on the songs themselves. SI-SDR improvement: mean over songs, mean and single seeds, and the worst "
            f"song of all seeds. SDR of museval: median over songs. {load_config('adapt').train.num_steps} steps of "
            f"{NUM_CLIPS} + {NUM_CLIPS} clips; `recordings` and `two_folders` "
            f"{load_config('recordings').train.num_steps}. Estimated error: on held-out songs, of each seed, without stems."
        ),
        "columns": ["songs", "model", "SI-SDR improvement, dB", "worst song, dB", "SDR, dB", "estimated error"],
        "rows": sorted(rows.values(), key=lambda row: (row[0], order.index(row[1]))),
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


def make_material(corpus: Path, work: Path) -> float:
    """Write recordings and marks below `work`, and link the songs as test songs; return the marked minutes."""
    for folder in ("songs", "labels", "corpus/test"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    for track in find_tracks(Musdb18HQ(corpus), ("vocals",), validation_share=0.5, seed=0):
        spans = list(rests_of(track, "vocals"))
        seconds += sum(end - begin for begin, end in spans)
        if spans:
            write_labels(work / "labels" / f"{track.name}.txt", spans)
        recording, link = work / "songs" / f"{track.name}.wav", work / "corpus" / "test" / track.name
        if not recording.exists():
            assert track.mixture is not None
            soundfile.write(recording, track.mixture.read().T, track.mixture.sample_rate, "PCM_16")
        if not link.exists():
            (found,) = corpus.glob(f"*/{track.name}")
            link.symlink_to(found.resolve())
    return seconds / 60


def config_of(way: str, seed: int) -> Config:
    """`adapt`; the same from random parameters, warmed up as in `recordings`; or another config, with as many steps as that."""
    config = load_config({RECORDINGS: "recordings", TWO_FOLDERS: "two_folders"}.get(way, "adapt"))
    assert isinstance(config.objective, BootstrapConfig)
    recordings, remix_steps = load_config("recordings").train, config.objective.remix_steps
    training = dataclasses.replace(config.train, seed=seed, batch_size=NUM_CLIPS)
    if way in (RECORDINGS, TWO_FOLDERS):
        remix_steps = remix_steps * recordings.num_steps // config.train.num_steps
        training = dataclasses.replace(training, num_steps=recordings.num_steps)
    elif way == ALONE:
        remix_steps = training.num_steps // 3
        training = dataclasses.replace(training, init_from="", learning_rate=recordings.learning_rate)
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, remix_steps=remix_steps), train=training)


def run(work: Path, way: str, seed: int) -> tuple[Score, tuple[str, str]]:
    """Train once; return the scores of the songs, and the estimated errors of the first evaluation and of the checkpoint."""
    config, name = config_of(way, seed), f"{slug(way)}_{seed}"
    labels, data = work / "labels", work / ("data_16_khz" if way == TWO_FOLDERS else "data")
    if way == SUGGESTED:
        labels, data = work / "suggested", work / "data_suggested"
        if not labels.exists():
            suggest(load_model("starter"), sorted((work / "songs").iterdir()), work / "songs", labels, progress=False)
    prepare(Folders(work / "songs", None, labels), config.data, data)
    if train(config, data, work / "runs" / name)["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{way}, seed {seed}: {ASKED_TO_STOP}.")
    logged = {line["step"]: line for line in read_log(work / "runs" / name) if line["kind"] == "evaluate"}
    model = load_model(work / "runs" / name)
    first, chosen = (f"{logged[step]['estimated_error']:.3f}" for step in (min(logged), model.info["step"]))
    return score(work / "runs" / name, work, name), (first, chosen)


def score(model: str | Path, work: Path, name: str) -> Score:
    """Score a model on all songs."""
    options = EvaluationOptions(num_workers=min(2, available_processors()), progress=False)
    table = evaluate(load_model(model), Musdb18HQ(work / "corpus"), work / "evaluation" / slug(name), options)

    def known(key: str) -> Iterator[float]:
        return (value for each in table.tracks["model"].values() if (value := each.to_json()[key]) is not None)

    improvements = list(known("si_sdr_improvement"))
    return float(np.mean(improvements)), min(improvements), float(np.median(list(known("sdr_target"))))


def cells(scores: Sequence[Score]) -> list[str]:
    """Cells of a row, of one score for each seed."""
    return [
        mean_and_singles([each[0] for each in scores]),
        f"{min(each[1] for each in scores):.1f}",
        mean_and_singles([each[2] for each in scores]),
    ]


if __name__ == "__main__":
    main()
