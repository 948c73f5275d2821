"""Tests of what a target gets above the band of its model."""

import numpy as np
import pytest

from jaxpu.core.band_above import HOP_S, with_band_above

RATE, MODEL_RATE = 8000, 4000
HOP = round(HOP_S * RATE)


def noise(channels: int, num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, num_samples)).astype(np.float32)


def extended(
    mixture: np.ndarray, heard: np.ndarray, target: np.ndarray, *, block: int = 10**6, one_mask: bool = True
) -> np.ndarray:
    blocks = [
        tuple(signal[:, begin : begin + block] for signal in (mixture, heard, target))
        for begin in range(0, mixture.shape[1], block)
    ]
    pairs = list(with_band_above(blocks, RATE, MODEL_RATE, one_mask=one_mask))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate([pair[0] for pair in pairs], axis=1), mixture)
    return np.concatenate([pair[1] for pair in pairs], axis=1)


def test_gains_follow_the_squared_mask() -> None:
    heard, above = noise(2, 2 * RATE), noise(2, 2 * RATE, seed=1)
    mask = np.where(np.arange(2 * RATE) < RATE, 0.25, 0.75).astype(np.float32)
    target = extended(heard + above, heard, mask * heard)
    expected = mask * heard + mask**2 * above
    steady = np.abs(np.arange(2 * RATE) - RATE) > 2 * HOP
    np.testing.assert_allclose(target[:, steady], expected[:, steady], atol=1e-5)
    # Between two gains they change linearly: nowhere by more than their difference in a hop.
    gains = ((target - mask * heard) / above)[:, ~steady]
    assert gains.min() >= 0.25**2 - 1e-3
    assert gains.max() <= 0.75**2 + 1e-3
    assert np.abs(np.diff(np.median(gains, axis=0))).max() < 1.5 * (0.75**2 - 0.25**2) / HOP


def test_only_the_third_of_an_octave_below_the_limit_counts() -> None:
    time = np.arange(RATE) / RATE
    low, top, above = (np.sin(2 * np.pi * f * time).astype(np.float32)[None] for f in (900.0, 1750.0, 3000.0))
    target = extended(low + top + above, low + top, 0.9 * low + 0.5 * top)
    middle = slice(3 * HOP, -3 * HOP)
    np.testing.assert_allclose((target - 0.9 * low - 0.5 * top)[:, middle], 0.25 * above[:, middle], atol=2e-3)


@pytest.mark.parametrize("num_samples", [1, HOP - 1, HOP, HOP + 1, 2 * HOP, 7 * HOP + 3])
def test_the_size_of_blocks_does_not_matter(num_samples: int) -> None:
    heard, above = noise(2, num_samples), noise(2, num_samples, seed=1)
    whole = extended(heard + above, heard, 0.3 * heard)
    for block in (1, 50, HOP, 3 * HOP + 7):
        np.testing.assert_allclose(extended(heard + above, heard, 0.3 * heard, block=block), whole, atol=1e-6)


def test_channels_share_a_gain_where_they_share_a_mask() -> None:
    heard, above = noise(2, RATE), noise(2, RATE, seed=1)
    target = np.array([[1.0], [0.0]], np.float32) * heard
    own = extended(heard + above, heard, target, one_mask=False)
    np.testing.assert_allclose(own, np.array([[1.0], [0.0]]) * (heard + above), atol=1e-5)
    shared = (extended(heard + above, heard, target) - target) / above
    np.testing.assert_allclose(np.median(shared, axis=1), 0.25, atol=0.05)


def test_silence_stays_silent_and_louder_recordings_have_the_same_gains() -> None:
    silence = np.zeros((1, RATE), np.float32)
    np.testing.assert_array_equal(extended(silence, silence, silence), silence)
    # The band that the model hears is silent: nothing says that the target sounds.
    np.testing.assert_array_equal(extended(noise(1, RATE), silence, silence), silence)
    heard, above = noise(1, RATE), noise(1, RATE, seed=1)
    quiet, loud = (extended(gain * (heard + above), gain * heard, gain * 0.5 * heard) for gain in np.float32([2**-20, 2**20]))
    np.testing.assert_array_equal(quiet * np.float32(2**40), loud)


def test_nothing_in_gives_nothing() -> None:
    assert list(with_band_above([], RATE, MODEL_RATE, one_mask=True)) == []
