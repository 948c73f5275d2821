"""Comparison of recordings with the target and target-free recordings: differences other than the target.

A network that tells the two sets apart learns whatever differs between them.  That should be the target; but a difference in
level, the low-pass of a codec, or long silences serve as well.  Only sources without stems are compared: with stems, positives
are mixtures minus the target.

Target-free recordings that seem to contain the target are flagged too.  A linear classifier of the two sets scores each recording
without having seen it.  It flags none unless it separates most recordings, and even then it misses most (docs/results.md).

All measurements use a few frames of some of the stored STFTs.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.signal

from data_pipeline.config import PatchSpec
from data_pipeline.third_octaves import bin_frequencies, third_octaves

CLIPS_PER_RECORDING = 24
"""Approximate number of clips measured per recording, at most a third of them: cheap compared to the transform."""

FRAMES_PER_CLIP = 8
"""Frames measured per clip."""

MIN_RECORDINGS = 3
"""Smallest number of recordings in each set for a comparison; fewer have no spread to compare a difference with."""

LOWEST_HZ = 40.0
"""Lowest frequency of a band in which a difference is worth a warning."""

TARGET_DB = 3.0
"""Level that a target as loud as the accompaniment adds: mixtures may be louder by this."""

LEVEL_LIMIT_DB = 3.0
MORE_IN_POSITIVES_DB = 8.0
LESS_IN_POSITIVES_DB = 12.0
BANDWIDTH_LIMIT = 0.08
SILENCE_LIMIT = 0.15
"""Smallest differences worth a warning: of levels; of the power fraction of a third-octave band, if target-free recordings have
more, and if they have less, which may be the target; of bandwidths, relative to the highest frequency; of silent fractions."""

SILENT_DB = -50.0
"""Power of a frame, relative to the mean of its recording, below which it counts as silent."""

MIN_TO_SUSPECT = 15
MIN_AUC = 0.85
"""Conditions for flagging recordings: the number of recordings in each set, and the fraction of all pairs in which the recording
with the target has the higher score."""

_FOLDS = 10
_SHRINKAGE = 0.5
_CLIFF_DB = 20.0  # Music falls by a few dB from one linear band to the next; a low-pass by tens.
_FLOOR_DB = -100.0
_NUM_LINEAR_BANDS = 64
_SHARE_FLOOR_DB = -70.0


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of one recording; JSON-serialisable.

    Attributes:
        level_db: root mean square of its active clips on disk, in dBFS.
        bandwidth_hz: frequency at which the spectrum breaks off, or the highest frequency.
        silent_share: fraction of frames `SILENT_DB` below their mean power.
        spectrum_db: power of every third-octave band relative to the total, at least -70 dB.
        clips: features of every measured clip, by third-octave band: power relative to the total in dB, standard deviation of
            that power over frames in dB, mean standard deviation of single bins in dB, and spectral flatness in dB.
    """

    level_db: float
    bandwidth_hz: float
    silent_share: float
    spectrum_db: list[float]
    clips: list[list[float]]


