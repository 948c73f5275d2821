"""The memory that a training step needs, by XLA's analysis, and what to do on a device that has less."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxpu import parallel
from jaxpu.config import Config
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import init_state, largest_divisor, make_train_step
from jaxpu.training.run import TrainingError

MEMORY_SHARE = 0.8
"""Fraction of the device's memory for training steps; the remainder is for evaluation, batches in transit and fragmentation."""


def batch_shapes(config: Config, leading: tuple[int, ...] = ()) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of a config, behind `leading` axes."""
    patch, clips = config.data.patch, config.train.batch_size
    signals = ("unlabeled", "positive", "target") if make_objective(config.objective).needs_target else ("unlabeled", "positive")
    patches = jax.ShapeDtypeStruct((*leading, clips, *patch.patch_shape), jnp.dtype(patch.dtype))
    return dict.fromkeys(signals, patches) | {"index": jax.ShapeDtypeStruct((*leading, clips), jnp.int32)}


def steps_that_fit(train_step: Any, *arguments: Any) -> float | None:
    """How many of a jitted step the device's memory holds at once; None where the backend does not say how much it has.

    Args:
        train_step: jitted; it is compiled for this.
        arguments: of the step, or their shapes and dtypes.
    """
    limit = parallel.memory_limit_bytes()
    if limit is None:
        return None
    memory = train_step.lower(*arguments).compile().memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return MEMORY_SHARE * limit / needed


@contextlib.contextmanager
def enough_memory(config: Config, num_devices: int, num_runs: int = 1) -> Iterator[None]:
    """Turn a device's lack of memory for the steps of a config into TrainingError with a number of clips or runs to try.

    Args:
        config: run configuration.
        num_devices: devices that share a batch.
        num_runs: runs that are trained at once on a device.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if num_runs > 1:
            raise TrainingError(
                f"The device has too little memory for a training step of {num_runs} runs at once. "
                f"Add --at-once {num_runs // 2}, and rerun the command to resume."
            ) from error
        clips = config.train.batch_size // num_devices
        clips = min(clips, config.train.clips_at_once or clips)
        fitting = largest_divisor(clips, _clips_that_fit(config, clips))
        remedy = (
            f"Add --train.clips-at-once {fitting}: the batch stays as it is."
            if fitting
            else "Give --data.patch.clip-samples a lower value and prepare the data again, or choose a smaller network."
        )
        raise TrainingError(f"The device has too little memory for a training step of {clips} clips at once. {remedy}") from error


def _clips_that_fit(config: Config, clips: int) -> int:
    """Clips that the device's memory holds at once, fewer than `clips`; half of them where the backend does not say."""
    train = dataclasses.replace(config.train, batch_size=clips, clips_at_once=0)
    alone = dataclasses.replace(config, train=train)
    step = jax.jit(make_train_step(alone, parallel.convolution_form()), donate_argnums=0)
    state, key = jax.eval_shape(lambda: (init_state(alone), jax.random.key(0)))
    steps = steps_that_fit(step, state, batch_shapes(alone), key)
    return min(clips // 2 if steps is None else int(steps * clips), clips - 1)
