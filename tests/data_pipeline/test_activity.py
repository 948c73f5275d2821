"""Source activity detection, against a plain reading of the paper's rule and on signals whose answer is known."""

import numpy as np
import pytest

from data_pipeline import activity

RATE = 1000
CHUNK = 600  # samples in 0.6 s


def tone(levels: list[float], channels: int = 1) -> np.ndarray:
    """One chunk per level: alternating +level and -level, so the root mean square is the level exactly."""
    signs = np.where(np.arange(CHUNK) % 2, -1.0, 1.0)
    return np.tile(np.concatenate([level * signs for level in levels]), (channels, 1)).astype(np.float32)


def test_energies_are_mean_squares_over_samples_and_channels():
    signal = np.stack([tone([0.5, 0.0, 0.25])[0], tone([0.0, 0.0, 0.25])[0]])
    np.testing.assert_allclose(activity.chunk_energies([signal], RATE), [0.125, 0.0, 0.0625], rtol=1e-6)


@pytest.mark.parametrize("block_samples", [1, 7, 599, 600, 601, 5000])
def test_energies_do_not_depend_on_the_blocks(block_samples):
    signal = np.random.default_rng(0).standard_normal((2, 3 * CHUNK + 100)).astype(np.float32)
    blocks = [signal[:, begin : begin + block_samples] for begin in range(0, signal.shape[1], block_samples)]
    expected = [np.mean(signal[:, begin : begin + CHUNK].astype(float) ** 2) for begin in range(0, signal.shape[1], CHUNK)]
    np.testing.assert_allclose(activity.chunk_energies(blocks, RATE), expected, rtol=1e-9)


def test_segments_equal_a_plain_reading_of_the_rule():
    rng = np.random.default_rng(1)
    for num_chunks in (10, 15, 40, 200):
        levels = 10 ** rng.uniform(-5, 0, num_chunks) * (rng.random(num_chunks) > 0.2)
        counted = np.where(levels == 0, 1e-5, levels)
        threshold = max(np.quantile(counted, 0.15), 1e-3)
        expected = [np.sum(counted[begin : begin + 10] >= threshold) >= 5 for begin in range(0, num_chunks - 9, 5)]
        np.testing.assert_array_equal(activity.active_segments(levels**2), expected)


def test_a_segment_with_half_of_its_chunks_active_is_kept_and_one_with_fewer_is_not():
    # Two segments, chunks 0-9 and 5-14: five loud chunks in the first, four in the second.
    levels = [0.5] * 1 + [0.0] * 4 + [0.5] * 4 + [0.0] * 6
    energies = activity.chunk_energies([tone(levels)], RATE)
    np.testing.assert_array_equal(activity.active_segments(energies), [True, False])
    np.testing.assert_array_equal(activity.active_chunks(energies), [True] * 10 + [False] * 5)


def test_chunks_of_silence_are_inactive_and_a_steady_or_quiet_sound_is_active():
    assert not activity.active_segments(np.zeros(20)).any()
    assert activity.active_segments(np.full(20, 0.01)).all()
    assert activity.active_segments(np.full(20, (2e-3) ** 2)).all(), "-54 dB of full scale"
    assert not activity.active_segments(np.full(20, (5e-4) ** 2)).any(), "-66 dB of full scale"


def test_the_lowest_chunks_of_a_track_are_inactive():
    # 5 of 100 chunks lie at the level where a fixed threshold would keep them all.
    levels = np.r_[np.full(90, 0.5), np.full(10, 0.05)]
    kept = activity.active_chunks(levels**2)
    assert kept[:90].all()
    assert not kept[-5:].any()


@pytest.mark.parametrize("num_chunks", [1, 9, 10, 11, 15, 16, 20])
def test_every_chunk_lies_in_a_segment(num_chunks):
    assert activity.active_chunks(np.full(num_chunks, 0.1)).tolist() == [True] * num_chunks


def test_a_clip_is_kept_when_at_least_half_of_it_is():
    chunks = np.array([True, True, False, False])
    assert activity.is_active(chunks, RATE, 0, CHUNK)
    assert activity.is_active(chunks, RATE, CHUNK, 2 * CHUNK), "half"
    assert not activity.is_active(chunks, RATE, CHUNK + 1, 2 * CHUNK), "one sample less than half"
    assert not activity.is_active(chunks, RATE, 3 * CHUNK, CHUNK)
    assert not activity.is_active(np.array([True]), RATE, 0, 3 * CHUNK), "beyond the end nothing is kept"


def test_chunks_near_the_loudest_are_those_of_librosa():
    librosa = pytest.importorskip("librosa")
    levels_db = np.r_[0.0, -20.0, -59.9, -60.1, -80.0, -30.0, -np.inf, -10.0]
    signal = tone([10 ** (level / 20) for level in levels_db])[0]
    kept = activity.DETECTORS["top_db"](activity.chunk_energies([signal[None]], RATE))
    assert kept.tolist() == [True, True, True, False, False, True, False, True]
    # librosa's frames, one for each chunk, without its padding at the ends.
    frames = signal.reshape(-1, CHUNK)
    loud = librosa.amplitude_to_db(np.sqrt((frames**2).mean(1)), ref=np.max, top_db=None) > -activity.TOP_DB
    np.testing.assert_array_equal(kept, loud)
    # The published rule takes the lowest chunks of a track away, this one keeps what is quiet and audible.
    quiet = np.r_[np.full(90, 0.5), np.full(10, 0.05)] ** 2
    assert activity.DETECTORS["top_db"](quiet).all()
    assert not activity.DETECTORS["band_split_rnn"](quiet).all()


def test_silence_all_through_is_told_from_the_faintest_sound():
    assert activity.is_silent(activity.chunk_energies([np.zeros((1, 1000), np.float32)], RATE))
    signal = np.zeros((1, 1000), np.float32)
    signal[0, 500] = 1e-12
    assert not activity.is_silent(activity.chunk_energies([signal], RATE))


def test_empty_signal():
    assert activity.chunk_energies([], RATE).shape == (0,)
    assert activity.active_segments(np.zeros(0)).shape == (0,)
    for detector in activity.DETECTORS.values():
        assert detector(np.zeros(0)).shape == (0,)
        assert not detector(np.zeros(3)).any()
    assert activity.is_silent(np.zeros(0))


def test_the_level_is_that_of_the_recording_without_its_pauses() -> None:
    energies = np.array([0.5, 0.4, 0.0, 0.0, 0.001, 0.6]) ** 2
    assert activity.gated_level(energies) == pytest.approx(np.sqrt((0.25 + 0.16 + 0.36) / 3))
    assert activity.gated_level(energies * 0.03**2) == pytest.approx(0.03 * activity.gated_level(energies))
    assert activity.gated_level(np.zeros(4)) == activity.gated_level(np.zeros(0)) == 0
