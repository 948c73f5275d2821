"""Batch normalization beside flax's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu.core.models.batch_norm import EPSILON, BatchNorm

SHAPE = (3, 5, 4, 6)
KEYS = jax.random.split(jax.random.key(0), 4)


def variables(channels: int) -> dict[str, Any]:
    scale, bias, mean, var = jax.random.uniform(KEYS[0], (4, channels), minval=0.5, maxval=2.0)
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_statistics_and_gradients_are_those_of_flax(axis: int, train: bool, dtype: Any) -> None:
    x = (2 + 3 * jax.random.normal(KEYS[1], SHAPE)).astype(dtype)
    cotangents = jax.random.normal(KEYS[2], SHAPE)

    def ours(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        norm, given = BatchNorm(axis=axis, dtype=dtype), variables(SHAPE[axis])
        return norm.apply(given | {"params": params}, x, train=train, mutable=["batch_stats"])

    def theirs(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        norm, given = nn.BatchNorm(axis=axis, dtype=dtype, momentum=0.0, epsilon=EPSILON), variables(SHAPE[axis])
        return norm.apply(given | {"params": params}, x, use_running_average=not train, mutable=["batch_stats"])

    def everything(function: Any) -> Any:
        def loss(params: Any, x: jax.Array) -> jax.Array:
            return jnp.sum(function(params, x)[0] * cotangents)

        params = variables(SHAPE[axis])["params"]
        output, changed = function(params, x)
        assert output.dtype == dtype
        return output, changed, jax.grad(loss, argnums=(0, 1))(params, x)

    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    jax.tree.map(
        lambda own, other: np.testing.assert_allclose(
            own.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=tolerance
        ),
        everything(ours),
        everything(theirs),
    )


def test_variables_are_named_and_begin_as_those_of_flax() -> None:
    x = jax.random.normal(KEYS[1], SHAPE)
    ours = BatchNorm(axis=2).init(KEYS[3], x, train=True)
    theirs = nn.BatchNorm(axis=2).init(KEYS[3], x, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_silent_channel_stays_finite() -> None:
    x = jnp.zeros(SHAPE).at[..., 0].set(1.5)
    given = BatchNorm().init(KEYS[3], x, train=True)
    gradient = jax.grad(lambda x: jnp.sum(BatchNorm().apply(given, x, train=True, mutable=["batch_stats"])[0] ** 2))(x)
    output = BatchNorm().apply(given, x, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(output, np.zeros(SHAPE), atol=1e-3)
    assert np.isfinite(gradient).all()
