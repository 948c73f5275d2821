"""Third-octave bands of STFT bins, by hand."""

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.third_octaves import bin_frequencies, third_octaves

SPEC = PatchSpec(sample_rate=16_000, clip_samples=16_000, n_fft=16_000, win_length=16_000, hop_length=4000)  # A bin is 1 Hz wide.


def test_band_k_is_centred_on_two_to_the_k_thirds_kilohertz():
    bands = third_octaves(SPEC, lowest=-13)
    assert bands.shape == bin_frequencies(SPEC).shape == (SPEC.bins,)
    for k in range(-13, 9):
        low, high = 1000 * 2 ** ((2 * k - 1) / 6), 1000 * 2 ** ((2 * k + 1) / 6)
        members = np.flatnonzero(bands == k)
        assert (members[0], members[-1]) == (np.ceil(low), np.floor(high))


def test_all_bins_below_the_lowest_band_form_one():
    bands = third_octaves(SPEC, lowest=-10)
    assert (bands[:89] == -11).all(), "the band around 99 Hz begins at 88.4 Hz"
    assert (bands[89:] >= -10).all()
    np.testing.assert_array_equal(bands[89:], third_octaves(SPEC, lowest=-13)[89:])


def test_three_bands_make_an_octave():
    octaves = (third_octaves(SPEC, lowest=-10) + 1) // 3
    centre = np.flatnonzero(octaves == 0)
    assert (centre[0], centre[-1]) == (np.ceil(1000 / np.sqrt(2)), np.floor(1000 * np.sqrt(2)))
