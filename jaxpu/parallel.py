"""Devices and processes: the only file that names pmap or `jax.distributed`."""

import atexit
import contextlib
import functools
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.errors import UserError
from jaxpu import onednn
from jaxpu.config import ConfigError
from jaxpu.config.cluster import Cluster
from jaxpu.config.networks import ConvolutionForm

AXIS = "devices"

Value = TypeVar("Value")


@contextlib.contextmanager
def joined(cluster: Cluster, *, timeout_s: int = 300) -> Iterator[None]:
    """Join the processes of a cluster; leaving the context waits for all of them.  Enter it before the first use of JAX.

    A process that leaves the context with an exception ends at once with status 1.  The others end when they next need it: at
    once where the transport notices (gloo, on CPUs), else when its heartbeat has been missing for 100 s, which is JAX's default.

    Args:
        cluster: how the processes find each other; nothing is done if it names none.
        timeout_s: how long to wait for the others.  Then this process ends with a message and status 1, since JAX itself would
            abort with a C++ stack and no exception.

    Raises:
        ConfigError: `auto` finds no cluster.
    """
    if cluster.cluster is None:
        yield
        return
    in_words = f"process {cluster.process} of {cluster.processes}, process 0 at {cluster.cluster}"
    if cluster.cluster == "auto":
        in_words = "--cluster auto, from the variables of the environment"
    give_up = threading.Timer(timeout_s, _give_up, [in_words, timeout_s])
    give_up.daemon = True
    give_up.start()
    try:
        jax.distributed.initialize(
            None if cluster.cluster == "auto" else cluster.cluster,
            cluster.processes,
            cluster.process,
            initialization_timeout=2 * timeout_s,
        )
    except ValueError as error:
        raise ConfigError(
            f"--cluster is auto, but the environment describes no cluster ({error}). Start the processes with srun, mpirun or on "
            "a TPU pod, or give --cluster HOST:PORT, --processes and --process."
        ) from error
    finally:
        give_up.cancel()
    if threading.current_thread() is threading.main_thread():
        # JAX has taken over SIGTERM, to be polled.  This gives it back: it ends the process, or stops its training.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    try:
        # Make the first connections between devices while all processes wait here: gloo gives later ones 30 s.
        gather(any_process(False))
        yield
    except BaseException:
        # JAX's own exit would wait minutes for the other processes, which wait for this one.
        atexit.register(os._exit, 1)
        raise
    jax.distributed.shutdown()


def _give_up(in_words: str, timeout_s: int) -> None:
    sys.stderr.write(
        f"jaxpu: the processes did not find each other within {timeout_s} s ({in_words}). Check that all of them run, with the "
        "same HOST:PORT and number of processes, and that no firewall stands between them.\n"
    )
    sys.stderr.flush()
    os._exit(1)


def gather(value: Value) -> list[Value]:
    """Values of all processes, in their order; all of them must call it.  `value` is anything that can be pickled."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def of_first_process(make: Callable[[], Value]) -> Value:
    """A value that process 0 makes, in all processes; the others wait for it.  It is anything that can be pickled.

    Raises what `make` raises in process 0, in all processes: `UserError` or `OSError`.
    """
    outcome: Value | UserError | OSError | None = None
    if jax.process_index() == 0:
        try:
            outcome = make()
        except (UserError, OSError) as error:
            outcome = error
    (first, *_) = gather(outcome)
    if isinstance(first, UserError | OSError):
        raise first
    return first  # type: ignore[return-value]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(_sum_over_devices()(None, np.full(jax.local_device_count(), flag, np.int32), None))


@functools.cache
def _sum_over_devices() -> Callable[..., Any]:
    return over_devices(lambda state, batch, key, axis_name: jax.lax.psum(batch.sum(), axis_name))


def require_device() -> None:
    """Raise `ConfigError` if JAX can use no device, which it finds out at its first use."""
    try:
        jax.devices()
    except Exception as error:  # Of several classes, some without a message.
        platforms = os.environ.get("JAX_PLATFORMS")
        remedy = f"JAX_PLATFORMS is {platforms!r}: unset it, or install that platform." if platforms else "Check its driver."
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConfigError(f"JAX can use no device ({reason}). {remedy}") from error


def process_index() -> int:
    """Index of this process among those that train together; process 0 writes."""
    return jax.process_index()


def process_count() -> int:
    """Number of processes that train together."""
    return jax.process_count()


def device_count() -> int:
    """Number of devices of all processes."""
    return jax.device_count()


def check_batch_size(batch_size: int) -> None:
    """Raise `ConfigError` unless the devices can share a batch of `batch_size` equally."""
    devices = jax.device_count()
    if batch_size % devices:
        raise ConfigError(
            f"TrainConfig.batch_size is {batch_size}; it must be a multiple of the {devices} devices that share it. "
            f"Try {max(batch_size // devices, 1) * devices}."
        )


def over_devices(function: Callable[..., Any], *, donate_state: bool = False) -> Callable[..., Any]:
    """Run a pure function on all devices of all processes, which share the batch.

    jaxpu's one use of pmap.  The state has no replica axis: it enters and leaves as a single value, equal everywhere.  pmap is
    in maintenance since JAX 0.8.  Its replacement would be, with P = jax.sharding.PartitionSpec:

        mesh = jax.sharding.Mesh(jax.devices(), AXIS)
        mapped = jax.jit(
            jax.shard_map(
                functools.partial(function, axis_name=AXIS),
                mesh=mesh,
                in_specs=(P(), P(AXIS), P()),
                out_specs=P(),
                check_vma=False,
            ),
            donate_argnums=0 if donate_state else (),
        )

    and for every array of the batch, in `run`,
    `jax.make_array_from_process_local_data(jax.sharding.NamedSharding(mesh, P(AXIS)), array)` instead of `_split`.

    Args:
        function: (state, batch, key, axis_name) to outputs that are equal on all devices.
        donate_state: reuse the memory of the state for the outputs; the caller has `spread` it first.

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


def spread(state: Any) -> Any:
    """A state on all devices of this process, as a step leaves it.  It may share the memory of the given one, which is then lost.

    pmap would do so itself, but compile again for the second step, whose state is spread already; and where several processes
    work together it would free a donated state too early (jax 0.10).
    """
    mesh = jax.sharding.Mesh(jax.local_devices(), AXIS)
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def _split(array: np.ndarray) -> np.ndarray:
    """(local examples, ...) to (local devices, examples per device, ...)."""
    return array.reshape(jax.local_device_count(), -1, *array.shape[1:])


def one_device() -> jax.sharding.Sharding:
    """Sharding of values that have no device axis: this process's first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def convolution_form() -> ConvolutionForm:
    """The form in which convolutions are fastest on these devices (docs/performance.md has the times)."""
    backend = jax.default_backend()
    if backend == "cpu":
        return "gradient_by_example" if onednn.why_missing() else "onednn"
    return "phases" if backend == "gpu" else "xla"


def advice() -> str | None:
    """How convolutions can be made faster on these devices, as sentences for the user; None if they cannot."""
    return onednn.why_missing() if jax.default_backend() == "cpu" and onednn.SUPPORTED else None


def memory_limit_bytes() -> int | None:
    """Memory that JAX may use on this process's first device; None where the backend does not say, as on CPUs."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def describe() -> str:
    """The devices in words, for logs and reports."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()}), {jax.process_count()} process(es)"
