"""Positives against mixtures, recording by recording: what else than the target tells the two folders apart?

A classifier of the two learns whatever differs between them.  The target is meant to be that; a level, a codec's low-pass or
long silences serve just as well.  Only sources without stems are compared: with stems, positives are the mixtures less the
target.

Recordings of the folder without the target in which it seems to play are listed too, where that can be told: by a linear
classifier of the two folders, which scores every recording without having seen it.  It is silent unless it tells most other
recordings apart, and even then it finds few of those that it should (docs/results.md).

Everything is measured on the STFTs that are stored anyway, of a few frames of some clips.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.signal

from data_pipeline.config import PatchSpec

CLIPS_PER_RECORDING = 24
"""About so many clips of a recording are looked at, but no more than a third: it must cost little beside the transform."""

FRAMES_PER_CLIP = 8
"""And so many frames of each."""

MIN_RECORDINGS = 3
"""A pile of fewer is not compared: there is no spread to hold a difference against."""

TARGET_DB = 3.0
"""What a target as loud as everything else adds to the level: mixtures may be louder by that."""

LEVEL_LIMIT_DB = 3.0
MORE_IN_POSITIVES_DB = 8.0
LESS_IN_POSITIVES_DB = 12.0
BANDWIDTH_LIMIT = 0.08
SILENCE_LIMIT = 0.15
"""Smaller differences are not worth a warning: of levels, of a third-octave band's share of the power in one direction and the
other (where mixtures have more, it may be the target), of bandwidths as a share of the highest frequency, of silence."""

SILENT_DB = -50.0
"""A frame this far below the mean power of its recording counts as silent."""

MIN_TO_SUSPECT = 15
MIN_AUC = 0.85
"""No recording is suspected where a pile has fewer than so many, or where recordings with the target score higher than those
without it for less than this share of all pairs."""

_FOLDS = 10
_SHRINKAGE = 0.5
_CLIFF_DB = 20.0  # Music falls by a few dB from one of these bands to the next; a low-pass by tens.
_FLOOR_DB = -100.0
_NUM_LINEAR_BANDS = 64
_SHARE_FLOOR_DB = -70.0


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is known of one recording; JSON-serialisable.

    Attributes:
        level_db: of its active clips as they are on disk, root mean square in dB of full scale.
        bandwidth_hz: frequency at which the spectrum breaks off, else the highest one.
        silent_share: share of the frames `SILENT_DB` below their mean power.
        spectrum_db: power of every third-octave band over that of all, -70 at least.
        clips: features of every clip looked at, by third-octave band: its share of the power in dB, the deviation over
            frames of its power in dB, that of its single bins, and its flatness in dB.
    """

    level_db: float
    bandwidth_hz: float
    silent_share: float
    spectrum_db: list[float]
    clips: list[list[float]]


