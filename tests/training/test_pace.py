"""The share of the time in which training waits for data."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu.training.pace import Pace

NUM_BATCHES = 4


def slow_batches(seconds: float) -> Iterator[np.ndarray]:
    for _ in range(NUM_BATCHES):
        time.sleep(seconds)
        yield np.zeros(1)


def waited(seconds_per_batch: float, seconds_per_step: float, *, ahead: bool) -> float:
    """Train for a while; `ahead`: the step of a batch is still under way when the next batch is asked for."""

    @jax.jit
    def step(batch: jax.Array) -> jax.Array:
        def work(zeros: np.ndarray) -> np.ndarray:
            time.sleep(seconds_per_step)
            return zeros

        return jax.pure_callback(work, jax.ShapeDtypeStruct((1,), jnp.float32), batch)

    step(jnp.zeros(1)).block_until_ready()
    pace, pending = Pace(), list[jax.Array]()
    for batch in pace.timed(slow_batches(seconds_per_batch), pending):
        pending.append(step(jnp.asarray(batch)))
        if not ahead:
            pending[-1].block_until_ready()
    jax.block_until_ready(pending)
    speed = pace.read(len(pending), 3)
    assert speed["clips_per_s"] == pytest.approx(3 * NUM_BATCHES / (NUM_BATCHES * 0.3), rel=0.7)
    return speed["data_wait"]


def test_time_until_a_batch_comes_is_waiting() -> None:
    assert waited(0.25, 0.05, ahead=False) > 0.7
    assert waited(0.05, 0.25, ahead=False) < 0.4


def test_time_in_which_the_device_is_at_work_is_none() -> None:
    assert waited(0.1, 0.3, ahead=True) < 0.4
