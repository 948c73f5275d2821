"""Convolutions as the backend computes them fastest: forms of `jax.lax.conv_general_dilated` with stride 1 and padding SAME."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Convolution = Callable[..., jax.Array]


def fastest(dilation: tuple[int, int]) -> Convolution | None:
    """The form to be taken on the default backend (docs/performance.md has the times); None is that of JAX.

    Args:
        dilation: of the kernel, in frames and bins.
    """
    match jax.default_backend():
        case "cpu":
            return gradient_by_example
        case "gpu" if max(dilation) > 1:
            return by_phases
        case _:
            return None


def by_phases(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, rhs_dilation: tuple[int, int], **settings: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, for Flax's `nn.Conv`, as convolutions without holes over every d-th frame and bin.

    An output depends on inputs of its own phase, its position modulo the dilation, alone.  So each phase is an example of its own
    of a convolution that is not dilated (TensorFlow calls it `space_to_batch`).  cuDNN has no fast gradient of dilated
    convolutions: of 16 channels dilated by 4 it took 16 ms, like this 0.4 ms (docs/performance.md).

    Args:
        inputs: (batch, frames, bins, channels).
        kernel: (odd number of frames, odd number of bins, channels, features).
        strides: 1 and 1.
        padding: "SAME".
        rhs_dilation: of the kernel, in frames and bins.
        settings: passed on.

    Returns:
        (batch, frames, bins, features).

    Raises:
        ValueError: on other strides, padding or kernels.
    """
    _require_same_size(kernel, strides, padding)
    batch, frames, bins, channels = inputs.shape
    over, under = rhs_dilation
    rows, columns = -(-frames // over), -(-bins // under)
    padded = jnp.pad(inputs, ((0, 0), (0, rows * over - frames), (0, columns * under - bins), (0, 0)))
    phases = padded.reshape(batch, rows, over, columns, under, channels).transpose(0, 2, 4, 1, 3, 5)
    phases = phases.reshape(-1, rows, columns, channels)
    convolved = jax.lax.conv_general_dilated(phases, kernel, strides, padding, rhs_dilation=(1, 1), **settings)
    convolved = convolved.reshape(batch, over, under, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return convolved.reshape(batch, rows * over, columns * under, -1)[:, :frames, :bins]


def gradient_by_example(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, rhs_dilation: tuple[int, int], **settings: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, for Flax's `nn.Conv`, with a gradient of the kernel that is fast on CPUs.

    That gradient is a sum over all frames and bins, for which XLA takes up to two thirds of a layer's time.  Here it is a matrix
    product for each example, small enough for the cache: inputs shifted in time against gradients shifted in frequency, so that
    every pair of shifts is one weight of the kernel.  Nothing else differs.

    Arguments, shapes and errors are those of `by_phases`.
    """
    _require_same_size(kernel, strides, padding)

    def plain(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, rhs_dilation=rhs_dilation, **settings)

    convolve = jax.custom_vjp(plain)

    def forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return plain(inputs, kernel), (inputs, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, kernel = saved
        (of_inputs,) = jax.vjp(partial(plain, kernel=kernel), inputs)[1](cotangents)
        return of_inputs, _kernel_gradient(inputs, cotangents, kernel.shape[:2], rhs_dilation).astype(kernel.dtype)

    convolve.defvjp(forward, backward)
    return convolve(inputs, kernel)


def _kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, kernel_size: tuple[int, ...], dilation: tuple[int, int]
) -> jax.Array:
    """float32 (*kernel_size, channels, features), from (batch, frames, bins, channels) and (batch, frames, bins, features)."""
    (tall, wide), (over, under) = kernel_size, dilation
    channels, features = inputs.shape[-1], cotangents.shape[-1]

    def add(total: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        later = _shifted(example[0], tall, over, axis=0)
        lower = _shifted(example[1], wide, under, axis=1)[::-1]
        left = jnp.concatenate(later, axis=-1).reshape(-1, tall * channels)
        right = jnp.concatenate(lower, axis=-1).reshape(-1, wide * features)
        return total + jnp.matmul(left.T, right, preferred_element_type=jnp.float32), None

    zeros = jnp.zeros((tall * channels, wide * features), jnp.float32)
    total, _ = jax.lax.scan(add, zeros, (inputs, cotangents))
    return total.reshape(tall, channels, wide, features).transpose(0, 2, 1, 3)


def _shifted(x: jax.Array, count: int, distance: int, *, axis: int) -> list[jax.Array]:
    """`x` and its neighbours at multiples of `distance` along an axis, from the one before it on, with zeros outside."""
    reach = count // 2 * distance
    padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)])
    return [jax.lax.slice_in_dim(padded, shift * distance, shift * distance + x.shape[axis], axis=axis) for shift in range(count)]


def _require_same_size(kernel: jax.Array, strides: Any, padding: Any) -> None:
    """Raises `ValueError` where outputs are not as large as inputs, or kernels not symmetric."""
    if padding != "SAME" or tuple(strides) != (1, 1) or not all(size % 2 for size in kernel.shape[:2]):
        raise ValueError(
            f"strides are {tuple(strides)}, padding {padding!r}, kernel {kernel.shape[:2]}; this form needs strides 1, padding "
            "SAME and odd kernels. Use jax.lax.conv_general_dilated."
        )
