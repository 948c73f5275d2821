"""The band-split RNN (Luo & Yu 2023, "Music Source Separation with Band-split RNN", arXiv 2209.15174).

1. Split: the real and imaginary parts of a band's bins are normalized and mapped to N features by a linear layer.
2. Repeat: a BLSTM over time, separately for every band, then one over bands, separately for every frame.  Each has a
   normalization before it, a linear layer behind it that maps back to N features, and a residual connection; all bands share it.
3. Mask: a normalization and an MLP for every band: linear, tanh, linear, gated linear unit.

The layers of 1 and 3 have parameters of their own for each band.  Normalization stays within one example: it is over time and the
features of a band, or, before the BLSTM over bands, over the bands and their features.  So the output depends neither on other
examples nor on the level of a band.

Differences from the paper: its output is a complex factor for each bin; here it is `num_outputs` logits, from which the objective
makes real masks, so that the phase is the mixture's.  An LSTM has one bias per gate, torch's has two that add up.  Weights are
initialized as in torch, biases at 0.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpu.config.networks import BandSplitRNNConfig
from jaxpu.core.models.initializers import torch_uniform

EPSILON = 1e-7
"""Added to variances; far below those of audible bins."""


class BandSplitRNN(nn.Module):
    """The network of `BandSplitRNNConfig`.

    Attributes:
        config: sizes.
        groups: band layout, (bins of a band, number of such bands) from low to high; see `jaxpu.config.networks.band_groups`.
        num_outputs: logits per bin.
        dtype: of the computation; parameters, statistics and LSTM cells are float32.
    """

    config: BandSplitRNNConfig
    groups: tuple[tuple[int, int], ...]
    num_outputs: int = 1
    dtype: Any = jnp.float32

    needs_recalibration = False

    @nn.compact
    def __call__(self, stft: jax.Array, keys: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Logits of every bin.

        Args:
            stft: complex64 (batch, 1, frames, bins).
            keys: unused, as nothing is random.
            train: unused.

        Returns:
            float32 (batch, frames, bins, num_outputs).
        """
        del keys, train
        config = self.config
        stft = stft[:, 0]
        parts = jnp.stack([stft.real, stft.imag], axis=-1)  # (batch, frames, bins, 2)
        split, first = [], 0
        for group, (width, count) in enumerate(self.groups):
            own = parts[:, :, first : first + width * count].reshape(*stft.shape[:2], count, 2 * width)
            own = self._normalized(jnp.moveaxis(own, 2, 0), f"split_norm_{group}")
            split.append(self._linear(own, config.channels, f"split_{group}"))
            first += width * count
        x = jnp.concatenate(split)  # (bands, batch, frames, channels)

        # One program for all repeats: their parameters are stacked.  The backward pass recomputes each: see `BLSTM`.
        repeat = nn.remat(_Repeat, prevent_cse=False)
        repeats = nn.scan(repeat, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.repeats)
        x, _ = repeats(config, self.dtype, name="repeats")(x, None)

        x = nn.tanh(self._linear(self._normalized(x, "mask_norm"), config.mask_hidden, "mask_hidden"))
        logits, first = [], 0
        for group, (width, count) in enumerate(self.groups):
            own = nn.glu(self._linear(x[first : first + count], 2 * width * self.num_outputs, f"mask_{group}"))
            own = jnp.moveaxis(own, 0, 2)  # (batch, frames, bands of the group, bins of a band * num_outputs)
            logits.append(own.reshape(*stft.shape[:2], width * count, self.num_outputs))
            first += count
        return jnp.concatenate(logits, axis=2).astype(jnp.float32)

    def _normalized(self, x: jax.Array, name: str) -> jax.Array:
        """(bands, batch, frames, numbers) to the same: every band of every example over frames and numbers."""
        return nn.LayerNorm(EPSILON, reduction_axes=(2, 3), feature_axes=(0, 3), dtype=self.dtype, name=name)(x)

    def _linear(self, x: jax.Array, size: int, name: str) -> jax.Array:
        """(bands, batch, frames, inputs) to (bands, batch, frames, size), each band with parameters of its own."""
        shape, initializer = (x.shape[0], x.shape[-1], size), torch_uniform(x.shape[-1])
        return nn.Einsum(shape, "kbti,kio->kbto", dtype=self.dtype, kernel_init=initializer, name=name)(x)


class _Repeat(nn.Module):
    """A BLSTM over time, then one over bands."""

    config: BandSplitRNNConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """(bands, batch, frames, channels) to the same."""
        x = jnp.moveaxis(x, 2, 0)
        x = x + self._sequence(x, "time")
        x = jnp.moveaxis(x, 0, 2)
        return x + self._sequence(x, "band"), None

    def _sequence(self, x: jax.Array, name: str) -> jax.Array:
        """(steps, ..., channels) to the same."""
        x = nn.LayerNorm(EPSILON, reduction_axes=(0, -1), feature_axes=-1, dtype=self.dtype, name=f"{name}_norm")(x)
        x = BLSTM(self.config.hidden, self.dtype, name=f"{name}_blstm")(x)
        initializer = torch_uniform(2 * self.config.hidden)
        return nn.Dense(self.config.channels, dtype=self.dtype, kernel_init=initializer, name=f"{name}_linear")(x)


class BLSTM(nn.Module):
    """A bidirectional LSTM layer.  Both directions run in one loop, and the backward pass recomputes the gates.

    LSTMs are bound by memory.  With recomputed gates and repeats, a network of 3 repeats took 0.7 of the time and an eighth of
    the memory for its gradients (one busy CPU core, jax 0.10.2).  The layer alone took 0.7 of the time of Flax's
    `nn.Bidirectional` of `nn.OptimizedLSTMCell`.  Computing the products with the inputs before the loop, all at once, was
    slower.

    Attributes:
        hidden: units in each direction.
        dtype: of inputs, matrices and outputs; cells are float32.
    """

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(steps, ..., inputs) to (steps, ..., 2 * hidden): forward, then backward."""
        hidden = self.hidden
        initializer = torch_uniform(hidden)
        input_kernel = self.param("input_kernel", initializer, (2, x.shape[-1], 4 * hidden)).astype(self.dtype)
        kernel = self.param("kernel", initializer, (2, hidden, 4 * hidden)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (2, 1, 4 * hidden)).astype(self.dtype)
        sequences = x.reshape(x.shape[0], -1, x.shape[-1])
        both = jnp.stack([sequences, sequences[::-1]], axis=1)  # (steps, directions, sequences, inputs)

        def step(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            cell, output = carry  # (directions, sequences, hidden)
            gates = (x @ input_kernel + output @ kernel + bias).astype(jnp.float32)
            write, keep, new, read = jnp.split(gates, 4, axis=-1)
            cell = nn.sigmoid(keep) * cell + nn.sigmoid(write) * nn.tanh(new)
            output = (nn.sigmoid(read) * nn.tanh(cell)).astype(self.dtype)
            return (cell, output), output

        cell = jnp.zeros((*both.shape[1:3], hidden))
        _, outputs = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), (cell, cell.astype(self.dtype)), both)
        return jnp.concatenate([outputs[:, 0], outputs[::-1, 1]], axis=-1).reshape(*x.shape[:-1], 2 * hidden)
