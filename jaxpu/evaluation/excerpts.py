"""Passages of scored tracks, to look at and listen to: what `jaxpu.evaluation.html_report` shows.

They lie beside the scores as `excerpts/TRACK/{mixture,target,estimate}.flac`, at the track's rate.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline import audio
from jaxpu.evaluation.scoring import TrackScores

FloatArray = npt.NDArray[np.floating[Any]]

EXCERPT_S = 12.0
"""Seconds of a passage; a shorter track is taken whole."""

STEP_S = 0.5
"""A passage begins at a multiple of this."""

SIGNALS = ("mixture", "target", "estimate")
FOLDER = "excerpts"


def choose(scores: Mapping[str, TrackScores], number: int) -> list[str]:
    """The names of `number` tracks, or of all if there are fewer, spread evenly from the faintest target to the loudest.

    What decides is the SI-SDR of the mixture, so that all models are heard on the same tracks.
    """
    levels = {name: round(track.si_sdr - track.si_sdr_improvement, 3) for name, track in scores.items()}
    ordered = sorted(levels, key=lambda name: (levels[name], name))
    number = min(number, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * number)] for index in range(number)]


def loudest_passage(target: FloatArray, sample_rate: int) -> slice:
    """The samples of the passage of EXCERPT_S in which the target (channels, samples) has the most energy."""
    step, num_samples = round(STEP_S * sample_rate), target.shape[1]
    length = min(round(EXCERPT_S * sample_rate), num_samples)
    energy = np.concatenate([[0.0], np.cumsum(np.sum(np.square(target, dtype=np.float64), axis=0))])
    starts = np.arange(0, num_samples - length + 1, step)
    start = int(starts[np.argmax(energy[starts + length] - energy[starts])])
    return slice(start, start + length)


def write(
    out_dir: str | os.PathLike[str], tracks: Iterable[tuple[str, Mapping[str, FloatArray], int]]
) -> dict[str, dict[str, float]]:
    """Writes the passages, in place of those of an earlier evaluation.

    Args:
        out_dir: of the evaluation.
        tracks: name, then for each of SIGNALS the whole waveform (channels, samples), then the rate in Hz.

    Returns:
        By track, `start_s`, `seconds` and `sample_rate` of its passage.
    """
    folder = Path(out_dir) / FOLDER
    partial = folder.with_name(f".{FOLDER}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    written = {}
    for name, signals, rate in tracks:
        passage = loudest_passage(signals["target"], rate)
        (partial / name).mkdir(parents=True)
        for signal in SIGNALS:
            path = partial / name / f"{signal}.flac"
            with audio.Writer(path, rate, len(signals[signal]), subtype="PCM_16") as writer:
                writer.write(signals[signal][:, passage])
        seconds = (passage.stop - passage.start) / rate
        written[name] = {"start_s": passage.start / rate, "seconds": seconds, "sample_rate": rate}
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return written


def read(out_dir: str | os.PathLike[str], name: str) -> dict[str, FloatArray]:
    """The passage of a track: float32 (channels, samples) for each of SIGNALS.

    Raises:
        AudioError: a file is missing or damaged.
    """
    paths = {signal: Path(out_dir) / FOLDER / name / f"{signal}.flac" for signal in SIGNALS}
    return {signal: np.concatenate(list(audio.read_blocks(path)), axis=1) for signal, path in paths.items()}
