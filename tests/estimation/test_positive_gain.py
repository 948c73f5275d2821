"""The gain of positives on magnitudes where it is known."""

import numpy as np
import pytest

from jaxpu.estimation import histograms
from jaxpu.estimation.positive_gain import least_difference_db

EDGES_DB = histograms.LOWEST_DB + histograms.STEP_DB * np.arange(histograms.NUM_LEVELS + 1)
NUM_BANDS = 20


def counts(levels_db):
    """(bands, bins) to (bands, levels), as `jaxpu.estimation.histograms.MagnitudeHistograms` counts them."""
    return np.stack([np.histogram(np.maximum(band, EDGES_DB[0]), EDGES_DB)[0] for band in levels_db]).astype(float)


def music(seed, *, with_target):
    """Levels in dB, (bands, bins): the target adds to half of the bands, by 0 to 12 dB."""
    generator = np.random.default_rng(seed)
    levels_db = generator.normal(-30, 10, (NUM_BANDS, 20_000)) - np.arange(NUM_BANDS)[:, None]
    if with_target:
        levels_db[: NUM_BANDS // 2] += generator.uniform(0, 12, (NUM_BANDS // 2, 20_000))
    return levels_db


@pytest.mark.parametrize("gain_db", [-6.0, -1.3, 0.0, 2.2, 6.0])
def test_a_known_gain_is_found(gain_db):
    found = least_difference_db(counts(music(0, with_target=True)), counts(music(1, with_target=False) - gain_db))
    assert found == pytest.approx(gain_db, abs=0.5)


def test_pauses_do_not_matter():
    mixture, positive = music(0, with_target=True), music(1, with_target=False)
    expected = least_difference_db(counts(mixture), counts(positive))
    mixture[:, :6000] = -300.0
    assert least_difference_db(counts(mixture), counts(positive)) == pytest.approx(expected, abs=0.2)


def test_bands_that_a_coder_cut_off_do_not_matter():
    mixture, positive = music(0, with_target=True), music(1, with_target=False)
    mixture[-3:] -= 80.0
    assert least_difference_db(counts(mixture), counts(positive)) == pytest.approx(0.0, abs=0.5)


def test_silence_needs_no_gain():
    nothing = np.zeros((NUM_BANDS, histograms.NUM_LEVELS))
    assert least_difference_db(nothing, nothing) == 0.0
