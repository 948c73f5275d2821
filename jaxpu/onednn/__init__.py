"""Convolutions of oneDNN, which on CPUs take a fifth to a third of the time of XLA's (docs/performance.md).

The package `onednn-cpu-gomp` has the library, without an interface to Python.  ctypes prepares its primitives, and XLA executes
them (`jaxpu.onednn.foreign_call`).
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Iterator, Sequence
from ctypes import c_int64, c_size_t, c_void_p
from typing import Any, Literal

import jax
import jax.numpy as jnp

PACKAGE, LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"
"""Whether the package exists for this machine."""

Kind = Literal["forward", "of_inputs", "of_kernel"]
"""The convolution, and its two gradients."""

# Of oneDNN's dnnl_types.h and dnnl_common_types.h.
CPU, IN_ORDER, FLOAT32, ANY_LAYOUT = 1, 1, 3, 1
FORWARD_TRAINING, DIRECT, SCRATCHPAD_OF_USER = 64, 1, 1
SRC, DST, WEIGHTS, SCRATCHPAD, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS = 1, 17, 33, 80, 129, 145, 161
DESCRIPTOR_OF = {WEIGHTS: 131, DIFF_WEIGHTS: 132, SCRATCHPAD: 136}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Shapes of a convolution: (batch, frames, bins, channels), (frames, bins, channels, features), and the kernel's dilation."""

    inputs: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, int]

    @property
    def outputs(self) -> tuple[int, ...]:
        """(batch, frames, bins, features)."""
        return (*self.inputs[:3], self.kernel[3])


def why_missing() -> str | None:
    """Why oneDNN cannot be used on this machine, and what to do; None if it can."""
    if not SUPPORTED:
        return f"oneDNN is used on Linux and x86-64 alone, and this is {sys.platform} on {platform.machine()}."
    try:
        _library()
    except ModuleNotFoundError:
        return "oneDNN is not installed. pip install 'jaxpu[cpu]' makes training on CPUs up to twice as fast."
    except (ImportError, OSError) as error:
        return f"oneDNN is installed but cannot be loaded: {error}. libgomp.so.1 is in the package libgomp1 of Debian and Ubuntu."
    return None


