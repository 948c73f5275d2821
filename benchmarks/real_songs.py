"""Separate the guitar of eight real songs without its stems, and with them.

    apt-get download fretsonfire-songs-muldjord fretsonfire-songs-sectoid
    for each in fretsonfire-songs-*.deb; do dpkg -x $each songs; done
    python benchmarks/real_songs.py songs --work DIR

The songs of two bands, Muldjord (CC BY-SA 3.0) and Sectoid, come with the game Frets on Fire, the guitar beside the rest.  Debian
ships them; nothing is installed.  One band's songs are the recordings to separate, whose stems only score.  Target-free are the
other band's songs without their guitar, or the rests of the guitar, marked as in benchmarks/marks.py.  Supervision has the stems
of the other band.  Then the bands swap roles.  The table goes to benchmarks/results/measured/real-songs.json, and a page with
players to DIR/BAND/comparison.html.  A run that was killed resumes.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from marks import config_of, mean_and_singles, rests_of, write_labels
from tables import slug

from data_pipeline.files import write_text
from data_pipeline.prepare import prepare
from data_pipeline.stem_folders import find_songs
from data_pipeline.tracks import Folders, Stems
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import Config, ObjectiveConfig, PUConfig, RemixConfig, SupervisedConfig
from jaxpu.evaluation.baselines import FIXED, MODEL, RATIO
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.evaluation.html_report import write_comparison
from jaxpu.training.loop import ASKED_TO_STOP, train

ROOT = Path(__file__).resolve().parent.parent
BANDS = ("muldjord", "sectoid")
TARGET, ACCOMPANIMENT = "guitar", "song"
"""Names of the stems, as the game has them."""

WAYS = {
    "supervised, stems of the other band": "stems",
    "bootstrap, the other band without guitar": "others",
    "bootstrap, marked rests of the guitar": "marks",
    "remix, the other band without guitar": "others",
    "PULSE's risk, the other band without guitar": "others",
}
"""Material by way; the first word is the objective."""

Scores = dict[str, dict[str, list[float]]]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, help="folder into which the two packages were unpacked")
    parser.add_argument("--work", type=Path, required=True, help="folder of recordings, marks, prepared data and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "real-songs.json")
    arguments = parser.parse_args(args)
    minutes = {band: make_material(arguments.songs, band, arguments.work / band) for band in BANDS}
    scores: Scores = {}
    for seed in arguments.seeds:
        for way in arguments.ways:
            for band in BANDS:
                for method, values in run(arguments.work / band, way, seed, arguments.steps).items():
                    scores.setdefault(method, {each: [] for each in BANDS})[band].append(values)
                    print(f"{band}, {method}, seed {seed}: {values:.2f} dB", flush=True)
                write_table(arguments, scores, minutes)
    for band in BANDS:
        runs = [arguments.work / band / "runs" / f"{slug(way)}_{arguments.seeds[0]}" for way in arguments.ways]
        if len(runs) > 1:
            write_comparison(runs, arguments.work / band / "comparison.html")


def make_material(songs: Path, band: str, work: Path) -> tuple[float, float]:
    """Write recordings, marks and stems below `work`, once; return the minutes of the recordings and of their marks.

    work/corpus has the other band's stems in train/, and those of the band itself, for scores alone, in test/.
    """
    (other,) = (name for name in BANDS if name != band)
    for folder in ("songs", "others", "labels"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for split, name in (("train", other), ("test", band)):
        for song in sorted({path.parent for path in songs.rglob(f"{name}/*/{TARGET}.ogg")}):
            stems = work / "corpus" / split / song.name
            stems.mkdir(parents=True, exist_ok=True)
            for stem in (TARGET, ACCOMPANIMENT):
                if not (stems / f"{stem}.ogg").exists():
                    (stems / f"{stem}.ogg").symlink_to((song / f"{stem}.ogg").resolve())
            if split == "train" and not (work / "others" / f"{song.name}.ogg").exists():
                (work / "others" / f"{song.name}.ogg").symlink_to((song / f"{ACCOMPANIMENT}.ogg").resolve())
    seconds = marked = 0.0
    for track in find_songs(work / "corpus", (TARGET,), lambda line: None):
        if track.split != "test":
            continue
        assert track.mixture is not None
        samples, rests = track.mixture.read(), list(rests_of(track, TARGET))
        soundfile.write(work / "songs" / f"{track.name}.wav", samples.T, track.mixture.sample_rate, "FLOAT")
        if rests:
            write_labels(work / "labels" / f"{track.name}.txt", rests)
        seconds += samples.shape[1] / track.mixture.sample_rate
        marked += sum(end - begin for begin, end in rests)
    if not seconds:
        sys.exit(f"{songs}: has no songs of {band}. Unpack the two packages there, as the help of this program says.")
    return seconds / 60, marked / 60


def config_of_way(way: str, seed: int, steps: int) -> Config:
    """A smaller `recordings` with the objective of a way."""
    config = config_of(TARGET, seed, steps, 0.5)
    objectives: dict[str, ObjectiveConfig] = {
        "supervised": SupervisedConfig(loss="ratio_mask", remix_songs=True),
        "remix": RemixConfig(gain_db=6.0, positive_gain_db="estimate"),
        "PULSE's": PUConfig(class_prior="estimate"),
    }
    return dataclasses.replace(config, objective=objectives.get(way.split()[0].strip(","), config.objective))


def run(work: Path, way: str, seed: int, steps: int) -> dict[str, float]:
    """Train one way with one seed; return the mean SI-SDR improvement over the songs in dB, and once those of the baselines."""
    material, scores = WAYS[way], work / "scores" / f"{slug(way)}_{seed}.json"
    if scores.exists():
        found: dict[str, float] = json.loads(scores.read_text())
        return found
    config = config_of_way(way, seed, steps)
    corpus, run_dir = Stems(work / "corpus"), work / "runs" / f"{slug(way)}_{seed}"
    source = (
        corpus
        if material == "stems"
        else Folders(
            work / "songs",
            work / "others" if material == "others" else None,
            work / "labels" if material == "marks" else None,
        )
    )
    data = work / "data" / material
    prepare(source, config.data, data)
    if train(config, data, run_dir)["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{way}, seed {seed}: {ASKED_TO_STOP}.")
    first = way == next(iter(WAYS)) and seed == 0
    table = evaluate(load_model(run_dir), corpus, run_dir / "evaluation", EvaluationOptions(baselines=first, num_excerpts=2))
    found = {}
    for method in (each for each in (RATIO, FIXED, MODEL) if each in table.tracks):
        values = [score.to_json()["si_sdr_improvement"] for score in table.tracks[method].values()]
        found[way if method == MODEL else method] = float(np.mean([value for value in values if value is not None]))
    scores.parent.mkdir(exist_ok=True)
    write_text(scores, json.dumps(found))
    return found


def write_table(arguments: argparse.Namespace, scores: Scores, minutes: dict[str, tuple[float, float]]) -> None:
    """Write the table of docs/results.md."""
    material = "; ".join(
        f"{band.capitalize()}: {whole:.1f} min, {marked:.1f} min of them marked" for band, (whole, marked) in minutes.items()
    )
    table = {
        "commands": ["python benchmarks/real_songs.py songs --work DIR"],
        "machine": (
            "SI-SDR improvement of the guitar in dB, mean and single seeds, over the four songs of a band; "
            f"{arguments.steps} steps of 6 + 6 clips at 11,025 Hz, 2 CPU cores. {material}."
        ),
        "columns": ["method", *(f"songs of {band.capitalize()}" for band in BANDS)],
        "rows": [[method, *(mean_and_singles(by_band[band]) for band in BANDS)] for method, by_band in scores.items()],
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
