"""Plots of separations and of runs, with matplotlib."""

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.files import replacing
from jaxpu.monitoring.watchdog import BLANK_SHARE, target_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANGE_DB = 70
"""Range of levels in a spectrogram, below its loudest bin, in dB."""

AXES = (0.1, 0.17, 0.885, 0.8)
"""Left, bottom, width and height of the axes of a report's spectrogram, as fractions of its picture."""

CURVES = {
    "loss": "loss",
    "estimated_error": "estimated error",
    "si_sdr_improvement": "SI-SDR improvement in dB",
    "kept_energy": "kept share of the energy",
    "inactive_share": "share of inactive bins",
}
"""The curves of a run: axis label by name in metrics.jsonl."""

MIN_DB = -20.0
"""Lower improvements are drawn at this value, in dB: those of blank output would make all others look alike."""

# Legible on light and on dark pages, since the pictures are transparent.
_INK = "#767676"
_STYLE: Any = {
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_SIZE = (4.6, 2.6)  # Inches, so that text is legible at the width of a phone.


def plot_separation(
    path: str | Path,
    patch: PatchSpec,
    sample_rate: int,
    *,
    mixture: np.ndarray,
    reference: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    title: str,
) -> None:
    """Write a PNG file with the spectrograms of mixture, true target and estimated targets, on one scale, above their masks.

    Args:
        path: of the PNG file.
        patch: gives the sizes of the STFT.
        sample_rate: of the waveforms, in Hz.
        mixture: float32 (samples,).
        reference: float32 (samples,), the true target.
        estimates: float32 (samples,) each, estimated targets by the heading above them.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    signals = {"mixture": mixture, "target, true": reference, **estimates}
    spectra = [_magnitude(signal, patch.n_fft, patch.hop_length) for signal in signals.values()]
    top = max(float(_level_db(spectrum).max()) for spectrum in spectra)
    figure = Figure(figsize=(4 * len(signals), 6.4), layout="constrained")
    panels = figure.subplots(2, len(signals), sharex=True, sharey=True)
    scale: Any = {"origin": "lower", "aspect": "auto", "extent": (0.0, len(mixture) / sample_rate, 0.0, sample_rate / 2000)}
    for (upper, lower), name, spectrum in zip(panels.T, signals, spectra, strict=True):
        levels = upper.imshow(_level_db(spectrum), vmin=top - RANGE_DB, vmax=top, cmap="magma", **scale)
        masks = lower.imshow(_mask(spectrum, spectra[0], top), vmin=0, vmax=1, cmap="gray", **scale)
        upper.set_title(name)
        lower.set_xlabel("time in s")
    for axes in panels[:, 0]:
        axes.set_ylabel("frequency in kHz")
    figure.colorbar(levels, ax=panels[0], label="level in dB")
    figure.colorbar(masks, ax=panels[1], label="mask: share of the mixture")
    figure.suptitle(title)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def spectrograms(
    mixture: np.ndarray, reference: np.ndarray, estimates: Sequence[np.ndarray], sample_rate: int
) -> Iterator[bytes]:
    """Spectrograms for a report: mixture, true target, then for every estimate its spectrogram and its mask.

    All levels are on one scale.  The mask is the ratio of the magnitudes of estimate and mixture in every bin, at most 1.

    Args:
        mixture: float32 (samples,).
        reference: float32 (samples,), the true target.
        estimates: float32 (samples,) each, estimated targets.
        sample_rate: of the waveforms, in Hz.

    Yields:
        WebP files.
    """
    n_fft = 2048 if sample_rate >= 32_000 else 1024
    spectra = [_magnitude(signal, n_fft, n_fft // 4) for signal in (mixture, reference, *estimates)]
    top = max(float(_level_db(spectrum).max()) for spectrum in spectra)
    extent = (0.0, len(mixture) / sample_rate, 0.0, sample_rate / 2000)
    for index, spectrum in enumerate(spectra):
        yield _spectrogram(_level_db(spectrum), extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")
        if index > 1:
            yield _spectrogram(_mask(spectrum, spectra[0], top), extent, vmin=0, vmax=1, cmap="gray")


def plot_improvements(scores: Mapping[str, Sequence[float]]) -> bytes:
    """Plot the SI-SDR improvement of every track by method or run, joined by a vertical line: a WebP file.

    Args:
        scores: in dB, by name in the legend, in the order of the tracks.
    """

    def draw(axes: "Axes") -> None:
        heights = np.maximum(np.array(list(scores.values())), MIN_DB)  # (methods, tracks)
        numbers = np.arange(1, heights.shape[1] + 1)
        axes.vlines(numbers, heights.min(0), heights.max(0), color=_INK, linewidth=0.6)
        for row, name in zip(heights, scores, strict=True):
            axes.plot(numbers, row, "o", markersize=4, label=_plain(name))
        axes.axhline(0, color=_INK, linewidth=0.6)
        axes.locator_params(axis="x", integer=True)
        axes.set(xlabel="song", ylabel="SI-SDR improvement in dB")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small", columnspacing=1)

    return _picture(draw)


def plot_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bytes]:
    """Plot learning and watchdog curves of runs over each other: WebP files by the keys of CURVES that any run logged.

    Args:
        logs: lines of metrics.jsonl by name in the legend.
    """

    def draw(axes: "Axes", key: str) -> None:
        for index, (name, lines) in enumerate(logs.items()):
            color = f"C{index}"
            axes.plot(*_series(lines, "train", key), color=color, label=_plain(name))
            # Joined by lines only where no line of the training steps shows the course.
            style = "o" if _series(lines, "train", key)[0] else "o-"
            axes.plot(*_series(lines, "evaluate", key), style, markersize=4, color=color)
            if key == "kept_energy":
                _draw_watchdog(axes, lines, color)
        if len(logs) > 1:
            axes.legend()
        axes.set(xlabel="step", ylabel=CURVES[key])

    logged = {key for lines in logs.values() for line in lines for key in line}
    return {key: _picture(functools.partial(draw, key=key)) for key in CURVES if key in logged}


def _series(lines: Sequence[Mapping[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values in the lines of a kind that have this key."""
    found = [line for line in lines if line["kind"] == kind and key in line]
    return [line["step"] for line in found], [line[key] for line in found]


def _draw_watchdog(axes: "Axes", lines: Sequence[Mapping[str, Any]], color: str) -> None:
    """Draw the watchdog's threshold for blank output as a dotted line, with a cross for each warning.

    And, if there are stems, the true target's share of the energy on held-out songs as a dashed line.
    """
    axes.plot(*_series(lines, "evaluate", "true_kept_energy"), "--", color=color)
    names = ("input_energy", "unlabeled_energy", "positive_energy")
    lines_with_all = [line for line in lines if all(name in line for name in names)]
    steps, inputs = _series(lines_with_all, "train", "input_energy")
    energies = [_series(lines_with_all, "train", name)[1] for name in names[1:]]
    means = [np.cumsum(values) / np.arange(1, len(values) + 1) for values in energies]
    limits = [BLANK_SHARE * target_share(*values) for values in zip(*means, inputs, strict=True)]
    axes.plot(steps, limits, ":", color=color)
    warned = [line["step"] for line in lines if line["kind"] == "warning"]
    axes.plot(warned, np.interp(warned, steps, limits) if steps else warned, "x", color=color)
    axes.set_ylim(bottom=0)


def _plain(text: str) -> str:
    """Text of a legend: matplotlib reads dollars as formulas, and hides what begins with an underscore."""
    return text.lstrip("_").replace("$", r"\$")


def _magnitude(waveform: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """Magnitude spectrogram, (bins, frames)."""
    import librosa

    return np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length))


