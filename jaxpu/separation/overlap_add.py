"""The target in a signal at the model's rate and level, chunk by chunk, by overlap-add.

The result equals that of separating the whole signal at once wherever the network's receptive field is finite: chunks begin on
the grid of STFT frames, include the context frames that the network reads beyond them, and only the true ends of the signal are
reflected.  So that no frame extends past the end, the signal is first extended by reflection to a whole number of hops.
"""

import collections
import functools
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from data_pipeline.config import PatchSpec
from jaxpu import parallel
from jaxpu.config import Config
from jaxpu.core.network import TrainedModel, make_separate

UNBOUNDED_CONTEXT_S = 1.0
"""Context on each side of a chunk, and length of the cross-fade, for networks whose receptive field has no bound."""

CHANNELS_AT_ONCE = 2
"""Channels in a batch; a signal with more is separated in several, unless the network sees all channels."""

CHUNK_S = 5.0
"""Least seconds of a chunk where nobody asks for another.  The network's activations take most of the memory: those of PULSE's
network 80 MB per second of stereo at 44.1 kHz."""

CHUNKS_AT_ONCE = 2
"""Chunks that the network separates at once, in threads: with one, processors and accelerators wait for each other.  JAX's
context managers do not reach these threads; its global settings do."""

Blocks = Iterator[np.ndarray]
"""Consecutive pieces of a signal, float32 (channels, any number of samples)."""


def target_blocks(model: TrainedModel, blocks: Blocks, chunk_s: float | None, shifts: int = 1) -> Blocks:
    """Separate the target from a signal in constant memory.

    Args:
        model: the trained model.
        blocks: the signal at the model's rate, scaled as the model's `level` asks.
        chunk_s: seconds of a chunk, longer where the context needs it; None: CHUNK_S, or more, so that at
            most a quarter of a chunk overlaps others.
        shifts: grids of STFT frames; see `SeparationOptions`.

    Yields:
        float32 (channels, any number), in all as many samples as the signal extended to a whole number of hops.
    """
    with ThreadPoolExecutor(CHUNKS_AT_ONCE) as pool:
        chunks = _Chunks(model, chunk_s, shifts, pool)
        for block in _extended(blocks, model.config.data.patch):
            chunks.append(block)
            yield from chunks.complete()
        yield from chunks.finish()


def check_shifts(model: TrainedModel, shifts: int) -> None:
    """Raise ValueError if frames cannot be shifted by an equal share of the model's hop."""
    hop = model.config.data.patch.hop_length
    if shifts < 1 or hop % shifts:
        known = "1 or 2" if hop % 2 == 0 else "1"
        raise ValueError(f"shifts is {shifts}; it must divide the model's hop of {hop} samples. Give {known}.")


class _Chunks:
    """Chunks of one size, separated in the threads of a pool and cross-faded.

    The outermost `context` frames on both sides of a chunk are discarded, except at the true ends of the signal, and neighbouring
    chunks cross-fade over as many frames again.  The last chunk ends with the last frame: it overlaps the one before it by more,
    and none needs padding.

    Attributes:
        buffer: float32 (channels, samples), the extended signal from frame `origin` on; None before the first block.
        origin: first frame of the chunk that was begun last.
        begin: first frame of the next chunk.
        under_way: chunks that were begun: their targets, their first frames, and whether they are the last.
        emitted: samples of the target that are final.
        held: end of the last final chunk's target, which the next one cross-fades with; None before the first chunk.
    """

    def __init__(self, model: TrainedModel, chunk_s: float | None, shifts: int, pool: ThreadPoolExecutor) -> None:
        patch = model.config.data.patch
        self._model, self._pool, self._hop, self._edge = model, pool, patch.hop_length, _edge_frames(patch)
        self._shifts = shifts
        self._size, self._context = _chunk_frames(model.config, chunk_s, shifts)
        samples = self._context * self._hop
        self._fade_in = (0.5 - 0.5 * np.cos(np.pi * (np.arange(samples) + 0.5) / samples)).astype(np.float32)
        self.buffer: np.ndarray | None = None
        self.origin = 0
        self.begin = 0
        self.under_way: collections.deque[tuple[Future[np.ndarray], int, bool]] = collections.deque()
        self.emitted = 0
        self.held: np.ndarray | None = None

    def append(self, block: np.ndarray) -> None:
        """Add the next block of the extended signal."""
        self.buffer = block if self.buffer is None else np.concatenate([self.buffer, block], axis=1)

    def complete(self) -> Blocks:
        """Separate the chunks that end before the last buffered frame; those under way come later."""
        while self._frames() > self._size:
            self._begin_next(last=False)
            # The first one alone: it compiles.  Then one more than there are threads, so that none of them waits for the host.
            while self.emitted == 0 or len(self.under_way) > CHUNKS_AT_ONCE:
                yield self._finish_next()

    def finish(self) -> Blocks:
        """Separate what remains of a signal of which all blocks are appended."""
        if self.buffer is None:
            return
        if self.begin == 0:
            # The recording is shorter than a chunk.  Halving the chunk gives sizes that other recordings share, which matters
            # because every size is compiled once; only very short recordings have a size of their own.
            while self._size > self._frames() and self._size // 2 >= 4 * self._context:
                self._size //= 2
            self._size = min(self._size, self._frames())
            yield from self.complete()
        self.begin += self._frames() - self._size
        self._begin_next(last=True)
        while self.under_way:
            yield self._finish_next()

    def _frames(self) -> int:
        """Complete frames in the buffer, counted from the first of the next chunk."""
        if self.buffer is None:
            return 0
        return self.buffer.shape[1] // self._hop + 1 - 2 * self._edge - (self.begin - self.origin)

    def _begin_next(self, *, last: bool) -> None:
        """Begin to separate the next chunk."""
        assert self.buffer is not None
        self.buffer = self.buffer[:, (self.begin - self.origin) * self._hop :]
        self.origin = self.begin
        chunk = self.buffer[:, : (self._size - 1 + 2 * self._edge) * self._hop]
        self.under_way.append((self._pool.submit(_separate_chunk, self._model, chunk, self._shifts), self.begin, last))
        self.begin += self._size - 3 * self._context

    def _finish_next(self) -> np.ndarray:
        """Wait for the first chunk under way and return the samples that it makes final."""
        separated, begin, last = self.under_way.popleft()
        end = self._size - 1 if last else self._size - self._context
        piece = separated.result()[:, self.emitted - begin * self._hop : end * self._hop]
        fade = len(self._fade_in)
        if self.held is not None:
            piece[:, :fade] = self.held * (1 - self._fade_in) + piece[:, :fade] * self._fade_in
        if not last:
            piece, self.held = piece[:, :-fade], piece[:, -fade:]
        self.emitted += piece.shape[1]
        return piece


