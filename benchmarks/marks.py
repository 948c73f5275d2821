"""Compare marked passages with other recordings as target-free material, on songs with stems.

    python benchmarks/marks.py CORPUS --work DIR

CORPUS has the layout of MUSDB18-HQ.  Two thirds of its training songs are recordings with the target.  Their marks are the rests
of the target's stem, less margins as a person would leave, as Audacity label tracks.  The other recordings are as many seconds of
the accompaniment of the other songs.  Each way trains a smaller `recordings`, and is scored on the test songs.  The table goes
to benchmarks/results/measured/marks.json.  A run that was killed resumes.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from tables import slug

from data_pipeline.files import available_processors, write_text
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ, Track, find_tracks
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import BootstrapConfig, Config
from jaxpu.config_files import load_config
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.training.loop import ASKED_TO_STOP, train
from jaxpu.training.starter_check import starter_check

ROOT = Path(__file__).resolve().parent.parent
LEAST_S, MARGIN_S = 3.0, 0.4
"""Shortest rest that is marked, and the margin that is left on both sides of a mark."""

FRAME_S = 0.05
SILENT_DB = -50.0
"""Level of a frame of the target, relative to its loudest one, below which the target rests."""

WRONG_SHARE = 0.1

Spans = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to get target-free material: folder of other recordings or of marks, and the overlap of clips in marks.

    `checked`: the starter for the target listens to the marks, and those in which it finds the target are left out.
    """

    other_recordings: str | None = None
    marks: str | None = None
    hop: float = 0.5
    checked: bool = False


WAYS = {
    "marked passages of the same songs": Way(marks="labels"),
    "as many seconds of other songs": Way(other_recordings="others"),
    "marked passages, 10 % of them wrong": Way(marks="wrong"),
    "10 % of them wrong, checked by the starter": Way(marks="wrong", checked=True),
    "both": Way(marks="labels", other_recordings="others"),
    "marked passages, clips without overlap": Way(marks="labels", hop=1.0),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of recordings, marks, prepared data and runs")
    parser.add_argument("--targets", nargs="+", default=["vocals", "drums"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--elsewhere", nargs="*", default=[], metavar="NAME=DIR", help="other recordings: more ways")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "marks.json")
    arguments = parser.parse_args(args)
    for name, folder in (each.split("=", 1) for each in arguments.elsewhere):
        WAYS[name] = Way(other_recordings=str(Path(folder).resolve()))
        arguments.ways.append(name)
    minutes = {target: make_material(arguments.corpus, target, arguments.work / target) for target in arguments.targets}
    scores: dict[str, dict[str, list[float]]] = {way: {target: [] for target in arguments.targets} for way in arguments.ways}
    for seed in arguments.seeds:
        for target in arguments.targets:
            for way in arguments.ways:
                score = run(arguments.corpus, arguments.work / target, target, way, seed, arguments.steps)
                print(f"{target}, {way}, seed {seed}: {score:.2f} dB", flush=True)
                scores[way][target].append(score)
                write_table(arguments, scores, minutes)


def make_material(corpus: Path, target: str, work: Path) -> float:
    """Write recordings, marks and other recordings below `work`, once; return the marked minutes."""
    songs, others = divided(corpus, target)
    rests = {song.name: list(rests_of(song, target)) for song in songs}
    seconds = sum(end - begin for spans in rests.values() for begin, end in spans)
    if not (work / "done").exists():
        for folder in ("songs", "labels", "wrong", "others"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        for song in songs:
            assert song.mixture is not None
            soundfile.write(work / "songs" / f"{song.name}.wav", song.mixture.read().T, song.mixture.sample_rate, "PCM_16")
            write_labels(work / "labels" / f"{song.name}.txt", rests[song.name])
        for number, other in enumerate(others):
            assert other.accompaniment is not None
            samples, rate = other.accompaniment.read(), other.accompaniment.sample_rate
            length = round(seconds / len(others) * rate)
            begin = int(np.random.default_rng(number).integers(0, samples.shape[1] - length + 1))
            soundfile.write(work / "others" / f"{other.name}.wav", samples[:, begin : begin + length].T, rate, "PCM_16")
        for name, spans in misplaced(rests, {song.name: song for song in songs}, target).items():
            write_labels(work / "wrong" / f"{name}.txt", spans)
        (work / "done").touch()
    return seconds / 60


def divided(corpus: Path, target: str) -> tuple[list[Track], list[Track]]:
    """Two thirds of the training songs, whose mixtures are the recordings with the target, and the other third."""
    songs = [song for song in find_tracks(Musdb18HQ(corpus), (target,), validation_share=0.5, seed=0) if song.split != "test"]
    return songs[: 2 * len(songs) // 3], songs[2 * len(songs) // 3 :]


def rests_of(song: Track, target: str) -> Iterator[tuple[float, float]]:
    """Rests of the target that are long enough, less the margins."""
    playing = plays(song, target)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], playing, [True]]).astype(int)))
    for begin, end in zip(edges[::2] * FRAME_S, edges[1::2] * FRAME_S, strict=True):
        if end - begin >= LEAST_S:
            first = begin == 0
            last = end >= len(playing) * FRAME_S
            yield float(begin + (0 if first else MARGIN_S)), float(end - (0 if last else MARGIN_S))


