"""Tests of what a target gets above the band of its model."""

from collections.abc import Iterator

import numpy as np
import pytest
import soxr

from jaxpu.core.band_above import HOP_S, BandAbove

RATE, MODEL_RATE = 8000, 4000
HOP = round(HOP_S * MODEL_RATE)


def noise(channels: int, num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, num_samples)).astype(np.float32)


def blocks(size: int, *signals: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    for begin in range(0, signals[0].shape[1], size):
        yield tuple(signal[:, begin : begin + size] for signal in signals)


def measured(
    recording: np.ndarray, target: np.ndarray, *, size: int = 10**6, one_mask: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The gains at the rate of the model, and target - gains * recording."""
    above = BandAbove(MODEL_RATE, one_mask=one_mask)
    differences = list(above.differences(blocks(size, recording, target)))  # type: ignore[arg-type]
    num_samples = recording.shape[1]
    return above.at(0, num_samples, MODEL_RATE), np.concatenate([recording[:, :0], *differences], axis=1)


def test_gains_follow_the_squared_mask() -> None:
    recording = noise(2, 2 * MODEL_RATE)
    mask = np.where(np.arange(2 * MODEL_RATE) < MODEL_RATE, 0.25, 0.75).astype(np.float32)
    (gains,), differences = measured(recording, mask * recording)
    np.testing.assert_allclose(differences, (mask - gains) * recording, atol=1e-5)
    steady = np.abs(np.arange(2 * MODEL_RATE) - MODEL_RATE) > 2 * HOP
    np.testing.assert_allclose(gains[steady], mask[steady] ** 2, atol=1e-5)
    # Between two moments they change linearly: nowhere by more than their difference in a hop.
    assert gains.min() >= 0.25**2 - 1e-5
    assert gains.max() <= 0.75**2 + 1e-5
    assert np.abs(np.diff(gains)).max() < 1.01 * (0.75**2 - 0.25**2) / HOP


def test_only_the_third_of_an_octave_below_the_limit_counts() -> None:
    time = np.arange(MODEL_RATE) / MODEL_RATE
    low, top = (np.sin(2 * np.pi * frequency * time).astype(np.float32)[None] for frequency in (900.0, 1750.0))
    gains, _ = measured(low + top, 0.9 * low + 0.5 * top)
    np.testing.assert_allclose(gains[:, 3 * HOP : -3 * HOP], 0.25, atol=1e-3)


@pytest.mark.parametrize("num_samples", [0, 1, HOP - 1, HOP, HOP + 1, 2 * HOP, 7 * HOP + 3])
def test_the_size_of_blocks_does_not_matter(num_samples: int) -> None:
    recording = noise(2, num_samples)
    target = noise(2, num_samples, seed=1) + recording
    gains, differences = measured(recording, target)
    assert differences.shape == recording.shape
    for size in (1, 50, HOP, 3 * HOP + 7):
        again = measured(recording, target, size=size)
        np.testing.assert_allclose(again[0], gains, atol=1e-6)
        np.testing.assert_allclose(again[1], differences, atol=1e-5)


def test_channels_share_a_gain_where_they_share_a_mask() -> None:
    recording = noise(2, MODEL_RATE)
    target = np.array([[1.0], [0.0]], np.float32) * recording
    own, _ = measured(recording, target, one_mask=False)
    np.testing.assert_allclose(own, [np.ones(MODEL_RATE), np.zeros(MODEL_RATE)], atol=1e-5)
    shared, _ = measured(recording, target)
    assert shared.shape == (1, MODEL_RATE)
    np.testing.assert_allclose(np.median(shared), 0.25, atol=0.05)


def test_silence_and_levels() -> None:
    silence = np.zeros((1, MODEL_RATE), np.float32)
    for result in measured(silence, silence):
        np.testing.assert_array_equal(result, silence)
    recording = noise(1, MODEL_RATE)
    quiet, loud = (measured(gain * recording, gain * 0.5 * recording)[0] for gain in np.float32([2**-20, 2**20]))
    np.testing.assert_array_equal(quiet, loud)


def test_a_recording_block_by_block() -> None:
    """As separation does it: the target at the recording's rate is the mask below the limit, and its square above."""
    time = np.arange(3 * RATE) / RATE
    *below, above = (np.sin(2 * np.pi * frequency * time).astype(np.float32)[None] for frequency in (500.0, 1750.0, 3000.0))
    recording = sum(below) + above
    mask = np.where(time < 1.5, 0.3, 0.6).astype(np.float32)
    low = soxr.resample(recording.T, RATE, MODEL_RATE).T.astype(np.float32)
    band = BandAbove(MODEL_RATE, one_mask=True)
    differences = band.differences(blocks(777, low, mask[::2] * low))  # type: ignore[arg-type]
    resampled = soxr.resample(np.concatenate(list(differences), axis=1).T, MODEL_RATE, RATE).T
    pieces = [
        resampled[:, begin : begin + 1000] + band.at(begin, 1000, RATE) * recording[:, begin : begin + 1000]
        for begin in range(0, 3 * RATE, 1000)
    ]
    expected = mask * sum(below) + mask**2 * above
    steady = (np.abs(time - 1.5) > 0.1) & (time > 0.1) & (time < 2.9)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1)[:, steady], expected[:, steady], atol=3e-3)
    np.testing.assert_array_equal(BandAbove(MODEL_RATE, one_mask=True).at(0, 5, RATE), np.zeros((1, 5)))
