"""Scores of one track, in NumPy: museval's SDR, SI-SDR, kept energy and blank output.

museval excludes a frame as soon as one estimate is silent in it, and refuses an estimate that is silent throughout: blank output,
the worst failure, does not count.  Here blank output is scored, and the frames that museval excludes are counted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from jaxpu.core import metrics

FloatArray = npt.NDArray[np.floating[Any]]

SOURCES = ("target", "accompaniment")
FRAME_S = 1.0
"""Seconds of a frame, as museval's default."""

ACTIVE_RATIO = 1e-4
"""A source is active in a frame with at least this fraction of its mean energy per frame: -40 dB."""

BLANK_RATIO = 1e-4
"""An estimate is blank in an active frame if it has less than this fraction of the target's energy: -40 dB."""


class EvaluationError(UserError):
    """A model that cannot be evaluated, or runs that cannot be compared."""


@dataclasses.dataclass(frozen=True)
class TrackScores:
    """Scores of one estimate of one track; decibels unless said otherwise.

    Frames last one second and do not overlap; an incomplete last one is dropped, as in museval.

    Attributes:
        sdr: float64 (frames,) by source, "target" and "accompaniment": SDR without a filter.  NaN only where a *reference* is
            silent; a silent estimate has 0.  Where no signal is silent it equals museval's SDR.
        museval: float64 (frames,) by source, then by "SDR", "ISR", "SIR" and "SAR": museval's scores, NaN where *any*
            reference or estimate is silent.  ISR, SIR and SAR are NaN unless `full` was asked for.
        si_sdr: of the target over the whole track, all channels as one signal; -100 for a silent estimate.
        si_sdr_improvement: the same, minus the SI-SDR of the mixture (the sum of the references).
        kept_energy: energy of the estimated target over that of the target, a ratio; 0 for a silent estimate.
        blank_rate: share of the frames with active target in which the estimate is blank; see ACTIVE_RATIO, BLANK_RATIO.
        num_frames: frames of the track.
        excluded_frames: frames that museval excludes.
        excluded_by_estimate: those that museval excludes only because an estimate is silent.
    """

    sdr: dict[str, npt.NDArray[np.float64]]
    museval: dict[str, dict[str, npt.NDArray[np.float64]]]
    si_sdr: float
    si_sdr_improvement: float
    kept_energy: float
    blank_rate: float
    num_frames: int
    excluded_frames: int
    excluded_by_estimate: int

    def median(self, source: str, metric: str = "SDR") -> float:
        """Score of the track by museval's rule: the median over the frames that it includes; NaN if it excludes all."""
        return nan_median(self.museval[source][metric])

    def median_sdr_with_blank(self, source: str) -> float:
        """Median SDR over all frames in which neither reference is silent, frames of blank output included."""
        return nan_median(self.sdr[source])

    def to_museval_json(self, track_name: str, target_name: str = "vocals") -> str:
        """The JSON text that museval writes for a track; `museval.EvalStore.add_eval_dir` reads it."""
        import museval

        store = museval.TrackStore(track_name, win=FRAME_S, hop=FRAME_S)
        for source in SOURCES:
            values = {metric: frames.tolist() for metric, frames in self.museval[source].items()}
            store.add_target(target_name if source == "target" else source, values)
        store.validate()
        return str(store.json)

    def to_json(self) -> dict[str, Any]:
        """The scores of the whole track, JSON-serialisable, with None for NaN."""
        scores: dict[str, Any] = {
            name: getattr(self, name) for name in ("si_sdr", "si_sdr_improvement", "kept_energy", "blank_rate")
        }
        for source in SOURCES:
            scores[f"sdr_{source}"] = self.median(source)
            scores[f"sdr_{source}_with_blank"] = self.median_sdr_with_blank(source)
            for metric in ("ISR", "SIR", "SAR"):
                scores[f"{metric.lower()}_{source}"] = self.median(source, metric)
        scores = {name: None if np.isnan(value) else float(value) for name, value in scores.items()}
        for name in ("num_frames", "excluded_frames", "excluded_by_estimate"):
            scores[name] = getattr(self, name)
        return scores