class StatisticsMeter:
    """Meter of the statistics of one recording, clip by clip.

    Args:
        spec: parameters of the patches.
        num_clips: number of whole clips in the recording.
    """

    def __init__(self, spec: PatchSpec, num_clips: int) -> None:
        self._spec = spec
        self._every_clip = max(3, num_clips // CLIPS_PER_RECORDING)
        self._every_frame = max(1, spec.frames // FRAMES_PER_CLIP)
        self._power = np.zeros(spec.bins)  # Sum over frames.
        self._frames: list[np.ndarray] = []  # Power of each frame.
        self._clips: list[list[float]] = []
        self._starts = _band_starts(spec)
        self._sizes = np.diff(self._starts, append=spec.bins).astype(np.float32)
        self._seen = 0
        window = scipy.signal.get_window(spec.window, spec.win_length)
        # Parseval: all bins but the first and last represent two of the DFT.
        self._to_mean_square = 2 / (spec.n_fft * float(np.square(window).sum()))

    def add(self, stft: np.ndarray, levels: np.ndarray, active: np.ndarray) -> None:
        """Measure consecutive stored clips.

        Args:
            stft: (clips, channels, frames, bins, 2), real and imaginary part.
            levels: divisors of the clips, (clips,).
            active: bool (clips,); others are skipped.
        """
        numbers = np.flatnonzero(active)
        chosen = numbers[(np.arange(len(numbers)) + self._seen) % self._every_clip == 0]
        self._seen += len(numbers)
        if not len(chosen):
            return
        parts = stft[chosen, :, :: self._every_frame].astype(np.float32)
        parts *= levels[chosen].astype(np.float32)[:, None, None, None, None]
        np.square(parts, out=parts)
        power = (parts[..., 0] + parts[..., 1]).mean(axis=1)  # (clips, frames, bins); `sum` over an axis of 2 is slow.
        self._power += power.sum((0, 1), dtype=np.float64)
        self._frames.append(power.sum(-1).ravel())
        self._clips += self._features(power)

    def _features(self, power: np.ndarray) -> list[list[float]]:
        """Compute `Statistics.clips` from the power, float32 (clips, frames, bins)."""
        bands = np.add.reduceat(power, self._starts, axis=-1)
        total = bands.sum((1, 2), keepdims=True) / bands.shape[1] + np.float32(1e-20)
        level, band_level = 10 * np.log10(power / total + np.float32(1e-9)), bands / total
        features = [
            10 * np.log10(band_level.mean(1) + 1e-8),
            (10 * np.log10(band_level + np.float32(1e-6))).std(1),
            np.add.reduceat(level.std(1), self._starts, axis=-1) / self._sizes,
            np.add.reduceat(level.mean(1), self._starts, axis=-1) / self._sizes
            - (10 * np.log10(band_level / self._sizes + 1e-9)).mean(1),
        ]
        return np.concatenate(features, axis=-1).round(2).tolist()

    def result(self) -> Statistics | None:
        """Return the statistics; None if no clip is active, or all are silent."""
        if not self._frames or not self._power.any():
            return None
        frames = np.concatenate(self._frames)
        mean_square = frames.mean() * self._to_mean_square
        shares = np.add.reduceat(self._power, self._starts) / self._power.sum()
        return Statistics(
            level_db=round(float(_db(mean_square)), 2),
            bandwidth_hz=_bandwidth_hz(self._power, self._spec),
            silent_share=round(float(np.mean(frames < frames.mean() * 10 ** (SILENT_DB / 10))), 4),
            spectrum_db=np.maximum(_db(shares), _SHARE_FLOOR_DB).round(1).tolist(),
            clips=self._clips,
        )


def _band_starts(spec: PatchSpec) -> np.ndarray:
    """First bin of every third-octave band, int (bands,); all bins below 44 Hz form one band."""
    bands = third_octaves(spec, lowest=-13)
    return np.flatnonzero(np.diff(bands, prepend=bands[0] - 1))


def _db(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 1e-20))


def _bandwidth_hz(power: np.ndarray, spec: PatchSpec) -> float:
    """Frequency in Hz at which the spectrum drops and stays low; half the sample rate if it does not."""
    starts = np.unique(np.linspace(0, spec.bins, _NUM_LINEAR_BANDS, endpoint=False).astype(int))
    level = _db(np.add.reduceat(power, starts) / np.diff(starts, append=spec.bins))
    level = np.maximum(level - level.max(), _FLOOR_DB)
    highest_above = np.maximum.accumulate(level[::-1])[::-1]
    for band in range(len(level) // 8, len(level) - 3):
        if level[band] - highest_above[band + 3] > _CLIFF_DB:
            return round(float(starts[band + 2] * spec.sample_rate / spec.n_fft), 1)
    return spec.sample_rate / 2


@dataclasses.dataclass(frozen=True)
class _Sets:
    """Statistics of the recordings with the target ("unlabeled") and of the target-free ones ("positive")."""

    unlabeled: list[Statistics]
    positive: list[Statistics]

    def values(self, name: str) -> list[np.ndarray]:
        """Values of a measure in both sets, each (recordings,) or (recordings, bands)."""
        return [np.array([getattr(each, name) for each in members]) for members in (self.unlabeled, self.positive)]

    def means(self, name: str) -> dict[str, Any]:
        """Means of a measure in both sets."""
        means = [values.mean(0).round(3).tolist() for values in self.values(name)]
        return dict(zip(("unlabeled", "positive"), means, strict=True))

    def excess(
        self, name: str, limit: float, *, expected: tuple[float, float] = (0.0, 0.0), against_spread: bool = True
    ) -> float:
        """Amount by which a difference, unlabeled minus positive, leaves the expected range; 0 if not significant."""
        values = self.values(name)
        difference = values[0].mean() - values[1].mean()
        return _significant(float(difference - np.clip(difference, *expected)), values, limit, against_spread)


def compare(unlabeled: dict[str, Statistics], positive: dict[str, Statistics], spec: PatchSpec) -> dict[str, Any]:
    """Compare recordings with the target and target-free recordings.

    A difference is significant if it exceeds its limit, the spread between recordings (pooled standard deviation, except for
    bandwidths), and twice its own standard error.

    Args:
        unlabeled: statistics of the recordings with the target, by name.
        positive: statistics of the target-free recordings, by name.
        spec: parameters of the patches.

    Returns:
        JSON-serialisable: `warnings`, sentences with a remedy; `suspicious`, names of target-free recordings that seem to contain
        the target; `means` of all measures in both sets; `recordings`, the number in each set.
    """
    found: dict[str, Any] = {
        "warnings": [],
        "suspicious": suspicious(unlabeled, positive),
        "means": {},
        "recordings": {"unlabeled": len(unlabeled), "positive": len(positive)},
    }
    if min(len(unlabeled), len(positive)) < MIN_RECORDINGS:
        return found
    sets = _Sets(list(unlabeled.values()), list(positive.values()))
    found["means"] = {name: sets.means(name) for name in ("level_db", "bandwidth_hz", "silent_share", "spectrum_db")}
    warnings = (_level_warning(sets, spec), _bandwidth_warning(sets, spec), _silence_warning(sets))
    found["warnings"] = [warning for warning in warnings if warning] + _spectrum_warnings(sets, spec)
    return found


def _level_warning(sets: _Sets, spec: PatchSpec) -> str | None:
    # Otherwise every clip or recording is scaled to the same level.
    if spec.level != "reference" or not sets.excess("level_db", LEVEL_LIMIT_DB, expected=(0.0, TARGET_DB)):
        return None
    means = sets.means("level_db")
    return (
        f"Recordings without the target are at {means['positive']:.1f} dB, those with it at {means['unlabeled']:.1f} dB; "
        f"0 to {TARGET_DB:g} dB more are expected of those with it. The level alone tells them apart. "
        "Use --data.patch.level recording, or bring both folders to the same loudness."
    )


def _bandwidth_warning(sets: _Sets, spec: PatchSpec) -> str | None:
    # A recording with nothing above the low-pass shows none: bandwidths form two clusters, so the medians decide, not the spread.
    with_hz, without_hz = (float(np.median(values)) for values in sets.values("bandwidth_hz"))
    limit_hz = BANDWIDTH_LIMIT * spec.sample_rate / 2
    if abs(with_hz - without_hz) <= limit_hz or not sets.excess("bandwidth_hz", limit_hz, against_spread=False):
        return None
    return (
        f"Recordings without the target reach up to {without_hz / 1000:.1f} kHz, those with it up to {with_hz / 1000:.1f} kHz, "
        "as if one set had been compressed or resampled. Take both from the same format, or drop the higher frequencies: "
        f"--data.patch.sample-rate {int(2 * min(with_hz, without_hz) // 1000 * 1000)}."
    )


def _silence_warning(sets: _Sets) -> str | None:
    if not sets.excess("silent_share", SILENCE_LIMIT):
        return None
    means = sets.means("silent_share")
    return (
        f"Recordings without the target are silent for {means['positive']:.0%} of the time, those with it for "
        f"{means['unlabeled']:.0%}. Use --data.activity-on mixture, or cut the silence."
    )


def _spectrum_warnings(sets: _Sets, spec: PatchSpec) -> list[str]:
    bands = _differing_bands(sets, spec)
    warnings = []
    for sign, text, remedy in (
        (-1, "more", "No target explains that: take recordings of the same kind, or equalize them."),
        (1, "less", "Unless the target plays there, take recordings of the same kind, or equalize them."),
    ):
        differing = [f"{abs(db):.0f} dB around {hz:.0f} Hz" for hz, db in bands if db * sign > 0]
        if differing:
            warnings.append(
                f"Recordings without the target have {text} power than those with it, {', '.join(differing)}. {remedy}"
            )
    return warnings


def _significant(excess: float, values: list[np.ndarray], limit: float, against_spread: bool = True) -> float:
    """Return the excess if it is larger than the limit, twice its standard error and the spread; else 0."""
    spread = np.sqrt(np.mean([each.var(ddof=1) for each in values])) if against_spread else 0.0
    error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in values))
    return excess if abs(excess) > max(limit, spread, 2 * error) else 0.0


