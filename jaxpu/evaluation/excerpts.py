"""Excerpts of scored tracks, which `jaxpu.evaluation.html_report` shows and plays.

They are stored beside the scores as `excerpts/TRACK/{mixture,target,estimate}.flac`, at the track's rate.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline import audio
from data_pipeline.files import replacing
from jaxpu.evaluation.scoring import TrackScores

FloatArray = npt.NDArray[np.floating[Any]]

EXCERPT_S = 12.0
"""Seconds of an excerpt; a shorter track is taken whole."""

STEP_S = 0.5
"""An excerpt begins at a multiple of this."""

SIGNALS = ("mixture", "target", "estimate")
FOLDER = "excerpts"


def choose(scores: Mapping[str, TrackScores], number: int) -> list[str]:
    """Choose `number` tracks, or all if there are fewer, evenly spread from the faintest target to the loudest.

    The SI-SDR of the mixture decides, so that the choice is the same for all models.
    """
    levels = {name: round(track.si_sdr - track.si_sdr_improvement, 3) for name, track in scores.items()}
    ordered = sorted(levels, key=lambda name: (levels[name], name))
    number = min(number, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * number)] for index in range(number)]


def loudest_excerpt(target: FloatArray, sample_rate: int) -> slice:
    """The samples of the EXCERPT_S seconds in which the target (channels, samples) has the most energy."""
    step, num_samples = round(STEP_S * sample_rate), target.shape[1]
    length = min(round(EXCERPT_S * sample_rate), num_samples)
    energy = np.concatenate([[0.0], np.cumsum(np.sum(np.square(target, dtype=np.float64), axis=0))])
    starts = np.arange(0, num_samples - length + 1, step)
    start = int(starts[np.argmax(energy[starts + length] - energy[starts])])
    return slice(start, start + length)


def write(
    out_dir: str | os.PathLike[str], tracks: Iterable[tuple[str, Mapping[str, FloatArray], int]]
) -> dict[str, dict[str, float]]:
    """Write the excerpts, replacing those of an earlier evaluation.

    Args:
        out_dir: output folder of the evaluation.
        tracks: name, then for each of SIGNALS the whole waveform (channels, samples), then the rate in Hz.

    Returns:
        By track, `start_s`, `seconds` and `sample_rate` of its excerpt.
    """
    folder = Path(out_dir) / FOLDER
    written = {}
    with replacing(folder) as partial:
        for name, signals, rate in tracks:
            excerpt = loudest_excerpt(signals["target"], rate)
            (partial / name).mkdir(parents=True)
            # One gain for all, which does not depend on the model: so their levels can be compared.
            peak = max(float(np.abs(signals[signal][:, excerpt]).max()) for signal in ("mixture", "target"))
            for signal in SIGNALS:
                path = partial / name / f"{signal}.flac"
                with audio.Writer(path, rate, len(signals[signal]), subtype="PCM_16") as writer:
                    writer.write(signals[signal][:, excerpt] / np.float32(max(peak, 1.0)))
            seconds = (excerpt.stop - excerpt.start) / rate
            written[name] = {"start_s": excerpt.start / rate, "seconds": seconds, "sample_rate": rate}
        shutil.rmtree(folder, ignore_errors=True)  # A rename replaces only an empty folder.
    return written


def read(out_dir: str | os.PathLike[str], name: str) -> dict[str, FloatArray]:
    """Read the excerpt of a track: float32 (channels, samples) for each of SIGNALS.

    Raises:
        AudioError: a file is missing or damaged.
    """
    paths = {signal: Path(out_dir) / FOLDER / name / f"{signal}.flac" for signal in SIGNALS}
    return {signal: np.concatenate(list(audio.read_blocks(path)), axis=1) for signal, path in paths.items()}
