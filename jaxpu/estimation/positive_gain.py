"""Estimation of the gain between the positives and the accompaniment in the mixtures, without stems."""

import numpy as np

from data_pipeline.dataset import PatchDataset, Split
from jaxpu.config import Config
from jaxpu.estimation import histograms
from jaxpu.estimation.histograms import Estimate

QUANTILES = np.arange(0.5, 0.96, 0.05)
"""Quantiles of the magnitudes in a band: of the louder half of its bins, which pauses and noise floors do not affect."""

LOW_QUANTILE = 0.05
"""Quantile of the differences of all bands and quantiles; their minimum is too uncertain."""

RANGE_DB = 60.0
"""Bands this far below the loudest one are ignored: they may contain only residue of a coder or a filter."""


def estimate_gain_db(dataset: PatchDataset, config: Config, *, split: Split = "train") -> Estimate:
    """Estimate the gain in dB that makes positives as loud as the accompaniment of the mixtures, with a confidence interval.

    A target only adds energy.  So in every band, at every quantile of its magnitudes, mixtures are at least as loud as their
    accompaniment, and about as loud where and when the target is absent or weak.  If the positives equal that accompaniment up to
    a gain, the gain is the minimum of the differences between the quantiles of mixtures and of positives, taken here as the 5 %
    quantile of these differences.  If the target dominates everywhere at all times, the estimate is too high.

    Marked passages do not count, for they have the level of their songs.  Where all positives are marked, the gain is 0.

    Args:
        dataset: the prepared data, whose scale the gain refers to.
        config: its `train.disjoint_tracks` and `train.seed` are used.
        split: which tracks.

    Raises:
        DataError: the split has no mixtures, or no positives.
    """
    of_unlabeled, of_positive = histograms.read_histograms(dataset, config, split, exponent=1.0, as_recorded=False)
    for track in dataset.marked_tracks:
        of_positive.magnitudes.pop(track, None)
    if not of_positive.magnitudes:
        return Estimate(0.0)
    unlabeled, positive = (each.arrays()[0] for each in (of_unlabeled, of_positive))

    def gain_db(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        return np.array([least_difference_db(unlabeled[chosen].sum(0), positive[chosen_positive].sum(0))])

    return histograms.resampled(gain_db, len(unlabeled), len(positive), config.train.seed)[0]


def least_difference_db(unlabeled: np.ndarray, positive: np.ndarray) -> float:
    """The `LOW_QUANTILE` of the level differences, mixtures minus positives, between quantiles of magnitudes within bands.

    Args:
        unlabeled: float64 (bands, levels), histograms of `jaxpu.estimation.histograms.MagnitudeHistograms` of the mixtures.
        positive: the same of the positives.
    """
    levels, positive_levels = (_quantiles_db(histogram) for histogram in (unlabeled, positive))
    loud = np.ones(len(levels), bool)
    for each in (levels, positive_levels):
        loud &= each[:, 0] > each[:, 0].max() - RANGE_DB
    return float(np.quantile((levels - positive_levels)[loud], LOW_QUANTILE)) if loud.any() else 0.0


def _quantiles_db(histogram: np.ndarray) -> np.ndarray:
    """Quantiles of histograms, (bands, levels) to (bands, quantiles), in dB.  The lowest level is silence and does not count."""
    edges = histograms.LOWEST_DB + histograms.STEP_DB * np.arange(1, histograms.NUM_LEVELS + 1)
    below = np.cumsum(np.where(np.arange(histograms.NUM_LEVELS) > 0, histogram, 0), -1)
    below /= np.maximum(below[:, -1:], 1)
    return np.stack([np.interp(QUANTILES, band, edges) for band in below])