def _differing_bands(sets: _Sets, spec: PatchSpec) -> list[tuple[float, float]]:
    """Find third-octave bands that differ: frequency in Hz, and excess of the mixtures in dB relative to the median band.

    The target adds to some bands and so lowers the fraction of all others by the same amount, which the median band estimates.
    Bands above a low-pass of either set are left to the comparison of bandwidths; nobody hears those below `LOWEST_HZ`.
    """
    starts = _band_starts(spec)
    centres_hz = np.add.reduceat(bin_frequencies(spec), starts) / np.diff(starts, append=spec.bins)
    top_hz = min(values.mean() for values in sets.values("bandwidth_hz"))
    inside = np.flatnonzero((centres_hz > LOWEST_HZ) & (centres_hz * 2 ** (1 / 6) < top_hz))
    if len(inside) < 5:
        return []
    values = [each[:, inside] for each in sets.values("spectrum_db")]
    difference = values[0].mean(0) - values[1].mean(0)
    difference -= np.median(difference)
    found = []
    for band, excess in enumerate(difference):
        limit = LESS_IN_POSITIVES_DB if excess > 0 else MORE_IN_POSITIVES_DB
        if _significant(float(excess), [each[:, band] for each in values], limit):
            found.append((float(centres_hz[inside[band]]), float(excess)))
    return found


