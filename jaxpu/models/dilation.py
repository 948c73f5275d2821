"""Dilated convolutions that are fast on GPUs."""

from typing import Any

import jax
import jax.numpy as jnp


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
    if padding != "SAME" or tuple(strides) != (1, 1) or not all(size % 2 for size in kernel.shape[:2]):
        raise ValueError(
            f"strides are {tuple(strides)}, padding {padding!r}, kernel {kernel.shape[:2]}; phases need strides 1, padding SAME "
            "and odd kernels. Use jax.lax.conv_general_dilated."
        )
    batch, frames, bins, channels = inputs.shape
    over, under = rhs_dilation
    rows, columns = -(-frames // over), -(-bins // under)
    padded = jnp.pad(inputs, ((0, 0), (0, rows * over - frames), (0, columns * under - bins), (0, 0)))
    phases = padded.reshape(batch, rows, over, columns, under, channels).transpose(0, 2, 4, 1, 3, 5)
    phases = phases.reshape(-1, rows, columns, channels)
    convolved = jax.lax.conv_general_dilated(phases, kernel, strides, padding, rhs_dilation=(1, 1), **settings)
    convolved = convolved.reshape(batch, over, under, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return convolved.reshape(batch, rows * over, columns * under, -1)[:, :frames, :bins]
