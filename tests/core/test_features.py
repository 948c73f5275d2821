"""What the network sees of the STFT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu.core.models.features import FEATURES

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_values() -> None:
    stft = jnp.asarray([3 + 4j, -15j, 0], jnp.complex64)
    magnitude = np.array([5.0, 15.0, 0.0])
    # PULSE's code divides by 15; its paper takes the fifteenth root.
    np.testing.assert_allclose(FEATURES["scaled"](stft), magnitude / 15, rtol=1e-6)
    np.testing.assert_allclose(FEATURES["power"](stft)[:2], magnitude[:2] ** (1 / 15), rtol=1e-6)
    np.testing.assert_allclose(FEATURES["log"](stft), np.log(magnitude + 0.01) / 3, rtol=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_silent_bins_have_finite_values_and_gradients(name: str) -> None:
    stft = jnp.asarray([[0, 1e-20, 1e-4, 1e4]], jnp.complex64)
    assert FEATURES[name](stft).dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(FEATURES[name](stft))))
    gradient = jax.grad(lambda x: jnp.sum(FEATURES[name](x)))(stft)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("name", FEATURES)
def test_phase_does_not_matter_and_louder_is_more(name: str) -> None:
    phases = jnp.exp(1j * jnp.linspace(0.0, 6.0, 7).astype(jnp.complex64))
    np.testing.assert_allclose(FEATURES[name](phases), np.full(7, FEATURES[name](jnp.ones(1, jnp.complex64))[0]), atol=1e-6)
    assert bool(jnp.all(jnp.diff(FEATURES[name](jnp.asarray([0.01, 0.1, 1, 10], jnp.complex64))) > 0))