class StatisticsMeter:
    """Measures the stored clips of one recording as they go by.

    Args:
        spec: of the patches.
        num_clips: whole clips in the recording.
    """

    def __init__(self, spec: PatchSpec, num_clips: int) -> None:
        self._spec = spec
        self._every_clip = max(3, num_clips // CLIPS_PER_RECORDING)
        self._every_frame = max(1, spec.frames // FRAMES_PER_CLIP)
        self._power = np.zeros(spec.bins)  # sum over frames
        self._frames: list[np.ndarray] = []  # power of each
        self._clips: list[list[float]] = []
        self._starts, _ = third_octaves(spec)
        self._sizes = np.diff(self._starts, append=spec.bins).astype(np.float32)
        self._seen = 0
        window = scipy.signal.get_window(spec.window, spec.win_length)
        # Parseval: bins but the first and last stand for two of the DFT's.
        self._to_mean_square = 2 / (spec.n_fft * float(np.square(window).sum()))

    def add(self, stft: np.ndarray, levels: np.ndarray, active: np.ndarray) -> None:
        """Takes consecutive stored clips: (clips, channels, frames, bins, 2), what they were divided by, which are active."""
        numbers = np.flatnonzero(active)
        chosen = numbers[(np.arange(len(numbers)) + self._seen) % self._every_clip == 0]
        self._seen += len(numbers)
        if not len(chosen):
            return
        parts = stft[chosen, :, :: self._every_frame].astype(np.float32)
        parts *= levels[chosen].astype(np.float32)[:, None, None, None, None]
        np.square(parts, out=parts)
        power = (parts[..., 0] + parts[..., 1]).mean(axis=1)  # (clips, frames, bins); a sum over an axis of 2 would be slow
        self._power += power.sum((0, 1), dtype=np.float64)
        self._frames.append(power.sum(-1).ravel())
        self._clips += self._features(power)

    def _features(self, power: np.ndarray) -> list[list[float]]:
        """See `Statistics.clips`; float32 (clips, frames, bins)."""
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
        """The statistics; None where no clip is active, or all are silent."""
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


def third_octaves(spec: PatchSpec) -> tuple[np.ndarray, np.ndarray]:
    """First bin and mean frequency in Hz of every third-octave band; all below 44 Hz is one."""
    frequencies = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    band = np.digitize(frequencies, 1000 * 2 ** (np.arange(-27, 60, 2) / 6))
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    return starts, np.add.reduceat(frequencies, starts) / np.diff(starts, append=spec.bins)


def _db(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 1e-20))


def _bandwidth_hz(power: np.ndarray, spec: PatchSpec) -> float:
    """Where the spectrum falls off a cliff and stays down, in Hz; half of the sample rate where it does not."""
    starts = np.unique(np.linspace(0, spec.bins, _NUM_LINEAR_BANDS, endpoint=False).astype(int))
    level = _db(np.add.reduceat(power, starts) / np.diff(starts, append=spec.bins))
    level = np.maximum(level - level.max(), _FLOOR_DB)
    highest_above = np.maximum.accumulate(level[::-1])[::-1]
    for band in range(len(level) // 8, len(level) - 3):
        if level[band] - highest_above[band + 3] > _CLIFF_DB:
            return round(float(starts[band + 2] * spec.sample_rate / spec.n_fft), 1)
    return spec.sample_rate / 2


def compare(unlabeled: dict[str, Statistics], positive: dict[str, Statistics], spec: PatchSpec) -> dict[str, Any]:
    """Compares recordings with the target and recordings without it.

    A difference counts where it is larger than its limit, than the spread between recordings (the pooled deviation; not that of
    bandwidths), and than twice its own standard error.

    Args:
        unlabeled: by name.
        positive: by name.
        spec: of the patches.

    Returns:
        JSON-serialisable: `warnings`, in words with a remedy; `suspicious`, names of positive recordings in which the target
        seems to play; `means` of all measures for both piles; `recordings` of each.
    """
    found: dict[str, Any] = {
        "warnings": [],
        "suspicious": suspicious(unlabeled, positive),
        "means": {},
        "recordings": {"unlabeled": len(unlabeled), "positive": len(positive)},
    }
    if min(len(unlabeled), len(positive)) < MIN_RECORDINGS:
        return found
    piles = [list(unlabeled.values()), list(positive.values())]
    for name in ("level_db", "bandwidth_hz", "silent_share", "spectrum_db"):
        means = [np.mean([getattr(each, name) for each in pile], axis=0) for pile in piles]
        found["means"][name] = {role: mean.round(3).tolist() for role, mean in zip(("unlabeled", "positive"), means, strict=True)}
    warn = found["warnings"].append

    if spec.level == "reference":  # otherwise every clip or recording is scaled to the same level
        excess = _excess(piles, "level_db", LEVEL_LIMIT_DB, expected=(0.0, TARGET_DB))
        if excess:
            means = found["means"]["level_db"]
            warn(
                f"Recordings without the target are at {means['positive']:.1f} dB, those with it at {means['unlabeled']:.1f} dB; "
                f"0 to {TARGET_DB:g} dB more are expected of those with it. The level alone tells them apart. "
                "Use --data.patch.level recording, or bring both folders to one loudness."
            )
    # A recording with nothing above the low-pass shows none: bandwidths come in two heaps, so the medians decide, not the spread.
    with_hz, without_hz = (float(np.median([each.bandwidth_hz for each in pile])) for pile in piles)
    limit_hz = BANDWIDTH_LIMIT * spec.sample_rate / 2
    if abs(with_hz - without_hz) > limit_hz and _excess(piles, "bandwidth_hz", limit_hz, against_spread=False):
        warn(
            f"Recordings without the target reach up to {without_hz / 1000:.1f} kHz, those with it up to "
            f"{with_hz / 1000:.1f} kHz, as if one pile had been compressed or resampled. Take both from the same format, or "
            f"leave the rest out: --data.patch.sample-rate {int(2 * min(with_hz, without_hz) // 1000 * 1000)}."
        )
    if _excess(piles, "silent_share", SILENCE_LIMIT):
        means = found["means"]["silent_share"]
        warn(
            f"Recordings without the target are silent for {means['positive']:.0%} of the time, those with it for "
            f"{means['unlabeled']:.0%}. Use --data.activity-on mixture, or cut the silence."
        )
    bands = _spectrum(piles, third_octaves(spec)[1], spec)
    for sign, text, remedy in (
        (-1, "more", "No target explains that: take recordings of the same kind, or equalise them."),
        (1, "less", "Unless the target plays there, take recordings of the same kind, or equalise them."),
    ):
        differing = [f"{abs(db):.0f} dB around {hz:.0f} Hz" for hz, db in bands if db * sign > 0]
        if differing:
            warn(f"Recordings without the target have {text} power than those with it, {', '.join(differing)}. {remedy}")
    return found


def _excess(
    piles: list[list[Statistics]],
    name: str,
    limit: float,
    expected: tuple[float, float] = (0.0, 0.0),
    against_spread: bool = True,
) -> float:
    """How far the difference of a measure, mixtures less positives, lies outside of what is expected; 0 where that is little."""
    values = [np.array([getattr(each, name) for each in pile]) for pile in piles]
    difference = values[0].mean() - values[1].mean()
    return _counts(float(difference - np.clip(difference, *expected)), values, limit, against_spread)


def _counts(excess: float, values: list[np.ndarray], limit: float, against_spread: bool = True) -> float:
    """The excess where it is large against the limit, its standard error and the spread; else 0."""
    spread = np.sqrt(np.mean([each.var(ddof=1) for each in values])) if against_spread else 0.0
    error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in values))
    return excess if abs(excess) > max(limit, spread, 2 * error) else 0.0


