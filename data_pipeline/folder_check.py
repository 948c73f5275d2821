"""Comparison of recordings with the target and target-free recordings: differences other than the target.

A network that tells the two sets apart learns whatever differs between them.  That should be the target; but a difference in
level, the low-pass of a codec, or another kind of music serve as well.  Only sources without stems are compared: with stems,
positives are mixtures minus the target.

Single measures are compared first, and a difference counts if no target could cause it.  A target that rests now and then, such
as vocals, leaves the quiet moments of every band to the accompaniment.  So a linear rule that hears only these moments should
hardly tell the two sets apart; if it does, they differ in more than the target.
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

TARGET_DB = 3.0
"""Level that a target as loud as the accompaniment adds: mixtures may be louder by this."""

LEVEL_LIMIT_DB = 3.0
MORE_IN_POSITIVES_DB = 8.0
LESS_IN_POSITIVES_DB = 12.0
BANDWIDTH_LIMIT = 0.08
SILENCE_LIMIT = 0.15
"""Smallest differences worth a warning: of levels; of the power fraction of a third-octave band, if target-free recordings have
more, and if they have less, which may be the target; of bandwidths, relative to the highest frequency; of silent fractions."""

RESTING_TARGETS = ("vocals",)
"""Targets that rest now and then in every song."""

MIN_TO_HEAR = 8
ALIKE_AUC = 0.6
DIFFERENT_AUC = 0.75
STANDARD_ERRORS = 2.5
"""Conditions for saying that two sets differ in more than the target: the number of recordings in each; and the area under the
ROC curve of the rule by quiet moments, above `DIFFERENT_AUC` and as many standard errors above that of songs of one kind."""

NOTABLE_SPREAD = 0.5
NOTABLE_DB = 3.0
"""Smallest differences that are listed: of measures, in pooled standard deviations, and of a third-octave band."""

COST = "Trainings with such recordings scored 1 to 3 dB less than with recordings of the same kind."


class Measure(NamedTuple):
    """A measure of `Statistics` that says what music is like.

    Attributes:
        name: attribute of `Statistics`.
        explained: lowest and highest difference, recordings with the target minus those without, that a target explains.
        more: words for the recordings without the target if their value is higher, with places for both values.
        less: the same if it is lower.
    """

    name: str
    explained: tuple[float, float]
    more: str
    less: str

    def words(self, positive: float, unlabeled: float) -> str:
        """Say how recordings without the target differ."""
        return (self.more if positive > unlabeled else self.less).format(positive, unlabeled)


MEASURES = (
    Measure(
        "percussive_share",
        (-0.2, 0.35),
        "more percussion ({:.0%} of the power, against {:.0%})",
        "less percussion ({:.0%} of the power, against {:.0%})",
    ),
    Measure(
        "onsets_per_s",
        (-1.5, 2.5),
        "more onsets ({:.1f} a second, against {:.1f})",
        "fewer onsets ({:.1f} a second, against {:.1f})",
    ),
    Measure(
        "modulation_db",
        (-3.0, 3.0),
        "levels that change more (by {:.1f} dB, against {:.1f})",
        "levels that change less (by {:.1f} dB, against {:.1f})",
    ),
    Measure(
        "loudness_range_db",
        (-6.0, 6.0),
        "louder and softer passages ({:.1f} dB apart, against {:.1f})",
        "passages of even loudness ({:.1f} dB apart, against {:.1f})",
    ),
    Measure(
        "width_db",
        (-8.0, 16.0),
        "a wider stereo image (sides at {:.0f} dB, against {:.0f})",
        "a narrower stereo image (sides at {:.0f} dB, against {:.0f})",
    ),
)


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


def compare(
    unlabeled: dict[str, Statistics], positive: dict[str, Statistics], spec: PatchSpec, target: tuple[str, ...]
) -> dict[str, Any]:
    """Compare recordings with the target and target-free recordings.

    A difference is significant if it exceeds its limit, the spread between recordings (pooled standard deviation, except for
    bandwidths), and twice its own standard error.

    Args:
        unlabeled: statistics of the recordings with the target, by name.
        positive: statistics of the target-free recordings, by name.
        spec: parameters of the patches.
        target: names of the target.

    Returns:
        JSON-serialisable: `warnings`, sentences with a remedy; `means` of all measures in both sets; `recordings`, the number in
        each set; `quiet_auc`, the share of pairs that a rule tells apart by their quiet moments, None with fewer than
        `MIN_TO_HEAR` recordings in a set.
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
    measures = [measure for measure in MEASURES if measure.name != "width_db" or spec.stereo]
    names = ["level_db", "bandwidth_hz", "silent_share", "spectrum_db", *(measure.name for measure in measures)]
    found["means"] = {name: sets.means(name) for name in names}
    found["quiet_auc"] = auc = _quiet_auc(sets, spec)
    warnings = [_level_warning(sets, spec), _bandwidth_warning(sets, spec), _silence_warning(sets)]
    if auc is not None and set(target) <= set(RESTING_TARGETS) and auc > _auc_limit(sets):
        warnings.append(_mismatch_warning(sets, measures, spec, auc))  # It names the measures, too.
    else:
        warnings += [_measure_warning(sets, measure) for measure in measures]
    found["warnings"] = [warning for warning in warnings if warning] + _spectrum_warnings(sets, spec)
    return found


