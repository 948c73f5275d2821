"""How much louder or quieter the positives are than the accompaniment that is hidden in the mixtures, without stems."""

import numpy as np

from data_pipeline.dataset import PatchDataset, Split
from jaxpu.config import Config
from jaxpu.estimation import histograms
from jaxpu.estimation.histograms import Estimate

QUANTILES = np.arange(0.5, 0.96, 0.05)
"""Quantiles of the magnitudes in a band: the louder half of its bins, which no pause and no noise floor decides."""

LOW_QUANTILE = 0.05
"""Of the differences of all bands and quantiles.  The least one is too uncertain."""

RANGE_DB = 60.0
"""Bands this far below a pile's loudest are left out: they may hold no more than what a coder or a filter left."""


def estimate_gain_db(dataset: PatchDataset, config: Config, *, split: Split = "train") -> Estimate:
    """The gain in dB that makes positives as loud as the accompaniment of the mixtures, with an interval.

    A target only adds.  So in every band, at every quantile of its magnitudes, mixtures are at least as loud as their
    accompaniment, and about as loud where and when the target is absent or weak.  If positives are like that accompaniment but
    for a gain, the gain is the least of the differences between the quantiles of mixtures and of positives, taken here as the
    5 % quantile of these.  Where the target drowns everything at all times, the estimate is too high.

    Args:
        dataset: the prepared data, in the scale in which they are stored.
        config: its `train.disjoint_tracks` and `train.seed` matter.
        split: which tracks.

    Raises:
        DataError: the split has no clips of one of the piles.
    """
    read = histograms.read_piles(dataset, config, split, exponent=1.0, as_recorded=False)
    unlabeled, positive = (pile.arrays()[0] for pile in read)

    def gain_db(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        return np.array([least_difference_db(unlabeled[chosen].sum(0), positive[chosen_positive].sum(0))])

    return histograms.resampled(gain_db, len(unlabeled), len(positive), config.train.seed)[0]


def least_difference_db(unlabeled: np.ndarray, positive: np.ndarray) -> float:
    """`LOW_QUANTILE` of the level differences, mixtures minus positives, between quantiles of magnitudes within bands.

    Args:
        unlabeled: float64 (bands, levels), histograms as `jaxpu.estimation.histograms.Pile` has them.
        positive: the same of the positives.
    """
    levels, positive_levels = (_quantiles_db(histogram) for histogram in (unlabeled, positive))
    heard = np.ones(len(levels), bool)
    for each in (levels, positive_levels):
        heard &= each[:, 0] > each[:, 0].max() - RANGE_DB
    return float(np.quantile((levels - positive_levels)[heard], LOW_QUANTILE)) if heard.any() else 0.0


def _quantiles_db(histogram: np.ndarray) -> np.ndarray:
    """(bands, levels) to (bands, quantiles) in dB.  The lowest level is that of silence, which does not count."""
    edges = histograms.LOWEST_DB + histograms.STEP_DB * np.arange(1, histograms.NUM_LEVELS + 1)
    below = np.cumsum(np.where(np.arange(histograms.NUM_LEVELS) > 0, histogram, 0), -1)
    below /= np.maximum(below[:, -1:], 1)
    return np.stack([np.interp(QUANTILES, band, edges) for band in below])