def nan_median(values: npt.ArrayLike) -> float:
    """Median of the values that are not NaN; NaN, without a warning, if there are none."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(np.median(array)) if len(array) else float("nan")


def silent_references(reference: Mapping[str, FloatArray]) -> list[str]:
    """Names of the references that are silent throughout, against which nothing can be scored."""
    return [source for source in SOURCES if not _sounds(reference[source])]


def score_track(
    reference: Mapping[str, FloatArray], estimate: Mapping[str, FloatArray], sample_rate: int, *, full: bool = False
) -> TrackScores:
    """Score the estimate of one track.

    Args:
        reference: floating point (channels, samples) for "target" and for "accompaniment".
        estimate: the same names and shapes.
        sample_rate: in Hz.
        full: compute ISR, SIR and SAR too, with museval's filters of 512 taps; about 1000 times slower.

    Raises:
        ValueError: shapes differ, samples are not finite, or a reference is silent throughout.
    """
    signals = _checked(reference, estimate)
    frame = max(round(FRAME_S * sample_rate), 1)
    framed = {key: _frames(signal, frame) for key, signal in signals.items()}
    sounding = {key: _sounds(frames) for key, frames in framed.items()}
    num_frames = len(framed["reference", "target"])
    references_sound = sounding["reference", "target"] & sounding["reference", "accompaniment"]
    estimates_sound = sounding["estimate", "target"] & sounding["estimate", "accompaniment"]
    counted = references_sound & estimates_sound

    sdr, museval = {}, {}
    extra = _filtered_scores(signals, frame) if full and _all_sound(signals) else {}
    for source in SOURCES:
        ratios = metrics.sdr(
            framed["reference", source].reshape(num_frames, -1), framed["estimate", source].reshape(num_frames, -1)
        )
        sdr[source] = np.where(references_sound, ratios, np.nan)
        missing = np.full(num_frames, np.nan)
        museval[source] = {"SDR": np.where(counted, ratios, np.nan)}
        for metric in ("ISR", "SIR", "SAR"):
            museval[source][metric] = extra.get((source, metric), missing)

    target, estimated = signals["reference", "target"].ravel(), signals["estimate", "target"].ravel()
    mixture = target + signals["reference", "accompaniment"].ravel()
    si_sdr = float(metrics.si_sdr(target, estimated))
    energy = np.sum(framed["reference", "target"] ** 2, axis=(1, 2))
    active = energy >= ACTIVE_RATIO * np.mean(energy)
    blank = np.sum(framed["estimate", "target"] ** 2, axis=(1, 2)) < BLANK_RATIO * energy
    return TrackScores(
        sdr=sdr,
        museval=museval,
        si_sdr=si_sdr,
        si_sdr_improvement=si_sdr - float(metrics.si_sdr(target, mixture)),
        kept_energy=float(np.sum(estimated**2) / np.sum(target**2)),
        blank_rate=float(np.mean(blank[active])) if active.any() else float("nan"),
        num_frames=num_frames,
        excluded_frames=int(np.sum(~counted)),
        excluded_by_estimate=int(np.sum(references_sound & ~estimates_sound)),
    )


def _checked(
    reference: Mapping[str, FloatArray], estimate: Mapping[str, FloatArray]
) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Signals by role, "reference" or "estimate", and source.  Raises ValueError for those that `score_track` refuses."""
    signals = {}
    for role, given in (("reference", reference), ("estimate", estimate)):
        for source in SOURCES:
            signal = np.asarray(given[source], np.float64)
            if signal.ndim != 2 or signal.shape != np.shape(reference["target"]) or signal.size == 0:
                raise ValueError(
                    f"The {role} of the {source} has shape {signal.shape}; it must be (channels, samples), not empty, "
                    f"and the same as the target's reference, {np.shape(reference['target'])}."
                )
            if not np.isfinite(signal).all():
                raise ValueError(f"The {role} of the {source} has samples that are NaN or infinite; they cannot be scored.")
            signals[role, source] = signal
    silent = silent_references(reference)
    if silent:
        raise ValueError(f"The reference of the {' and of the '.join(silent)} is silent throughout; leave the track out.")
    return signals


def _sounds(signal: FloatArray) -> Any:
    """Whether signals are not silent, by museval's rule that the channels of silence sum to exact zeros.

    Args:
        signal: (..., channels, samples).

    Returns:
        bool (...).
    """
    return np.any(np.sum(signal, axis=-2) != 0, axis=-1)


def _all_sound(signals: Mapping[tuple[str, str], FloatArray]) -> bool:
    return all(bool(_sounds(signal)) for signal in signals.values())


def _frames(signal: npt.NDArray[np.float64], frame: int) -> npt.NDArray[np.float64]:
    """Frames as museval has them, (channels, samples) to (frames, channels, frame); a shorter signal is one frame."""
    channels, samples = signal.shape
    frame = min(frame, samples)
    count = samples // frame
    return np.moveaxis(signal[:, : count * frame].reshape(channels, count, frame), 0, 1)


def _filtered_scores(
    signals: Mapping[tuple[str, str], npt.NDArray[np.float64]], frame: int
) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """ISR, SIR and SAR of museval by source and metric, NaN where they are not defined."""
    from museval.metrics import bss_eval

    # museval wants (sources, samples, channels).
    stacked = {role: np.stack([signals[role, source].T for source in SOURCES]) for role in ("reference", "estimate")}
    if all(np.array_equal(signal, np.broadcast_to(signal[..., :1], signal.shape)) for signal in stacked.values()):
        # Mono in two channels: the scores are those of one, but museval's equations have no solution for two.
        stacked = {role: signal[..., :1] for role, signal in stacked.items()}
    try:
        _, isr, sir, sar, _ = bss_eval(stacked["reference"], stacked["estimate"], window=frame, hop=frame)
    except (AttributeError, np.linalg.LinAlgError):
        # Channels that depend on each other. museval means to catch that, but by a name that NumPy 2 has removed.
        return {}
    return {
        (source, metric): np.where(np.isinf(scores[index]), np.nan, scores[index])
        for index, source in enumerate(SOURCES)
        for metric, scores in (("ISR", isr), ("SIR", sir), ("SAR", sar))
    }
