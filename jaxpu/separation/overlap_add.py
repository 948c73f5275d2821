"""The target in a signal at the model's rate and level, chunk by chunk.

The result is that of the whole signal at once, wherever the network's receptive field is finite: chunks begin on the grid of the
STFT's frames, bring the frames that the network looks at beyond them, and only the signal's true ends are reflected.  To have no
frame that hangs over the end, a signal is first extended by reflection to a whole number of hops.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from data_pipeline.config import PatchSpec
from jaxpu.config import Config
from jaxpu.core.network import TrainedModel, make_mask_fn, receptive_field_frames
from jaxpu.core.stft import istft, stft

UNBOUNDED_CONTEXT_S = 1.0
"""Context on each side of a chunk, and length of the cross-fade, for networks whose receptive field has no bound."""

CHANNELS_AT_ONCE = 2
"""Channels in a batch; a signal with more is separated in several."""

Blocks = Iterator[np.ndarray]
"""Consecutive pieces of a signal, float32 (channels, any number of samples)."""


def target_blocks(model: TrainedModel, blocks: Blocks, chunk_s: float) -> Blocks:
    """The target in a signal.

    The outermost `context` frames on both sides of a chunk are discarded (but for the true ends of the signal), and neighbours
    are faded into each other over as many frames again.  The last chunk ends with the last frame, so that it overlaps more and
    none has to be filled up: all chunks have one size.

    Args:
        model: what separates.
        blocks: the signal at the model's rate, scaled as the model's `level` asks.
        chunk_s: seconds of a chunk; longer where the context needs it.

    Yields:
        float32 (channels, any number), in all as many samples as the signal extended to a whole number of hops.
    """
    patch = model.config.data.patch
    hop, edge = patch.hop_length, _edge_frames(patch)
    chunk, context = _chunk_frames(model.config, chunk_s)
    fade = (0.5 - 0.5 * np.cos(np.pi * (np.arange(context * hop) + 0.5) / (context * hop))).astype(np.float32)
    buffer: np.ndarray | None = None  # Of the extended signal, beginning at frame `origin`.
    origin = 0  # First frame of the chunk before.
    begin = 0  # First frame of the next chunk.
    emitted = 0  # Samples that are final.
    held: np.ndarray | None = None  # What the next chunk fades in over.

    def process(last: bool) -> np.ndarray:
        nonlocal buffer, origin, begin, emitted, held
        assert buffer is not None
        buffer = buffer[:, (begin - origin) * hop :]
        origin = begin
        samples = buffer[:, : (chunk - 1 + 2 * edge) * hop]
        target = _separate_chunk(model, samples)
        end = (chunk - 1) * hop if last else (chunk - context) * hop
        piece = target[:, emitted - begin * hop : end]
        if held is not None:
            piece[:, : len(fade)] = held * (1 - fade) + piece[:, : len(fade)] * fade
        if not last:
            held = piece[:, -len(fade) :]
            piece = piece[:, : -len(fade)]
        emitted += piece.shape[1]
        begin += chunk - 3 * context
        return piece

    def buffered() -> int:
        """Frames from the first of the next chunk on whose samples are there."""
        return 0 if buffer is None else buffer.shape[1] // hop + 1 - 2 * edge - (begin - origin)

    for block in _extended(blocks, patch):
        buffer = block if buffer is None else np.concatenate([buffer, block], axis=1)
        while buffered() > chunk:
            yield process(last=False)
    if buffer is None:
        return
    if origin == begin == 0:
        # Half the chunk, and half again, where the recording is shorter than a chunk: sizes that other recordings share, since
        # every size is compiled once.  Only very short ones have a size of their own.
        while chunk > buffered() and chunk // 2 >= 4 * context:
            chunk //= 2
        chunk = min(chunk, buffered())
        while buffered() > chunk:
            yield process(last=False)
    begin += buffered() - chunk
    yield process(last=True)


def _chunk_frames(config: Config, chunk_s: float) -> tuple[int, int]:
    """Frames of a chunk, and of its context on each side."""
    patch = config.data.patch
    frames_per_s = patch.sample_rate / patch.hop_length
    context = receptive_field_frames(config.model)
    if context is None:
        context = math.ceil(UNBOUNDED_CONTEXT_S * frames_per_s)
    # A sample is complete when all frames that cover it are.
    context += _edge_frames(patch)
    return max(round(chunk_s * frames_per_s), 4 * context), context


def _edge_frames(patch: PatchSpec) -> int:
    """Hops in half a window, rounded up."""
    return -(-patch.n_fft // (2 * patch.hop_length))


def _extended(blocks: Blocks, patch: PatchSpec) -> Blocks:
    """A signal extended by reflection: at its end to a whole number of hops, and at least `n_fft` samples; then by half a window
    on both sides, and by silence to a whole number of hops there, too.
    """  # noqa: D205
    hop, half = patch.hop_length, patch.n_fft // 2
    silence = ((0, 0), (_edge_frames(patch) * hop - half, 0))
    tail: np.ndarray | None = None
    total = 0
    began = False
    for block in blocks:
        tail = block if tail is None else np.concatenate([tail, block], axis=1)
        total += block.shape[1]
        if tail.shape[1] >= 2 * patch.n_fft:
            if not began:
                yield np.pad(tail[:, half:0:-1], silence)
                began = True
            yield tail[:, : -patch.n_fft]
            tail = tail[:, -patch.n_fft :]
    if tail is None:
        return
    length = -(-max(total, patch.n_fft) // hop) * hop
    tail = np.pad(tail, ((0, 0), (0, length - total)), mode="reflect")
    if not began:
        yield np.pad(tail[:, half:0:-1], silence)
    yield tail
    yield np.pad(tail[:, -2 : -half - 2 : -1], (silence[0], silence[1][::-1]))


def _separate_chunk(model: TrainedModel, chunk: np.ndarray) -> np.ndarray:
    """The target in a chunk with the samples around its frames, float32 (channels, samples); a writable array.

    Args:
        model: what separates.
        chunk: float32 (channels, samples).
    """
    chunk_fn = _chunk_fn(model.config)
    # What the network was trained on: single channels, or the mean of all.  There, what is out of phase between the channels
    # (wide reverberation, chorus) hardly sounds, and a network that never heard it may take it for the target.
    downmix = None if model.config.data.patch.stereo else chunk.mean(0, keepdims=True)
    groups = []
    for first in range(0, len(chunk), CHANNELS_AT_ONCE):
        group = np.ascontiguousarray(chunk[first : first + CHANNELS_AT_ONCE])
        groups.append(chunk_fn(model.variables, group, group if downmix is None else downmix))
    return np.concatenate([np.asarray(group) for group in groups])


@functools.lru_cache(maxsize=8)
def _chunk_fn(config: Config) -> Any:
    """The jitted separation of a chunk, one for a config, compiled for every size of chunk and number of channels."""
    patch = config.data.patch
    mask_fn = make_mask_fn(config)
    edge = _edge_frames(patch)

    def separate_chunk(variables: Any, waveform: jax.Array, heard: jax.Array) -> jax.Array:
        # (channels, samples), from `edge` hops before the first frame to as many behind the last: so these frames are centred
        # at whole hops, and what `stft` reflects lies in the frames that are cut off.  `heard`, what the mask comes from, has
        # as many channels or one.
        spectrum = stft(waveform, patch)[:, edge:-edge]  # (channels, frames, bins)

        mask = mask_fn(variables, stft(heard, patch)[:, edge:-edge])
        return istft(mask.astype(spectrum.dtype) * spectrum, patch, spectrum.shape[1] * patch.hop_length)

    return jax.jit(separate_chunk)