def _spectrum(piles: list[list[Statistics]], centres_hz: np.ndarray, spec: PatchSpec) -> list[tuple[float, float]]:
    """Third-octave bands that differ: frequency, and dB by which mixtures have more, less what they have more in most bands.

    The target adds to some bands, and so lowers the share of all others by one and the same: the median band stands for that.
    Bands above a low-pass of either pile are the bandwidth's business.
    """
    top_hz = min(np.mean([each.bandwidth_hz for each in pile]) for pile in piles)
    inside = np.flatnonzero(centres_hz * 2 ** (1 / 6) < top_hz)
    if len(inside) < 5:
        return []
    values = [np.array([each.spectrum_db for each in pile])[:, inside] for pile in piles]
    difference = values[0].mean(0) - values[1].mean(0)
    difference -= np.median(difference)
    found = []
    for band, excess in enumerate(difference):
        limit = LESS_IN_POSITIVES_DB if excess > 0 else MORE_IN_POSITIVES_DB
        if _counts(float(excess), [each[:, band] for each in values], limit):
            found.append((float(centres_hz[inside[band]]), float(excess)))
    return found


def suspicious(unlabeled: dict[str, Statistics], positive: dict[str, Statistics]) -> list[str]:
    """Names of positive recordings that look like mixtures, the likeliest first; none where the two can hardly be told apart.

    A linear discriminant with a shrunk covariance, between the clips of the two piles, is trained on nine tenths of the
    recordings and scores the rest, ten times over.  A positive recording is listed where its mean score is above the median of
    the mixtures'.
    """
    if min(len(unlabeled), len(positive)) < MIN_TO_SUSPECT:
        return []
    recordings = [np.array(each.clips, np.float64) for pile in (unlabeled, positive) for each in pile.values()]
    is_mixture = np.arange(len(recordings)) < len(unlabeled)
    fold = np.concatenate([np.arange(len(unlabeled)), np.arange(len(positive))]) % _FOLDS
    scores = np.empty(len(recordings))
    for held_out in range(_FOLDS):
        seen = [(clips, mixture) for clips, mixture, f in zip(recordings, is_mixture, fold, strict=True) if f != held_out]
        every = np.concatenate([clips for clips, _ in seen])
        centre, deviation = every.mean(0), every.std(0) + 1e-6
        means, covariances = [], []
        for wanted in (False, True):
            members = [(clips - centre) / deviation for clips, mixture in seen if mixture == wanted]
            means.append(np.mean([clips.mean(0) for clips in members], axis=0))  # long recordings count no more than others
            covariances.append(np.cov(np.concatenate(members).T))
        covariance = (1 - _SHRINKAGE) * np.mean(covariances, axis=0) + _SHRINKAGE * np.eye(len(centre))
        direction = np.linalg.solve(covariance, means[1] - means[0])
        middle = direction @ (means[0] + means[1]) / 2
        for number in np.flatnonzero(fold == held_out):
            scores[number] = ((recordings[number] - centre) / deviation).mean(0) @ direction - middle
    of_mixtures, of_positives = scores[is_mixture], scores[~is_mixture]
    if (of_mixtures[:, None] > of_positives).mean() < MIN_AUC:
        return []
    names = list(positive)
    order = np.argsort(-of_positives)
    return [names[number] for number in order if of_positives[number] > np.median(of_mixtures)]