def _chunk_frames(config: Config, chunk_s: float | None, shifts: int) -> tuple[int, int]:
    """Frames of a chunk, and frames of context on each of its sides."""
    patch = config.data.patch
    frames_per_s = patch.sample_rate / patch.hop_length
    context = config.model.context_frames
    if context is None:
        context = math.ceil(UNBOUNDED_CONTEXT_S * frames_per_s)
    # A sample is complete when all frames that cover it are.
    context += _edge_frames(patch)
    context += shifts > 1  # Shifted grids end a frame earlier.
    # A chunk overlaps its neighbours by 3 times the context.
    least, chunk_s = (12, CHUNK_S) if chunk_s is None else (4, chunk_s)
    return max(round(chunk_s * frames_per_s), least * context), context


def _edge_frames(patch: PatchSpec) -> int:
    """Hops in half a window, rounded up."""
    return -(-patch.n_fft // (2 * patch.hop_length))


def _extended(blocks: Blocks, patch: PatchSpec) -> Blocks:
    """Extend a signal so that all of its frames are complete.

    By reflection to a whole number of hops and at least `n_fft` samples at its end; then on both sides by reflection of half a
    window and by silence up to a whole number of hops.
    """
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


def _separate_chunk(model: TrainedModel, chunk: np.ndarray, shifts: int) -> np.ndarray:
    """Separate the target from a chunk and the samples around its frames: float32 (channels, samples), writable.

    Args:
        model: the trained model.
        chunk: float32 (channels, samples).
        shifts: grids of STFT frames.
    """
    separate_chunk = _chunk_fn(model.config, shifts)
    # The input that the network was trained on: all channels, single ones, or the downmix.  What is out of phase between the
    # channels (wide reverberation, chorus) nearly cancels in the downmix, so a network trained on it may take such sound for the
    # target.
    downmix = None if model.config.data.patch.stereo else chunk.mean(0, keepdims=True)
    at_once = len(chunk) if model.config.model.sees_all_channels else CHANNELS_AT_ONCE
    groups = []
    for first in range(0, len(chunk), at_once):
        group = np.ascontiguousarray(chunk[first : first + at_once])
        groups.append(separate_chunk(model.variables, group, group if downmix is None else downmix))
    return np.concatenate([np.asarray(group) for group in groups])


@functools.lru_cache(maxsize=8)
def _chunk_fn(config: Config, shifts: int) -> Any:
    """The jitted separation of a chunk, one for a config and shifts, compiled for every size of chunk and number of channels."""
    hop, edge = config.data.patch.hop_length, _edge_frames(config.data.patch)
    separate = make_separate(config, parallel.convolution_form(), shifts)

    def separate_chunk(variables: Any, waveform: jax.Array, downmix: jax.Array) -> jax.Array:
        # (channels, samples), from `edge` hops before the first frame to as many after the last: so these frames are centred at
        # whole hops, and the samples that `stft` reflects lie in the frames that are cut off.
        num_frames = waveform.shape[1] // hop + 1 - 2 * edge
        return separate(variables, waveform, downmix, num_frames * hop, edge_frames=edge)

    return jax.jit(separate_chunk)
