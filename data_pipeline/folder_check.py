"""Comparison of recordings with the target and target-free recordings: differences other than the target.

A network that tells the two sets apart learns whatever differs between them.  That should be the target; but a difference in
level, the low-pass of a codec, or another kind of music works as well.  Only sources without stems are compared: with stems,
positives are mixtures minus the target.

Single measures are compared first.  Then come quiet moments: a target that rests now and then, such as vocals, leaves them to the
accompaniment, so that a linear classifier of them should hardly tell the two sets apart.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.discriminant import area_under_roc, held_out_scores, standard_error
from data_pipeline.recording_statistics import Statistics, band_starts
from data_pipeline.third_octaves import bin_frequencies

MIN_RECORDINGS = 3
"""Smallest number of recordings in each set for a comparison; fewer have no spread to compare a difference with."""

LOWEST_HZ = 40.0
MIN_BANDS = 5
"""Lowest frequency of a band in which a difference is worth a warning, and the number of bands without which none is."""

TREBLE_HZ = 8000.0
"""Above it target-free recordings may have less power by any amount: there a target may be all there is, as cymbals are."""

TARGET_DB = 3.0
"""Level that a target as loud as the accompaniment adds: mixtures may be louder by this."""

LEVEL_LIMIT_DB = 3.0
MORE_IN_POSITIVES_DB = 8.0
LESS_IN_POSITIVES_DB = 12.0
BANDWIDTH_LIMIT = 0.08
BANDWIDTH_MARGIN = 0.05
SILENCE_LIMIT = 0.15
"""Smallest differences worth a warning: of levels; of the power fraction of a third-octave band, if target-free recordings have
more, and if they have less, which may be the target; of bandwidths, relative to the highest frequency, by which they may also be
too high; of silent fractions."""

RESTING_TARGETS = ("vocals",)
"""Targets that rest now and then in every song."""

MIN_FOR_QUIET = 8
ALIKE_AUC = 0.6
DIFFERENT_AUC = 0.75
STANDARD_ERRORS = 2.5
"""Conditions for saying that two sets differ in more than the target: the number of recordings in each; and the area under the
ROC curve of the classifier, above `DIFFERENT_AUC` and as many standard errors above that of songs of one kind."""

NOTABLE_SPREAD = 0.5
NOTABLE_DB = 3.0
"""Smallest differences that are listed: of measures, in pooled standard deviations, and of a third-octave band."""

COST = "2 to 8 dB"
"""Loss of SI-SDR improvement through music of another kind (benchmarks/results/measured/elsewhere.json)."""


class Measure(NamedTuple):
    """A measure of `Statistics` that says what music is like.

    Attributes:
        name: attribute of `Statistics`.
        explained: lowest and highest difference, recordings with the target minus those without, that targets may cause: more
            than vocals, drums, bass or the other instruments do in rendered songs.
        more: words for a higher value.
        less: words for a lower value.
        values: words with places for both values.
    """

    name: str
    explained: tuple[float, float]
    more: str
    less: str
    values: str

    def words(self, positive: float, unlabeled: float) -> str:
        """Say how recordings without the target differ."""
        return f"{self.more if positive > unlabeled else self.less} ({self.values.format(positive, unlabeled)})"


MEASURES = (
    Measure("percussive_share", (-0.2, 0.35), "more percussion", "less percussion", "{:.0%} of the power, against {:.0%}"),
    Measure("onsets_per_s", (-1.5, 2.5), "more onsets", "fewer onsets", "{:.1f} a second, against {:.1f}"),
    Measure(
        "modulation_db",
        (-3.0, 3.0),
        "levels that fluctuate more",
        "levels that fluctuate less",
        "standard deviation {:.1f} dB, against {:.1f} dB",
    ),
    Measure(
        "loudness_range_db", (-6.0, 6.0), "a larger loudness range", "a smaller loudness range", "{:.1f} dB, against {:.1f} dB"
    ),
    Measure("width_db", (-8.0, 20.0), "a wider stereo image", "a narrower stereo image", "sides at {:.0f} dB, against {:.0f} dB"),
)


@dataclasses.dataclass(frozen=True)
class _Sets:
    """Statistics of the recordings with the target ("unlabeled") and of the target-free ones ("positive")."""

    unlabeled: list[Statistics]
    positive: list[Statistics]

    def values(self, name: str) -> list[np.ndarray]:
        """Known values of a measure in both sets, each (recordings,) or (recordings, bands)."""
        return [
            np.array([value for each in members if (value := getattr(each, name)) is not None])
            for members in (self.unlabeled, self.positive)
        ]

    def known(self, name: str) -> bool:
        """Whether enough values of a measure are known."""
        return all(len(values) >= MIN_RECORDINGS for values in self.values(name))

    def means(self, name: str) -> dict[str, Any]:
        """Means of a measure in both sets."""
        means = [values.mean(0).round(3).tolist() for values in self.values(name)]
        return dict(zip(("unlabeled", "positive"), means, strict=True))

    def excess(self, name: str, limit: float, *, expected: tuple[float, float] = (0.0, 0.0)) -> float:
        """Amount by which a difference, unlabeled minus positive, leaves the expected range; 0 if not significant."""
        values = self.values(name)
        difference = values[0].mean() - values[1].mean()
        return _significant(float(difference - np.clip(difference, *expected)), values, limit)


def compare(
    unlabeled: dict[str, Statistics], positive: dict[str, Statistics], spec: PatchSpec, target: tuple[str, ...]
) -> dict[str, Any]:
    """Compare recordings with the target and target-free recordings.

    What exceeds the difference that a target may cause is significant if it is above its limit, the spread between recordings
    (pooled standard deviation, except for bandwidths), and twice its own standard error.

    Args:
        unlabeled: statistics of the recordings with the target, by name.
        positive: statistics of the target-free recordings, by name.
        spec: parameters of the patches.
        target: names of the target.  Quiet moments count if all are in `RESTING_TARGETS`.

    Returns:
        JSON-serializable: `warnings`, sentences with a remedy; `means` of all measures in both sets; `recordings`, the number in
        each set; `quiet_auc`, the area under the ROC curve of the classifier of quiet moments, None with fewer than
        `MIN_FOR_QUIET` recordings in a set or few comparable bands.
    """
    found: dict[str, Any] = {
        "warnings": [],
        "means": {},
        "recordings": {"unlabeled": len(unlabeled), "positive": len(positive)},
        "quiet_auc": None,
    }
    if min(len(unlabeled), len(positive)) < MIN_RECORDINGS:
        return found
    sets = _Sets(list(unlabeled.values()), list(positive.values()))
    measures = [measure for measure in MEASURES if sets.known(measure.name)]
    names = ["level_db", "bandwidth_hz", "silent_share", "spectrum_db", *(measure.name for measure in measures)]
    found["means"] = {name: sets.means(name) for name in names}
    found["quiet_auc"] = auc = _quiet_auc(sets, spec)
    warnings = [_level_warning(sets, spec), _bandwidth_warning(sets, spec), _silence_warning(sets)]
    if auc is not None and set(target) <= set(RESTING_TARGETS) and auc > _auc_limit(sets):
        warnings.append(_mismatch_warning(sets, measures, spec, target, auc))  # It names the measures, too.
    else:
        warnings.append(_measure_warning(sets, measures))
    found["warnings"] = [warning for warning in warnings if warning] + _spectrum_warnings(sets, spec)
    return found


def _quiet_auc(sets: _Sets, spec: PatchSpec) -> float | None:
    """Area under the ROC curve of a linear classifier of quiet moments; None with few recordings or comparable bands."""
    inside = _comparable_bands(sets, spec)
    if min(len(sets.unlabeled), len(sets.positive)) < MIN_FOR_QUIET or not len(inside):
        return None
    quiet = [np.array(each.quiet, np.float64)[:, inside] for each in (*sets.unlabeled, *sets.positive)]
    scores = held_out_scores([levels - levels.mean(1, keepdims=True) for levels in quiet], len(sets.unlabeled))
    return round(area_under_roc(scores, len(sets.unlabeled)), 3)


def _auc_limit(sets: _Sets) -> float:
    return max(DIFFERENT_AUC, ALIKE_AUC + STANDARD_ERRORS * standard_error(len(sets.unlabeled), len(sets.positive)))


def _level_warning(sets: _Sets, spec: PatchSpec) -> str | None:
    # Otherwise every clip or recording is scaled to the same level.
    if spec.level != "reference" or not sets.excess("level_db", LEVEL_LIMIT_DB, expected=(0.0, TARGET_DB)):
        return None
    means = sets.means("level_db")
    return (
        f"Recordings without the target are at {means['positive']:.1f} dB, those with it at {means['unlabeled']:.1f} dB; "
        f"the target accounts for 0 to {TARGET_DB:g} dB. A network could tell the sets apart by the level alone. "
        "Use --data.patch.level recording, or bring both folders to the same loudness."
    )


def _bandwidth_warning(sets: _Sets, spec: PatchSpec) -> str | None:
    # A recording with nothing above the low-pass shows none: bandwidths form two clusters, so the medians decide, not the spread.
    with_hz, without_hz = (float(np.median(values)) for values in sets.values("bandwidth_hz"))
    limit_hz = BANDWIDTH_LIMIT * spec.sample_rate / 2
    if abs(with_hz - without_hz) <= limit_hz or abs(with_hz - without_hz) <= 2 * _error(sets.values("bandwidth_hz")):
        return None
    common_hz = 2 * (min(with_hz, without_hz) - BANDWIDTH_MARGIN * spec.sample_rate / 2)
    step_hz = 1000 if common_hz >= 8000 else 100
    rate = int(common_hz // step_hz * step_hz)
    drop = f", or drop the higher frequencies: --data.patch.sample-rate {rate}" if rate > 0 else ""
    return (
        f"Recordings without the target reach up to {without_hz / 1000:.1f} kHz, those with it up to {with_hz / 1000:.1f} kHz, "
        f"as after MP3 coding or resampling. Take both from the same format{drop}."
    )


def _silence_warning(sets: _Sets) -> str | None:
    if not sets.excess("silent_share", SILENCE_LIMIT):
        return None
    means = sets.means("silent_share")
    return (
        f"Recordings without the target are silent for {means['positive']:.0%} of the time, those with it for "
        f"{means['unlabeled']:.0%}. Cut the silence."
    )


def _measure_warning(sets: _Sets, measures: list[Measure]) -> str | None:
    words = []
    for measure in measures:
        if sets.excess(measure.name, 0.0, expected=measure.explained):
            means = sets.means(measure.name)
            words.append(measure.words(means["positive"], means["unlabeled"]))
    if not words:
        return None
    return f"Recordings without the target have {', '.join(words)}. Few targets explain that: take recordings of the same kind."


def _mismatch_warning(sets: _Sets, measures: list[Measure], spec: PatchSpec, target: tuple[str, ...], auc: float) -> str:
    """Say that the sets differ in more than the target, and in which measures, the clearest first."""
    differences = []
    for measure in measures:
        values, means = sets.values(measure.name), sets.means(measure.name)
        difference, spread = abs(values[0].mean() - values[1].mean()), max(_spread(values), 1e-9)
        if difference > max(NOTABLE_SPREAD * spread, 2 * _error(values)):
            differences.append((difference / spread, measure.words(means["positive"], means["unlabeled"])))
    words = [text for _, text in sorted(differences, reverse=True)]
    bands = [] if _differing_bands(sets, spec) else _band_excesses(sets, spec)  # Another warning names those.
    for band, hz, excess in sorted(bands, key=lambda each: -abs(each[2]))[:1]:
        if abs(excess) > max(NOTABLE_DB, 2 * _error([each[:, band] for each in sets.values("spectrum_db")])):
            words.append(f"{abs(excess):.0f} dB {'less' if excess > 0 else 'more'} power around {_in_hz(hz)}")
    return (
        f"Even in quiet moments, when {' and '.join(target)} usually rest, the two sets are easy to tell apart: a linear "
        f"classifier ranks {auc:.0%} of the pairs of recordings correctly, where half is chance. So they differ in more than the "
        f"target. Recordings without it have {', '.join(words) or 'another spectrum'}. Music of another kind has cost {COST}. "
        "Mark passages of the same recordings (--marks), or take recordings of the same kind. If the target is not "
        f"{' and '.join(target)}, set --data.target."
    )


def _in_hz(hz: float) -> str:
    return f"{hz:.0f} Hz" if hz < 1000 else f"{hz / 1000:.1f} kHz"


def _spectrum_warnings(sets: _Sets, spec: PatchSpec) -> list[str]:
    bands = _differing_bands(sets, spec)
    warnings = []
    for sign, text, remedy in (
        (-1, "more", "No target explains that: take recordings of the same kind, or equalize them."),
        (1, "less", "Unless the target plays there, take recordings of the same kind, or equalize them."),
    ):
        differing = [f"{abs(db):.0f} dB around {_in_hz(hz)}" for hz, db in bands if db * sign > 0]
        if differing:
            warnings.append(
                f"Recordings without the target have {text} power than those with it, {', '.join(differing)}. {remedy}"
            )
    return warnings


def _spread(values: list[np.ndarray]) -> float:
    """Pooled standard deviation of two sets."""
    return float(np.sqrt(np.mean([each.var(ddof=1) for each in values])))


def _error(values: list[np.ndarray]) -> float:
    """Standard error of the difference of the means of two sets."""
    return float(np.sqrt(sum(each.var(ddof=1) / len(each) for each in values)))


def _significant(excess: float, values: list[np.ndarray], limit: float) -> float:
    """Return the excess if it is larger than the limit, twice its standard error and the spread; else 0."""
    return excess if abs(excess) > max(limit, _spread(values), 2 * _error(values)) else 0.0


def _differing_bands(sets: _Sets, spec: PatchSpec) -> list[tuple[float, float]]:
    """Find third-octave bands that differ: frequency in Hz, and excess of the mixtures in dB."""
    values, found = sets.values("spectrum_db"), []
    for band, hz, excess in _band_excesses(sets, spec):
        limit = LESS_IN_POSITIVES_DB if excess > 0 else MORE_IN_POSITIVES_DB
        explained = excess > 0 and hz > TREBLE_HZ
        if not explained and _significant(excess, [each[:, band] for each in values], limit):
            found.append((hz, excess))
    return found


def _band_excesses(sets: _Sets, spec: PatchSpec) -> list[tuple[int, float, float]]:
    """Number and frequency in Hz of comparable bands, and the excess of the mixtures in dB relative to the median band.

    The target adds to some bands and so lowers the fraction of all others by the same amount, which the median band estimates.
    """
    inside = _comparable_bands(sets, spec)
    if not len(inside):
        return []
    unlabeled, positive = (values[:, inside].mean(0) for values in sets.values("spectrum_db"))
    excess = unlabeled - positive - np.median(unlabeled - positive)
    return [(int(band), float(hz), float(each)) for band, hz, each in zip(inside, _centres_hz(spec)[inside], excess, strict=True)]


def _comparable_bands(sets: _Sets, spec: PatchSpec) -> np.ndarray:
    """Numbers of the third-octave bands that are compared, int (bands,); none if they are few.

    Bands above a low-pass of either set are left to the comparison of bandwidths; those below `LOWEST_HZ` hold rumble.
    """
    centres_hz = _centres_hz(spec)
    top_hz = min(float(np.median(values)) for values in sets.values("bandwidth_hz"))
    inside = np.flatnonzero((centres_hz > LOWEST_HZ) & (centres_hz * 2 ** (1 / 6) < top_hz))
    return inside if len(inside) >= MIN_BANDS else inside[:0]


def _centres_hz(spec: PatchSpec) -> np.ndarray:
    """Mean frequency of the bins of every third-octave band in Hz, float64 (bands,)."""
    starts = band_starts(spec)
    return np.add.reduceat(bin_frequencies(spec), starts) / np.diff(starts, append=spec.bins)
