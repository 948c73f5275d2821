"""`jaxpu.core.stft` against librosa's, and as its own inverse."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from data_pipeline.config import PatchSpec, Window
from jaxpu.core.stft import istft, magnitude, stft

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# (n_fft, win_length, hop_length, window): PULSE's, short windows, one that cannot be centred exactly, odd hops.
CASES: list[tuple[int, int, int, Window]] = [
    (1024, 1024, 256, "hamming"),
    (256, 160, 40, "hamming"),
    (256, 160, 40, "hann"),
    (256, 160, 40, "blackman"),
    (128, 101, 33, "hann"),
    (64, 64, 17, "blackman"),
]
stft_jit = jax.jit(stft, static_argnums=1)
istft_jit = jax.jit(istft, static_argnums=(1, 2))


def patch_spec(n_fft: int, win_length: int, hop_length: int, window: Window = "hamming") -> PatchSpec:
    return PatchSpec(clip_samples=n_fft, n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_librosa(case: tuple[int, int, int, Window]) -> None:
    spec = patch_spec(*case)
    waveform = noise(2, 3 * spec.n_fft + 5)
    # In float64, so that the difference is our rounding alone.
    expected = librosa.stft(
        waveform.astype(np.float64),
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        window=spec.window,
        center=True,
        pad_mode="reflect",
    )
    actual = stft_jit(jnp.asarray(waveform), spec)
    assert actual.dtype == jnp.complex64
    assert actual.shape == (2, 1 + waveform.shape[-1] // spec.hop_length, spec.bins)
    np.testing.assert_allclose(np.swapaxes(actual, -1, -2), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_shortest_waveform_equals_librosa() -> None:
    spec = patch_spec(64, 64, 16)
    waveform = noise(64)
    expected = librosa.stft(waveform, n_fft=64, hop_length=16, window="hamming", center=True, pad_mode="reflect")
    np.testing.assert_allclose(stft_jit(jnp.asarray(waveform), spec).T, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has 63 samples; it must have at least n_fft = 64"):
        stft_jit(jnp.asarray(waveform[:-1]), spec)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case: tuple[int, int, int, Window]) -> None:
    spec = patch_spec(*case)
    for num_samples in (6 * spec.hop_length + spec.n_fft, 6 * spec.hop_length + spec.n_fft - 1, 5 * spec.n_fft // 2 + 3):
        waveform = noise(2, num_samples)
        restored = istft_jit(stft_jit(jnp.asarray(waveform), spec), spec, num_samples)
        assert restored.dtype == jnp.float32
        assert restored.shape == waveform.shape
        np.testing.assert_allclose(restored, waveform, rtol=0, atol=3e-5)


def test_patch_spec_counts_frames_and_bins_as_the_stft_has_them() -> None:
    spec = PatchSpec(clip_samples=1000, n_fft=128, win_length=128, hop_length=48)
    assert stft_jit(jnp.zeros(spec.clip_samples), spec).shape == (spec.frames, spec.bins)


def test_mask_and_its_complement_add_up_to_the_mixture() -> None:
    spec = patch_spec(128, 128, 32)
    waveform = noise(2, 1000)
    waveform[0, 300:700] = 0
    spectrum = stft_jit(jnp.asarray(waveform), spec)
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=spectrum.shape).astype(np.float32))
    mask = mask.astype(jnp.complex64)
    target = istft_jit(mask * spectrum, spec, 1000)
    accompaniment = istft_jit((1 - mask) * spectrum, spec, 1000)
    assert float(jnp.abs(target).max()) > 0.1
    np.testing.assert_allclose(target + accompaniment, waveform, rtol=0, atol=5e-6)


def test_silence_stays_silence() -> None:
    spec = patch_spec(128, 128, 32)
    spectrum = stft_jit(jnp.zeros(500), spec)
    np.testing.assert_array_equal(spectrum, 0)
    np.testing.assert_array_equal(istft_jit(spectrum, spec, 500), np.zeros(500, np.float32))


@pytest.mark.parametrize("sizes", [(128, 128, 32), (128, 101, 33)], ids=str)
def test_gradient_through_the_round_trip_is_the_identity(sizes: tuple[int, int, int]) -> None:
    spec = patch_spec(*sizes)

    def half_energy(waveform: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(istft_jit(stft_jit(waveform, spec), spec, waveform.shape[-1]) ** 2)

    waveform = noise(701)
    np.testing.assert_allclose(jax.grad(half_energy)(jnp.asarray(waveform)), waveform, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(jax.grad(half_energy)(jnp.zeros(701)), 0)


def test_gradient_with_respect_to_a_mask_is_finite_where_the_input_is_silent() -> None:
    spec = patch_spec(128, 128, 32)
    waveform = jnp.asarray(noise(700)).at[200:].set(0)
    spectrum = stft_jit(waveform, spec)

    def loss(mask: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(istft_jit(mask * spectrum, spec, 700) - waveform)) + jnp.mean(jnp.abs(mask * spectrum))

    gradient = jax.grad(loss)(jnp.full(spectrum.shape, 0.5))
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert float(jnp.abs(gradient).max()) > 0


def test_magnitude_of_one_channel_is_the_absolute_value() -> None:
    spectrum = jnp.asarray(noise(3, 1, 5, 7) + 1j * noise(3, 1, 5, 7, seed=1)).at[0, 0, 0, 0].set(0)
    assert magnitude(spectrum).dtype == jnp.float32
    np.testing.assert_allclose(magnitude(spectrum), np.abs(spectrum[:, 0]), rtol=1e-6)


def test_magnitude_of_two_channels_by_hand() -> None:
    # Two frames of two bins.  Powers are 25 and 1, 0 and 4; 2 and 2 in opposite phases, and silence.
    left, right = [[3 + 4j, 0], [1 + 1j, 0]], [[1j, 2], [-1 - 1j, 0]]
    spectrum = jnp.asarray([left, right], jnp.complex64)
    expected = np.sqrt([[13, 2], [2, 0]])
    np.testing.assert_allclose(magnitude(spectrum), expected, rtol=1e-6)
    np.testing.assert_allclose(magnitude(jnp.stack([spectrum, 2 * spectrum])), [expected, 2 * expected], rtol=1e-6)
