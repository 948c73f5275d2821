"""The pictures of docs/results.md: learning curves, and masks beside the ideal ratio mask."""

from pathlib import Path

import librosa
import numpy as np
import soundfile
import tables
from experiments import experiments
from matplotlib.figure import Figure

from data_pipeline.files import replacing
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.separation.files import separate_waveform

MASK_SECONDS = 10.0
"""Length of the passage whose masks are drawn, from the beginning of the song."""


def draw_curves(path: Path, target: str, found: dict[str, tables.Result]) -> None:
    """Draw SI-SDR improvement on the validation songs by step, mean over seeds, a line per method; nothing without runs."""
    groups: dict[str, list[tables.Result]] = {}
    for experiment in experiments():
        if experiment.block == target and experiment.name in found:
            groups.setdefault(experiment.method, []).append(found[experiment.name])
    if not groups:
        return
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for method, results in groups.items():
        steps = [line["step"] for line in results[0]["validation"]]
        curves = [[line["si_sdr_improvement"] for line in result["validation"]] for result in results]
        axes.plot(steps, np.mean(curves, axis=0), label=method, linestyle="--" if method.startswith("supervised") else "-")
    axes.set(xlabel="step", ylabel="SI-SDR improvement on validation clips in dB", title=target)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def draw_masks(path: Path, target: str, found: dict[str, tables.Result], test_songs: Path, runs: Path) -> None:
    """Draw the masks of seed 0 of every method, but for other learning rates, beside the ideal ratio mask; nothing without runs.

    Args:
        path: the PNG.
        target: block of experiments.
        found: finished experiments.
        test_songs: folder of songs in the layout of MUSDB18-HQ; the first one is drawn.
        runs: folder of runs; missing ones are left out.
    """
    chosen = [
        each
        for each in experiments()
        if each.block == target
        and each.seed == 0
        and each.name in found
        and " rate" not in each.method
        and (runs / each.name).is_dir()
    ]
    if not chosen:
        return
    patch = chosen[0].config.data.patch
    song = sorted(test_songs.iterdir())[0]

    def read(stem: str) -> np.ndarray:
        samples, rate = soundfile.read(song / f"{stem}.wav", dtype="float32", always_2d=True)
        first = samples[: int(MASK_SECONDS * rate)].mean(1)
        return librosa.resample(first, orig_sr=rate, target_sr=patch.sample_rate)

    def magnitude(waveform: np.ndarray) -> np.ndarray:
        return np.abs(librosa.stft(waveform, n_fft=patch.n_fft, hop_length=patch.hop_length))

    mixture, truth = read("mixture"), read(target)
    mixture_magnitude, target_magnitude = magnitude(mixture), magnitude(truth)
    accompaniment_magnitude = magnitude(mixture - truth)
    energies = np.maximum(target_magnitude**2 + accompaniment_magnitude**2, 1e-12)
    masks = {"ideal ratio mask": target_magnitude**2 / energies}
    for experiment in chosen:
        estimate = separate_waveform(load_model(runs / experiment.name), mixture[None], patch.sample_rate)[0]
        masks[experiment.method] = magnitude(estimate) / np.maximum(mixture_magnitude, 1e-6)
    extent = (0.0, len(mixture) / patch.sample_rate, 0.0, patch.sample_rate / 2000)
    figure = _panels(mixture_magnitude, masks, extent)
    figure.suptitle(f"{song.name}, {target}: mask of every bin (white: 1)")
    _save(figure, path)


def _panels(mixture: np.ndarray, masks: dict[str, np.ndarray], extent: tuple[float, float, float, float]) -> Figure:
    """The spectrogram of the mixture and the masks, side by side."""
    columns = 4
    rows = -(-(1 + len(masks)) // columns)
    figure = Figure(figsize=(14, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    level = 20 * np.log10(mixture + 1e-6)
    flat = list(panels.flat)
    flat[0].imshow(level, origin="lower", aspect="auto", extent=extent, vmin=level.max() - 70, cmap="magma")
    flat[0].set_title("mixture")
    for axes, (name, mask) in zip(flat[1:], masks.items(), strict=False):
        axes.imshow(mask, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=1, cmap="gray")
        axes.set_title(name)
    for axes in flat[1 + len(masks) :]:
        axes.set_visible(False)
    figure.supxlabel("time in s")
    figure.supylabel("frequency in kHz")
    return figure


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90)
