"""SDR and SI-SDR on signals whose scores are known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu.core.metrics import LIMIT_DB, sdr, si_sdr

NUM_SAMPLES = 4000


def orthogonal_pair(rng, *, channels=()):
    """Two orthogonal signals of unit energy: float64 (..., samples)."""
    first = rng.standard_normal((*channels, NUM_SAMPLES))
    second = rng.standard_normal((*channels, NUM_SAMPLES))
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second -= np.sum(first * second, axis=-1, keepdims=True) * first
    return first, second / np.linalg.norm(second, axis=-1, keepdims=True)


@pytest.mark.parametrize("truth_db", [-30.0, -3.0, 0.0, 12.0, 40.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, -20.0])
def test_si_sdr_of_a_constructed_signal(truth_db, scale):
    # The estimate is the reference plus an orthogonal error of known energy, then scaled.
    reference, error = orthogonal_pair(np.random.default_rng(0))
    estimate = scale * (reference + 10 ** (-truth_db / 20) * error)
    assert si_sdr(reference, estimate) == pytest.approx(truth_db, abs=1e-9)
    in_jax = si_sdr(jnp.asarray(reference, jnp.float32), jnp.asarray(estimate, jnp.float32))
    assert in_jax.dtype == jnp.float32
    assert float(in_jax) == pytest.approx(truth_db, abs=1e-3)


@pytest.mark.parametrize("truth_db", [-30.0, 0.0, 25.0])
def test_sdr_of_a_constructed_signal(truth_db):
    reference, error = orthogonal_pair(np.random.default_rng(1))
    assert sdr(reference, reference + 10 ** (-truth_db / 20) * error) == pytest.approx(truth_db, abs=1e-9)


def test_sdr_punishes_a_wrong_scale_and_si_sdr_does_not():
    reference, _ = orthogonal_pair(np.random.default_rng(2))
    assert sdr(reference, 0.5 * reference) == pytest.approx(20 * np.log10(2))
    assert si_sdr(reference, 0.5 * reference) == LIMIT_DB


def test_leading_axes_are_kept():
    reference, error = orthogonal_pair(np.random.default_rng(3), channels=(2, 3))
    truth_db = np.array([[0.0, 5.0, 10.0], [15.0, 20.0, -5.0]])
    estimate = reference + 10 ** (-truth_db[..., None] / 20) * error
    for metric in (sdr, si_sdr):
        np.testing.assert_allclose(metric(reference, estimate), truth_db, atol=1e-9)
        np.testing.assert_allclose(jax.vmap(metric)(jnp.float32(reference), jnp.float32(estimate)), truth_db, atol=1e-3)


@pytest.mark.parametrize("convert", [np.float64, jnp.float32])
def test_silence_has_documented_scores(convert):
    signal, other = (convert(array) for array in orthogonal_pair(np.random.default_rng(4)))
    silence = 0 * signal
    assert float(sdr(signal, silence)) == pytest.approx(0.0, abs=1e-6)
    assert float(si_sdr(signal, silence)) == -LIMIT_DB
    assert float(si_sdr(signal, other)) < -60
    for metric in (sdr, si_sdr):
        assert float(metric(signal, signal)) == LIMIT_DB
        assert np.isnan(float(metric(silence, signal)))
        assert np.isnan(float(metric(silence, silence)))


def test_gradients_are_finite_even_for_silence():
    reference = jnp.float32(orthogonal_pair(np.random.default_rng(5))[0])
    for metric in (sdr, si_sdr):
        for estimate in (0 * reference, reference, 0.3 * reference):
            assert bool(jnp.all(jnp.isfinite(jax.grad(metric, argnums=1)(reference, estimate))))


def test_jit_changes_nothing():
    reference, error = orthogonal_pair(np.random.default_rng(6))
    reference, estimate = jnp.float32(reference), jnp.float32(reference + 0.1 * error)
    for metric in (sdr, si_sdr):
        assert float(jax.jit(metric)(reference, estimate)) == pytest.approx(float(metric(reference, estimate)), abs=1e-4)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) and the estimate \(4,\)"):
        si_sdr(np.ones(3), np.ones(4))


def test_sdr_is_musevals():
    from museval.metrics import bss_eval

    rng = np.random.default_rng(7)
    reference = rng.standard_normal((2, 2, 8000))  # sources, channels, samples
    estimate = reference + 0.3 * rng.standard_normal(reference.shape) + 0.1 * reference[::-1]
    swapped = np.swapaxes(reference, 1, 2), np.swapaxes(estimate, 1, 2)
    ours = sdr(reference.reshape(2, -1), estimate.reshape(2, -1))
    for taps in (1, 64):
        theirs = bss_eval(*swapped, window=np.inf, hop=np.inf, filters_len=taps)[0]
        np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-9)
