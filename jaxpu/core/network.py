"""The network of a config, and the pure function that separates with it."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxpu.config import Config
from jaxpu.core.models import make_model
from jaxpu.core.objectives import make_objective


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """All that separating needs.

    Attributes:
        config: of the run, with the numbers that were estimated from the data.
        variables: parameters and batch statistics, as `jaxpu.core.network.make_mask_fn` takes them.
        info: step, what the checkpoint was selected by, its score, what used stems, the data's fingerprint and counts, and
            what was estimated from the data.
    """

    config: Config
    variables: Any
    info: dict[str, Any]


def variable_shapes(config: Config) -> Any:
    """Shapes and dtypes of the variables that the mask function of `config` takes, as a tree of `jax.ShapeDtypeStruct`."""
    num_outputs = make_objective(config.objective).num_outputs
    model = make_model(config.model, config.data.patch, num_outputs=num_outputs, dtype=jnp.float32)
    stft = jax.ShapeDtypeStruct((1, config.data.patch.frames, config.data.patch.bins), jnp.complex64)
    return jax.eval_shape(lambda key, stft: model.init(key, stft, jnp.zeros(1, jnp.int32), train=False), jax.random.key(0), stft)


def make_mask_fn(config: Config) -> Callable[[Any, jax.Array], jax.Array]:
    """The pure function that separates: network variables and STFT to mask.

    Returns:
        (variables, stft complex64 (batch, frames, bins)) to the mask, float32 (batch, frames, bins) in [0, 1], that keeps the
        target.  `variables` is what `jaxpu.load_model` returns.
    """
    objective = make_objective(config.objective)
    dtype = jnp.bfloat16 if config.train.mixed_precision else jnp.float32
    model = make_model(config.model, config.data.patch, num_outputs=objective.num_outputs, dtype=dtype)

    def mask_fn(variables: Any, stft: jax.Array) -> jax.Array:
        index = jnp.zeros(stft.shape[0], jnp.int32)
        logits = cast(jax.Array, model.apply(variables, stft, index, train=False))
        return objective.mask(logits)

    return mask_fn