def _mask(magnitude: np.ndarray, mixture: np.ndarray, top_db: float) -> np.ndarray:
    """Ratio of the magnitudes of a signal and the mixture, at most 1.

    In bins of the mixture that are too faint to show, RANGE_DB below `top_db`, the ratio to that level is shown instead.
    """
    return np.minimum(magnitude / np.maximum(mixture, 10 ** ((top_db - RANGE_DB) / 20)), 1.0)


def _level_db(magnitude: np.ndarray) -> np.ndarray:
    return 20 * np.log10(magnitude + 1e-6)


def _spectrogram(values: np.ndarray, extent: tuple[float, float, float, float], **scale: Any) -> bytes:
    def draw(axes: "Axes") -> None:
        axes.imshow(values, origin="lower", aspect="auto", extent=extent, **scale)
        axes.set(xlabel="s", ylabel="kHz")

    return _picture(draw, AXES)


def _picture(draw: Callable[["Axes"], None], position: tuple[float, float, float, float] | None = None) -> bytes:
    """Draw a plot as a WebP file, in which a spectrogram takes a seventh of the bytes of a PNG file.

    Args:
        draw: draws the contents.
        position: of the axes, as AXES; None makes room for their labels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), io.BytesIO() as file:
        figure = Figure(figsize=_SIZE, layout=None if position else "constrained")
        draw(figure.add_axes(position) if position else figure.subplots())
        figure.savefig(file, format="webp", dpi=150, transparent=True, pil_kwargs={"quality": 85})
        return file.getvalue()
