"""Measure how many of the passages that `jaxpu suggest` finds are free of the target, and how many it misses.

    python benchmarks/suggested_marks.py MODEL CORPUS
    python benchmarks/suggested_marks.py MODEL SONGS --marks SONGS

CORPUS has stems; its test songs are used.  Of SONGS, marks tell where the target rests, such as karaoke notes.  Precision: the
share of the suggested seconds in which the target rests.  Recall: the share of its rests of `LEAST_S` and more that is suggested.
Both for several values of `KEPT_SHARE`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from marks import FRAME_S, LEAST_S, plays

from data_pipeline import audio
from data_pipeline.marks import find_marks
from data_pipeline.recording_files import find_recordings
from data_pipeline.tracks import detect_source, find_tracks
from jaxpu import load_model
from jaxpu.core.network import TrainedModel
from jaxpu.separation import suggest

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--marks", type=Path)
    arguments = parser.parse_args(args)
    model = load_model(arguments.model)
    if arguments.marks is None:
        energies, playing = of_stems(model, arguments.corpus, arguments.split)
    else:
        playing = of_marks(arguments.corpus, arguments.marks)
        energies = {path: suggest.measure(model, path) for path in playing}
    print(f"{'share':>6} {'suggested':>10} {'precision':>10} {'recall':>8}")
    for share in SHARES:
        suggested = true = rests = 0.0
        found = suggest.passages(energies, share)
        for path, plays_in_frame in playing.items():
            marked = np.zeros_like(plays_in_frame)
            for each in found.get(path, []):
                marked[round(each.begin_s / FRAME_S) : round(each.end_s / FRAME_S)] = True
            suggested += marked.sum() * FRAME_S
            true += (marked & ~plays_in_frame).sum() * FRAME_S
            rests += long_rests(plays_in_frame).sum() * FRAME_S
        precision = f"{true / suggested:.2f}" if suggested else "-"
        print(f"{share:>6} {suggested:>8.0f} s {precision:>10} {true / rests:>8.2f}")


def of_stems(model: TrainedModel, corpus: Path, split: str) -> tuple[dict[Path, suggest.Energies], dict[Path, np.ndarray]]:
    """Energies of the songs of a split, and whether the target plays in each frame of `FRAME_S` by its stem."""
    target = model.config.data.target
    energies, playing = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for song in find_tracks(detect_source(corpus), target, validation_share=0.5, seed=0):
            if song.split != split:
                continue
            assert song.mixture is not None
            path = Path(folder) / f"{song.name}.wav"
            soundfile.write(path, song.mixture.read().T, song.mixture.sample_rate, "FLOAT")
            energies[path] = suggest.measure(model, path)
            playing[path] = np.any([plays(song, stem) for stem in target], axis=0)
    return energies, playing


def of_marks(songs: Path, marks: Path) -> dict[Path, np.ndarray]:
    """Whether the target plays in each frame of `FRAME_S`, by the marks of recordings."""
    recordings = find_recordings(songs).paths
    playing = {}
    for path, found in find_marks(marks, songs, recordings).passages.items():
        info = audio.probe(path)
        playing[path] = np.ones(int((info.num_samples or info.guess or 0) / info.sample_rate / FRAME_S), bool)
        for mark in found:
            end = None if mark.end_s is None else round(mark.end_s / FRAME_S)
            playing[path][round(mark.begin_s / FRAME_S) : end] = False
    return playing


def long_rests(playing: np.ndarray) -> np.ndarray:
    """Frames in rests of at least `LEAST_S`, bool (frames,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], playing, [True]]).astype(int)))
    long = np.zeros_like(playing)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        long[begin:end] = (end - begin) * FRAME_S >= LEAST_S
    return long


if __name__ == "__main__":
    main()