def _quiet_auc(sets: _Sets, spec: PatchSpec) -> float | None:
    """Share of pairs of recordings that a linear rule tells apart by their quiet moments; None with few recordings or bands."""
    inside = _comparable_bands(sets, spec)
    if min(len(sets.unlabeled), len(sets.positive)) < MIN_TO_HEAR or not len(inside):
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


def _measure_warning(sets: _Sets, measure: Measure) -> str | None:
    if not sets.excess(measure.name, 0.0, expected=measure.explained):
        return None
    means = sets.means(measure.name)
    return (
        f"Recordings without the target have {measure.words(means['positive'], means['unlabeled'])}. "
        "No target explains that: take recordings of the same kind."
    )


def _mismatch_warning(sets: _Sets, measures: list[Measure], spec: PatchSpec, auc: float) -> str:
    """Say that the sets differ in more than the target, and in which measures, the clearest first."""
    differences = []
    for measure in measures:
        values, means = sets.values(measure.name), sets.means(measure.name)
        difference, spread = abs(values[0].mean() - values[1].mean()), max(_spread(values), 1e-9)
        if difference > max(NOTABLE_SPREAD * spread, 2 * _error(values)):
            differences.append((difference / spread, measure.words(means["positive"], means["unlabeled"])))
    words = [text for _, text in sorted(differences, reverse=True)]
    for _, hz, excess in sorted(_band_excesses(sets, spec), key=lambda band: -abs(band[2]))[:1]:
        if abs(excess) > NOTABLE_DB:
            words.append(f"{abs(excess):.0f} dB {'less' if excess > 0 else 'more'} power around {hz:.0f} Hz")
    return (
        "The two sets differ in more than the target: by their quiet moments, in which the target rests, a simple rule tells "
        f"{auc:.0%} of the pairs apart; about half is usual. Recordings without the target have "
        f"{', '.join(words) or 'another spectrum'}. {COST} Mark passages of the same recordings (--marks), or take recordings of "
        "the same kind."
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


def _spread(values: list[np.ndarray]) -> float:
    """Pooled standard deviation of two sets."""
    return float(np.sqrt(np.mean([each.var(ddof=1) for each in values])))


def _error(values: list[np.ndarray]) -> float:
    """Standard error of the difference of the means of two sets."""
    return float(np.sqrt(sum(each.var(ddof=1) / len(each) for each in values)))


def _significant(excess: float, values: list[np.ndarray], limit: float, against_spread: bool = True) -> float:
    """Return the excess if it is larger than the limit, twice its standard error and the spread; else 0."""
    return excess if abs(excess) > max(limit, _spread(values) if against_spread else 0.0, 2 * _error(values)) else 0.0


def _differing_bands(sets: _Sets, spec: PatchSpec) -> list[tuple[float, float]]:
    """Find third-octave bands that differ: frequency in Hz, and excess of the mixtures in dB."""
    values, found = sets.values("spectrum_db"), []
    for band, hz, excess in _band_excesses(sets, spec):
        limit = LESS_IN_POSITIVES_DB if excess > 0 else MORE_IN_POSITIVES_DB
        if _significant(excess, [each[:, band] for each in values], limit):
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

    Bands above a low-pass of either set are left to the comparison of bandwidths; nobody hears those below `LOWEST_HZ`.
    """
    centres_hz = _centres_hz(spec)
    top_hz = min(values.mean() for values in sets.values("bandwidth_hz"))
    inside = np.flatnonzero((centres_hz > LOWEST_HZ) & (centres_hz * 2 ** (1 / 6) < top_hz))
    return inside if len(inside) >= MIN_BANDS else inside[:0]


def _centres_hz(spec: PatchSpec) -> np.ndarray:
    """Mean frequency of the bins of every third-octave band in Hz, float64 (bands,)."""
    starts = band_starts(spec)
    return np.add.reduceat(bin_frequencies(spec), starts) / np.diff(starts, append=spec.bins)
