"""Forms of `jax.lax.conv_general_dilated` with stride 1 and padding SAME that are faster on some devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpu import onednn
from jaxpu.config.networks import ConvolutionForm

Convolution = Callable[..., jax.Array]


def choose_convolution(form: ConvolutionForm, dilation: tuple[int, int]) -> Convolution | None:
    """The convolution of a form, for Flax's `nn.Conv`; None is Flax's own, `jax.lax.conv_general_dilated`.

    Args:
        form: chosen by the shell from the devices (`jaxpu.parallel.convolution_form`).
        dilation: of the kernel, in frames and bins.
    """
    if form == "gradient_by_example":
        return gradient_by_example
    if form == "onednn":
        return by_onednn
    return by_phases if form == "phases" and max(dilation) > 1 else None


def same_padding(form: ConvolutionForm, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> str | list[tuple[int, int]]:
    """Padding that makes the outputs of `nn.Conv` as large as its inputs; other forms than XLA's need the word SAME."""
    if form != "xla":
        return "SAME"
    # In numbers, since jax2onnx 0.17 translates SAME wrongly where kernels are dilated.
    sums = [(size - 1) * step for size, step in zip(kernel_size, dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in sums]


def by_phases(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, rhs_dilation: tuple[int, int], **settings: Any
) -> jax.Array:
    """Dilated convolution as plain convolutions over every d-th frame and bin (`space_to_batch` in TensorFlow).

    An output depends only on inputs of its own phase, which is its position modulo the dilation, so each phase is an example of
    a convolution that is not dilated.  cuDNN has no fast gradient of dilated convolutions: that of 16 channels dilated by 4 took
    16 ms, in this form 0.4 ms (docs/performance.md).

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
    """`jax.lax.conv_general_dilated` with a gradient of the kernel that is fast on CPUs.

    That gradient is a sum over all frames and bins, on which XLA spends up to two thirds of a layer's time.  Here it is one
    matrix product per example, small enough for the cache: inputs shifted in time against gradients shifted in frequency, so
    that every pair of shifts gives one weight of the kernel.  Nothing else differs.

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


def by_onednn(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, *, rhs_dilation: tuple[int, int], **settings: Any
) -> jax.Array:
    """Convolution and gradients of oneDNN, on CPUs; `gradient_by_example` for other types than float32.

    Arguments, shapes and errors are those of `by_phases`.
    """
    if inputs.dtype != jnp.float32:
        return gradient_by_example(inputs, kernel, strides, padding, rhs_dilation=rhs_dilation, **settings)
    _require_same_size(kernel, strides, padding)
    return onednn.convolution(inputs, kernel, rhs_dilation)


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
    """Copies of `x` shifted by multiples of `distance` along an axis, with zeros outside."""
    reach = count // 2 * distance
    padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)])
    return [jax.lax.slice_in_dim(padded, shift * distance, shift * distance + x.shape[axis], axis=axis) for shift in range(count)]


def _require_same_size(kernel: jax.Array, strides: Any, padding: Any) -> None:
    """Raise `ValueError` unless outputs are as large as inputs and kernels have a centre."""
    if padding != "SAME" or tuple(strides) != (1, 1) or not all(size % 2 for size in kernel.shape[:2]):
        raise ValueError(
            f"strides are {tuple(strides)}, padding {padding!r}, kernel {kernel.shape[:2]}; this form needs strides 1, padding "
            "SAME and odd kernels. Use jax.lax.conv_general_dilated."
        )
