"""Measure how many of the passages that `jaxpu suggest` finds are free of the target, and how many it misses.

    python benchmarks/suggested_marks.py MODEL CORPUS

CORPUS has stems; its test songs are used.  Precision: the share of the suggested seconds in which the stem of the target rests.
Recall: the share of its rests of `LEAST_S` and more that is suggested.  Both for several values of `KEPT_SHARE`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from marks import FRAME_S, LEAST_S, plays

from data_pipeline.tracks import detect_source, find_tracks
from jaxpu import load_model
from jaxpu.separation import suggest

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args(args)
    model = load_model(arguments.model)
    target = model.config.data.target
    songs = find_tracks(detect_source(arguments.corpus), target, validation_share=0.5, seed=0)
    energies, playing = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for song in (song for song in songs if song.split == arguments.split):
            assert song.mixture is not None
            path = Path(folder) / f"{song.name}.wav"
            soundfile.write(path, song.mixture.read().T, song.mixture.sample_rate, "FLOAT")
            energies[path] = suggest.measure(model, path)
            playing[path] = np.any([plays(song, stem) for stem in target], axis=0)
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


def long_rests(playing: np.ndarray) -> np.ndarray:
    """Frames in rests of at least `LEAST_S`, bool (frames,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], playing, [True]]).astype(int)))
    long = np.zeros_like(playing)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        long[begin:end] = (end - begin) * FRAME_S >= LEAST_S
    return long


if __name__ == "__main__":
    main()
