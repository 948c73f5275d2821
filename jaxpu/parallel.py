"""Devices and processes: the only file that names pmap or `jax.distributed`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxpu.config import ConfigError

AXIS = "devices"


def process_index() -> int:
    """Index of this process among those that train together; process 0 writes."""
    return jax.process_index()


def process_count() -> int:
    """Number of processes that train together."""
    return jax.process_count()


def check_batch_size(batch_size: int) -> None:
    """Raises `ConfigError` unless the devices can share a batch of `batch_size` equally."""
    devices = jax.device_count()
    if batch_size % devices:
        raise ConfigError(
            f"TrainConfig.batch_size is {batch_size}; it must be a multiple of the {devices} devices that share it. "
            f"Try {max(batch_size // devices, 1) * devices}."
        )


def over_devices(function: Callable[..., Any], *, donate_state: bool = False) -> Callable[..., Any]:
    """Runs a pure function on all devices, the batch shared between them.

    jaxpu's one use of pmap.  The state has no replica axis: it enters and leaves as a single value, equal everywhere.

    Args:
        function: (state, batch, key, axis_name) to outputs that are equal on all devices.
        donate_state: let the outputs take the memory of the state.

    Returns:
        (state, batch, key) to the same outputs; every array of `batch` is (local examples, ...).
    """
    mapped = jax.pmap(
        functools.partial(function, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0 if donate_state else (),
    )

    def run(state: Any, batch: Any, key: jax.Array) -> Any:
        return mapped(state, jax.tree.map(_split, batch), key)

    return run


def _split(array: np.ndarray) -> np.ndarray:
    """(local examples, ...) to (local devices, examples per device, ...)."""
    return array.reshape(jax.local_device_count(), -1, *array.shape[1:])


def one_device() -> jax.sharding.Sharding:
    """Where a value lies that has no device axis: on this process's first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def memory_limit_bytes() -> int | None:
    """Memory that JAX may use on this process's first device; None where the backend does not say, as on CPUs."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def describe() -> str:
    """The devices in words, for logs and reports."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()}), {jax.process_count()} process(es)"