def convolution(inputs: jax.Array, kernel: jax.Array, dilation: tuple[int, int]) -> jax.Array:
    """A convolution with strides of 1, and zeros outside.

    Args:
        inputs: float32 (batch, frames, bins, channels).
        kernel: float32 (odd number of frames, odd number of bins, channels, features).
        dilation: of the kernel, in frames and bins.

    Returns:
        float32 (batch, frames, bins, features).
    """
    call = functools.partial(_call, Geometry(inputs.shape, kernel.shape, dilation))
    convolve = jax.custom_vjp(functools.partial(call, "forward"))

    def forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return convolve(inputs, kernel), (inputs, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, kernel = saved
        return call("of_inputs", cotangents, kernel), call("of_kernel", inputs, cotangents)

    convolve.defvjp(forward, backward)
    return convolve(inputs, kernel)


def _call(geometry: Geometry, kind: Kind, first: jax.Array, second: jax.Array) -> jax.Array:
    with _lock:
        primitive = _primitive(geometry, kind)
    shape = {"forward": geometry.outputs, "of_inputs": geometry.inputs, "of_kernel": geometry.kernel}[kind]
    results = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    results += [jax.ShapeDtypeStruct((size,), jnp.uint8) for size in primitive.workspaces]
    # Shapes belong to the primitive, so examples of vmap are calls of their own.
    return jax.ffi.ffi_call(primitive.target, results, vmap_method="sequential")(first, second)[0]


_lock = threading.Lock()
"""Of the registration of targets, whose names XLA takes once."""


@dataclasses.dataclass(frozen=True)
class _Primitive:
    """A target that XLA calls: its name, the sizes in bytes of two results that are workspaces, and its code, kept alive."""

    target: str
    workspaces: tuple[int, int]
    handler: Any


@functools.cache
def _primitive(geometry: Geometry, kind: Kind) -> _Primitive:
    """Prepare and register it, once in the life of the process: XLA never forgets a target."""
    from jaxpu.onednn.foreign_call import Execution, Handler, Memory

    library = _library()
    source, target, plain, packed = _descriptors(geometry)
    descriptor = _primitive_descriptor(geometry, kind, source, target, packed)
    kernel = DIFF_WEIGHTS if kind == "of_kernel" else WEIGHTS
    own_layout, scratchpad = (library.descriptor_of(descriptor, each) for each in (kernel, SCRATCHPAD))
    # By oneDNN's number: the descriptor, and the place among XLA's arguments, or None for the result.
    buffers: dict[int, tuple[c_void_p, int | None]] = {
        "forward": {SRC: (source, 0), WEIGHTS: (plain, 1), DST: (target, None)},
        "of_inputs": {DIFF_DST: (target, 0), WEIGHTS: (plain, 1), DIFF_SRC: (source, None)},
        "of_kernel": {SRC: (source, 0), DIFF_DST: (target, 1), DIFF_WEIGHTS: (plain, None)},
    }[kind]
    memories = {number: Memory(_address(each), place or 0, is_result=place is None) for number, (each, place) in buffers.items()}
    in_layout = {kernel: Memory(_address(own_layout), 1, is_result=True)}
    in_workspaces = in_layout | {SCRATCHPAD: Memory(_address(scratchpad), 2, is_result=True)}
    convolve = Execution(library.primitive(descriptor), memories | in_workspaces)
    orders = [(plain, memories[kernel]), (own_layout, in_layout[kernel])]
    if kind == "of_kernel":
        orders.reverse()
    (from_layout, before), (to_layout, after) = orders
    reorder = Execution(library.reorder(from_layout, to_layout), {SRC: before, DST: after})

    sizes = ("x".join(map(str, each)) for each in (geometry.inputs, geometry.kernel, geometry.dilation))
    name = "_".join(("jaxpu_onednn", kind, *sizes))
    executions = [convolve, reorder] if kind == "of_kernel" else [reorder, convolve]
    handler = Handler(library.addresses, executions, name)
    function = ctypes.CFUNCTYPE(c_void_p, c_void_p)(handler.address)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return _Primitive(name, (library.bytes_of(own_layout), library.bytes_of(scratchpad)), handler)


def _descriptors(geometry: Geometry) -> tuple[c_void_p, c_void_p, c_void_p, c_void_p]:
    """Of inputs, outputs, the kernel as JAX has it, and the kernel as oneDNN likes it; oneDNN's order is that of PyTorch."""
    tall, wide, channels, features = geometry.kernel

    def examples(shape: tuple[int, ...]) -> c_void_p:
        batch, frames, bins, width = shape
        return _library().strided((batch, width, frames, bins), (frames * bins * width, 1, bins * width, width))

    sizes = (features, channels, tall, wide)
    plain = _library().strided(sizes, (1, features, wide * channels * features, channels * features))
    packed = _library().make("memory_desc_create_with_tag", len(sizes), _numbers(sizes), FLOAT32, ANY_LAYOUT)
    return examples(geometry.inputs), examples(geometry.outputs), plain, packed


def _primitive_descriptor(geometry: Geometry, kind: Kind, source: c_void_p, target: c_void_p, packed: c_void_p) -> c_void_p:
    library = _library()
    tall, wide, _, _ = geometry.kernel
    over, under = geometry.dilation
    padding = _numbers((tall // 2 * over, wide // 2 * under))
    where = (_numbers((1, 1)), _numbers((over - 1, under - 1)), padding, padding)

    def make(which: str, *arguments: Any) -> c_void_p:
        name = f"convolution_{which}_primitive_desc_create"
        return library.make(name, library.engine, *arguments, library.attributes)

    forward = make("forward", FORWARD_TRAINING, DIRECT, source, packed, None, target, *where)
    if kind == "forward":
        return forward
    if kind == "of_inputs":
        return make("backward_data", DIRECT, source, packed, target, *where, forward)
    return make("backward_weights", DIRECT, source, packed, None, target, *where, forward)


class _Library:
    """The shared library.  What it makes is kept as long as the process lives."""

    def __init__(self) -> None:
        from jaxpu.onednn.foreign_call import Library, interface_version

        interface_version()
        (path,) = (file.locate() for file in importlib.metadata.files(PACKAGE) or () if file.name == LIBRARY)
        with _waiting_passively():
            self._functions = ctypes.CDLL(str(path))
        self._functions.dnnl_primitive_desc_query_md.restype = c_void_p
        self._functions.dnnl_memory_desc_get_size.restype = c_size_t
        self.engine = self.make("engine_create", CPU, c_size_t(0))
        # A scratchpad of the library's own would be shared by the primitives of a thread.
        self.attributes = self.make("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", self.attributes, SCRATCHPAD_OF_USER)
        names = ("memory_create", "memory_destroy", "primitive_execute")
        functions = {name: _address(ctypes.cast(self._functions[f"dnnl_{name}"], c_void_p)) for name in names}
        stream = self.make("stream_create", self.engine, IN_ORDER)
        self.addresses = Library(_address(self.engine), _address(stream), **functions)

    def call(self, name: str, *arguments: Any) -> None:
        status = self._functions[f"dnnl_{name}"](*arguments)
        if status:
            raise RuntimeError(f"dnnl_{name} of oneDNN ended with status {status}.")

    def make(self, name: str, *arguments: Any) -> c_void_p:
        """Call a function whose first argument is the address of what it makes."""
        made = c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def strided(self, sizes: Sequence[int], strides: Sequence[int]) -> c_void_p:
        """A memory descriptor of float32."""
        return self.make("memory_desc_create_with_strides", len(sizes), _numbers(sizes), FLOAT32, _numbers(strides))

    def descriptor_of(self, primitive_descriptor: c_void_p, number: int) -> c_void_p:
        """The memory descriptor of an argument."""
        return c_void_p(self._functions.dnnl_primitive_desc_query_md(primitive_descriptor, DESCRIPTOR_OF[number], 0))

    def bytes_of(self, memory_descriptor: c_void_p) -> int:
        return int(self._functions.dnnl_memory_desc_get_size(memory_descriptor))

    def primitive(self, descriptor: c_void_p) -> int:
        """Address of a primitive."""
        return _address(self.make("primitive_create", descriptor))

    def reorder(self, before: c_void_p, after: c_void_p) -> int:
        """Address of a primitive that copies from a layout to another one."""
        return self.primitive(self.make("reorder_primitive_desc_create", before, self.engine, after, self.engine, None))


@contextlib.contextmanager
def _waiting_passively() -> Iterator[None]:
    """Load OpenMP so that its threads sleep while they wait, unless the user says how: else they take cores from XLA's."""
    if "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


@functools.cache
def _library() -> _Library:
    return _Library()


def _numbers(values: Sequence[int]) -> ctypes.Array[c_int64]:
    return (c_int64 * len(values))(*values)


def _address(pointer: c_void_p) -> int:
    assert pointer.value is not None
    return pointer.value