def plays(song: Track, target: str) -> np.ndarray:
    """Whether the target plays in each frame of `FRAME_S`, bool (frames,)."""
    stem = song.stem(target)
    samples = stem.read().mean(0)
    size = round(FRAME_S * stem.sample_rate)
    power = np.square(samples[: len(samples) // size * size]).reshape(-1, size).mean(1)
    return np.asarray(power > power.max() * 10 ** (SILENT_DB / 10))


def misplaced(rests: dict[str, Spans], songs: dict[str, Track], target: str) -> dict[str, Spans]:
    """The marks with some of them, `WRONG_SHARE` of their seconds, moved to where the target plays the whole time."""
    generator = np.random.default_rng(0)
    every = [(name, number) for name, spans in rests.items() for number in range(len(spans))]
    left_s = WRONG_SHARE * sum(end - begin for spans in rests.values() for begin, end in spans)
    moved = {name: list(spans) for name, spans in rests.items()}
    for index in generator.permutation(len(every)):
        if left_s <= 0:
            break
        name, number = every[index]
        begin, end = rests[name][number]
        playing = np.cumsum(np.concatenate([[0], plays(songs[name], target)]))
        length = round((end - begin) / FRAME_S)
        if length >= len(playing) - 1:
            continue
        share = (playing[length:] - playing[:-length]) / length
        first = generator.choice(np.flatnonzero(share >= 0.95 * share.max())) * FRAME_S
        moved[name][number] = (first, first + end - begin)
        left_s -= end - begin
    return moved


def write_labels(path: Path, spans: Spans) -> None:
    """Write a label track as Audacity exports it."""
    path.write_text("".join(f"{begin:.6f}\t{end:.6f}\t\n" for begin, end in sorted(spans)))


def config_of(target: str, seed: int, steps: int, hop: float) -> Config:
    """`recordings` with the demo's network in mono at 11,025 Hz, and fewer clips in a step."""
    config, demo = load_config("recordings"), load_config("demo")
    assert isinstance(config.objective, BootstrapConfig)
    patch = dataclasses.replace(demo.data.patch, sample_rate=11_025, clip_samples=16_536, level=config.data.patch.level)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, patch=patch, target=(target,), marked_hop=hop),
        model=demo.model,
        # The patch CNN needs no shifts.
        objective=dataclasses.replace(config.objective, remix_steps=steps // 3, shift_semitones=0.0),
        train=dataclasses.replace(demo.train, num_steps=steps, batch_size=6, eval_every=100, seed=seed),
    )


def run(corpus: Path, work: Path, target: str, way: str, seed: int, steps: int) -> float:
    """Train one way with one seed; return the mean SI-SDR improvement over the test songs, in dB."""
    chosen, name = WAYS[way], slug(way)
    scores, run_dir = work / "scores" / f"{name}_{seed}.json", work / "runs" / f"{name}_{seed}"
    if scores.exists():
        return float(json.loads(scores.read_text()))
    config = config_of(target, seed, steps, chosen.hop)
    marks, data = None if chosen.marks is None else work / chosen.marks, work / "data" / name
    other_recordings = None if chosen.other_recordings is None else work / chosen.other_recordings
    check = starter_check((target,)) if chosen.checked else None
    prepare(Folders(work / "songs", other_recordings, marks), config.data, data, marks_check=check)
    if train(config, data, run_dir)["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{way}, seed {seed}: {ASKED_TO_STOP}.")
    options = EvaluationOptions(num_workers=min(2, available_processors()), progress=False)
    table = evaluate(load_model(run_dir), Musdb18HQ(corpus), work / "evaluation" / f"{name}_{seed}", options)
    improvements = [score.to_json()["si_sdr_improvement"] for score in table.tracks["model"].values()]
    score = float(np.mean([value for value in improvements if value is not None]))
    scores.parent.mkdir(exist_ok=True)
    write_text(scores, json.dumps(score))
    return score


def mean_and_singles(values: list[float]) -> str:
    """The cell of a table: mean, and single values if there are several."""
    if not values:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    mean, *singles = (f"{round(value, 1) + 0:.1f}" for value in (float(np.mean(values)), *values))
    return f"{mean} ({', '.join(singles)})" if len(singles) > 1 else mean


def write_table(arguments: argparse.Namespace, scores: dict[str, dict[str, list[float]]], minutes: dict[str, float]) -> None:
    """Write the table of docs/results.md."""
    elsewhere = f" --elsewhere {' '.join(each.split('=', 1)[0].replace(' ', '-') + '=DIR' for each in arguments.elsewhere)}"
    table = {
        "commands": ["python benchmarks/marks.py CORPUS --work DIR" + (elsewhere if arguments.elsewhere else "")],
        "machine": (
            f"SI-SDR improvement on the test songs in dB, mean and single seeds; {arguments.steps} steps of 6 + 6 clips at "
            "11,025 Hz, 2 CPU cores. Marked: "
            + " and ".join(f"{found:.1f} min ({target})" for target, found in minutes.items())
            + "."
        ),
        "columns": ["target-free material", *arguments.targets],
        "rows": [
            [way, *(mean_and_singles(by_target[target]) for target in arguments.targets)] for way, by_target in scores.items()
        ],
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
