"""Measure the false alarms and the detections of the comparison in `jaxpu prepare`.

    python benchmarks/folder_check.py --songs NAME=CORPUS ... --recordings NAME=DIR ... --work DIR

Songs have stems, in the layout of MUSDB18-HQ; recordings have no vocals.  Each corpus of songs is divided at random into songs
with the target and the accompaniment of the others, which should cause no warning.  Changes are planted in the accompaniment of
half of the first corpus: each should be named.  Then songs with vocals are compared with material from elsewhere.  The tables go
to benchmarks/results/measured/folder-*.json.  What was measured is kept in DIR.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import scipy.signal
import soundfile
from tables import slug

from data_pipeline.config import STEMS, DataConfig
from data_pipeline.dataclass_json import decode
from data_pipeline.files import write_text
from data_pipeline.folder_check import compare
from data_pipeline.patches import PatchMaker
from data_pipeline.recording_files import find_recordings
from data_pipeline.recording_statistics import Statistics, StatisticsMeter
from data_pipeline.recordings import Part, Recording, Track
from data_pipeline.tracks import Musdb18HQ, find_tracks
from jaxpu.config_files import load_config

RESULTS = Path(__file__).resolve().parent / "results" / "measured"
DIVISIONS = 15
"""Random divisions of every corpus for every target."""

VOCALS = ("vocals",)
JUDGED = ("told apart", "named: target-free recordings have")

Set = dict[str, Statistics]
Change = Callable[[np.ndarray, int], np.ndarray]


class Corpus(NamedTuple):
    """Statistics of songs by name: of the mixtures, and of the accompaniments by target."""

    mixtures: Set
    accompaniments: dict[str, Set]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", nargs="+", required=True, metavar="NAME=CORPUS")
    parser.add_argument("--recordings", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--work", type=Path, required=True, help="folder of what was measured; delete it after a change")
    arguments = parser.parse_args(args)
    songs = {name: Path(root) for name, root in (each.split("=", 1) for each in arguments.songs)}
    corpora = {name: measure_songs(root, arguments.work / f"{slug(name)}.json") for name, root in songs.items()}
    others = {}
    for name, root in (each.split("=", 1) for each in arguments.recordings):
        recordings = {path.stem: Recording(path.stem, Path(root), (Part(path),)) for path in find_recordings(Path(root)).paths}
        others[name] = measure_once(recordings, arguments.work / f"{slug(name)}.json")
    write("folder-divisions", ["songs", "target", "divisions with a warning", "told apart"], list(divisions(corpora)))
    first = next(iter(corpora))
    write("folder-changes", ["change", *JUDGED], list(changes(songs[first], corpora[first], arguments.work)))
    write("folder-kinds", ["recordings with vocals", "target-free recordings", *JUDGED], list(kinds(corpora, others)))


def data_config(target: tuple[str, ...] = VOCALS) -> DataConfig:
    """Settings of `recordings`."""
    return dataclasses.replace(load_config("recordings").data, target=target)


def measure_songs(root: Path, kept: Path) -> Corpus:
    """Measure the mixtures of a corpus, and their accompaniments for every target."""
    tracks = {stem: find_tracks(Musdb18HQ(root), (stem,), validation_share=0.5, seed=0) for stem in STEMS}
    mixtures = {track.name: track.mixture for track in tracks["vocals"] if track.mixture}
    accompaniments = {
        stem: {track.name: track.accompaniment for track in found if track.accompaniment} for stem, found in tracks.items()
    }
    return Corpus(
        measure_once(mixtures, kept.with_stem(f"{kept.stem}-mixtures")),
        {stem: measure_once(found, kept.with_stem(f"{kept.stem}-no-{stem}")) for stem, found in accompaniments.items()},
    )


def measure_once(recordings: dict[str, Recording], kept: Path) -> Set:
    """Measure recordings as `jaxpu prepare` does, or read what was measured before."""
    if not kept.exists():
        print(f"Measuring {len(recordings)} recordings for {kept.name}", flush=True)
        with ProcessPoolExecutor() as pool:
            found = dict(zip(recordings, pool.map(measure, recordings.values()), strict=True))
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps({name: dataclasses.asdict(each) for name, each in found.items() if each}))
    statistics: Set = decode(dict[str, Statistics], json.loads(kept.read_text()))
    return statistics


def measure(recording: Recording) -> Statistics | None:
    """Measure one recording; None if it is too short or silent."""
    config = data_config()
    assert recording.num_samples is not None
    if recording.num_samples < 4 * config.patch.clip_s * recording.sample_rate:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        track = PatchMaker(config).track(Track(recording.name, "train", None, recording), Path(scratch))
        meter = StatisticsMeter(config.patch, len(track.starts["accompaniment"]))
        for patches in track.patches():
            meter.add(patches.stft, patches.levels, patches.active)
    return meter.result()


def divide(mixtures: Set, accompaniments: Set, seed: int) -> tuple[Set, Set]:
    """Half of the songs with the target, and the accompaniment of the other half."""
    names = np.random.default_rng(seed).permutation(sorted(mixtures)).tolist()
    half = len(names) // 2
    return {name: mixtures[name] for name in names[:half]}, {name: accompaniments[name] for name in names[half:]}


def divisions(corpora: dict[str, Corpus]) -> list[list[str]]:
    """Count the divisions of every corpus that cause a warning."""
    rows = []
    for name, corpus in corpora.items():
        for stem, accompaniments in corpus.accompaniments.items():
            found = [judge(*divide(corpus.mixtures, accompaniments, seed), (stem,)) for seed in range(DIVISIONS)]
            areas = [each["quiet_auc"] for each in found if each["quiet_auc"] is not None]
            warned = sum(bool(each["warnings"]) for each in found)
            told = f"{np.median(areas):.0%} ({min(areas):.0%} to {max(areas):.0%})" if areas else ""
            rows.append([name, stem, f"{warned} of {DIVISIONS}", told])
            for text in {text for each in found for text in each["warnings"]}:
                print(f"{name}, {stem}: {text}", flush=True)
    return rows


def kinds(corpora: dict[str, Corpus], others: dict[str, Set]) -> list[list[str]]:
    """Compare the mixtures of every corpus with the accompaniments of the others, and with other recordings."""
    rows = []
    for name, corpus in corpora.items():
        free = {f"{other}, accompaniment": found.accompaniments["vocals"] for other, found in corpora.items() if other != name}
        for other, statistics in (free | others).items():
            rows.append([name, other, *shown(judge(corpus.mixtures, statistics, VOCALS))])
    return rows


def changes(root: Path, corpus: Corpus, work: Path) -> list[list[str]]:
    """Compare half of the mixtures with the changed accompaniment of the other half, one change at a time."""
    unlabeled, positive = divide(corpus.mixtures, corpus.accompaniments["vocals"], 0)
    rows = [["none", *shown(judge(unlabeled, positive, VOCALS))]]
    sparse = find_tracks(Musdb18HQ(root), ("vocals", "drums"), validation_share=0.5, seed=0)
    recordings = {track.name: track.accompaniment for track in sparse if track.accompaniment and track.name in positive}
    without_drums = measure_once(recordings, work / "changes" / "without-drums.json")
    rows.append(["no drums", *shown(judge(unlabeled, without_drums, VOCALS))])
    tracks = find_tracks(Musdb18HQ(root), VOCALS, validation_share=0.5, seed=0)
    recordings = {track.name: track.accompaniment for track in tracks if track.accompaniment and track.name in positive}
    for name, change in CHANGES.items():
        kept = work / "changes" / f"{slug(name)}.json"
        with tempfile.TemporaryDirectory() as scratch:
            changed = (
                {} if kept.exists() else {each: write_changed(recordings[each], change, Path(scratch)) for each in recordings}
            )
            rows.append([name, *shown(judge(unlabeled, measure_once(changed, kept), VOCALS))])
    return rows


def write_changed(recording: Recording, change: Change, folder: Path) -> Recording:
    """Write a changed recording as a file of its own."""
    path = folder / f"{slug(recording.name)}.wav"
    samples = change(recording.read(), recording.sample_rate)
    soundfile.write(path, 0.9 * samples.T / np.abs(samples).max(), recording.sample_rate, "FLOAT")
    return Recording(recording.name, folder, (Part(path),))


def _filtered(samples: np.ndarray, rate: int, edges_hz: float | list[float], kind: str) -> np.ndarray:
    return np.asarray(scipy.signal.sosfilt(scipy.signal.butter(3, edges_hz, kind, fs=rate, output="sos"), samples, axis=1))


def _compressed(samples: np.ndarray, rate: int) -> np.ndarray:
    """Even out the loudness: divide by the level over half a second."""
    level = np.sqrt(scipy.ndimage.uniform_filter1d(np.square(samples).mean(0), rate // 2))
    return samples / (level + 0.02 * level.max())


def _reverberant(samples: np.ndarray, rate: int) -> np.ndarray:
    """Put the sound into a hall of 4 s, far from the listener."""
    seconds = np.arange(4 * rate) / rate
    tail = np.random.default_rng(0).normal(size=(2, len(seconds))) * 10 ** (-3 * seconds / 4)
    wet = scipy.signal.fftconvolve(samples, tail, axes=1)[:, : samples.shape[1]]
    return 0.3 * samples / samples.std() + wet / wet.std()


def _coded(samples: np.ndarray, rate: int) -> np.ndarray:
    """Code as MP3 at 96 kbit/s, and decode."""
    with tempfile.TemporaryDirectory() as folder:
        plain, coded, back = (Path(folder) / name for name in ("a.wav", "a.mp3", "b.wav"))
        soundfile.write(plain, samples.T, rate, "FLOAT")
        for source, sink in ((plain, coded), (coded, back)):
            subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-b:a", "96k", sink], check=True)
        return soundfile.read(back, always_2d=True)[0].T


CHANGES: dict[str, Change] = {
    "40 % silence": lambda samples, rate: samples * (np.arange(samples.shape[1]) > 0.4 * samples.shape[1]),
    "high-pass at 200 Hz": lambda samples, rate: _filtered(samples, rate, 200, "high"),
    "12 dB more around 3.5 kHz": lambda samples, rate: samples + 3 * _filtered(samples, rate, [3000, 4100], "band"),
    "MP3 at 96 kbit/s, resampled from 12 kHz": lambda samples, rate: _coded(
        scipy.signal.resample_poly(scipy.signal.resample_poly(samples, 12_000, rate, axis=1), rate, 12_000, axis=1), rate
    ),
    "played 1.6 times as fast": lambda samples, rate: scipy.signal.resample_poly(samples, 5, 8, axis=1),
    "in a hall": _reverberant,
    "compressed": _compressed,
    "one channel": lambda samples, rate: np.repeat(samples.mean(0, keepdims=True), 2, axis=0),
}
"""Changes by name; each takes samples (channels, samples) and the sample rate."""


def judge(unlabeled: Set, positive: Set, target: tuple[str, ...]) -> dict[str, Any]:
    """Compare two sets as `jaxpu prepare` does."""
    return compare(unlabeled, positive, data_config().patch, target)


def shown(found: dict[str, Any]) -> tuple[str, str]:
    """The cells of a comparison: share of pairs told apart, and the differences that are named."""
    area = "" if found["quiet_auc"] is None else f"{found['quiet_auc']:.0%}"
    named = [re.findall(r"without (?:the target|it) (?:have )?(.*?(?=\. )|.*)", text)[-1] for text in found["warnings"]]
    return area, "; ".join(named) or "none"


def write(name: str, columns: list[str], rows: list[list[str]]) -> None:
    """Write a table of docs/results.md."""
    table = {
        "commands": [],
        "machine": "By `benchmarks/folder_check.py`, with the settings of `recordings`.",
        "columns": columns,
        "rows": rows,
    }
    write_text(RESULTS / f"{name}.json", json.dumps(table, indent=1) + "\n")
    for row in rows:
        print(f"{name}: {' | '.join(row)}", flush=True)


if __name__ == "__main__":
    main()