def suspicious(unlabeled: dict[str, Statistics], positive: dict[str, Statistics]) -> list[str]:
    """Flag target-free recordings that look like mixtures, the most likely first; none if the sets can hardly be told apart.

    A recording is flagged if its score (see `_scores`) is above the median of the recordings with the target.
    """
    if min(len(unlabeled), len(positive)) < MIN_TO_SUSPECT:
        return []
    recordings = [np.array(each.clips, np.float64) for members in (unlabeled, positive) for each in members.values()]
    scores = _scores(recordings, len(unlabeled))
    of_unlabeled, of_positive = scores[: len(unlabeled)], scores[len(unlabeled) :]
    if (of_unlabeled[:, None] > of_positive).mean() < MIN_AUC:
        return []
    names = list(positive)
    return [names[number] for number in np.argsort(-of_positive) if of_positive[number] > np.median(of_unlabeled)]


def _scores(recordings: list[np.ndarray], num_unlabeled: int) -> np.ndarray:
    """Score recordings by a linear discriminant of their clips with shrunk covariance, in ten-fold cross-validation.

    Args:
        recordings: features, each (clips, features); those with the target first.
        num_unlabeled: number of recordings with the target.

    Returns:
        float64 (recordings,): mean over the clips; positive for recordings like those with the target.
    """
    is_mixture = np.arange(len(recordings)) < num_unlabeled
    fold = np.concatenate([np.arange(num_unlabeled), np.arange(len(recordings) - num_unlabeled)]) % _FOLDS
    scores = np.empty(len(recordings))
    for held_out in range(_FOLDS):
        seen = [(clips, mixture) for clips, mixture, f in zip(recordings, is_mixture, fold, strict=True) if f != held_out]
        every = np.concatenate([clips for clips, _ in seen])
        centre, deviation = every.mean(0), every.std(0) + 1e-6
        means, covariances = [], []
        for wanted in (False, True):
            members = [(clips - centre) / deviation for clips, mixture in seen if mixture == wanted]
            means.append(np.mean([clips.mean(0) for clips in members], axis=0))  # Long recordings count no more than others.
            covariances.append(np.cov(np.concatenate(members).T))
        covariance = (1 - _SHRINKAGE) * np.mean(covariances, axis=0) + _SHRINKAGE * np.eye(len(centre))
        direction = np.linalg.solve(covariance, means[1] - means[0])
        middle = direction @ (means[0] + means[1]) / 2
        for number in np.flatnonzero(fold == held_out):
            scores[number] = ((recordings[number] - centre) / deviation).mean(0) @ direction - middle
    return scores
