"""Source activity detection: which parts of a recording are loud enough to learn from.

After Luo & Yu, "Music Source Separation with Band-Split RNN" (2023), section IV-A: segments of 6 s, half overlapping, of ten
chunks each; a chunk is active when it reaches the larger of the track's own 15 % quantile and 1e-3; a segment is kept when at
least half of its chunks are active. The paper says "energy"; like the common re-implementations, the thresholds here apply to a
chunk's root mean square (so 1e-3 is -60 dB of full scale), which keeps quiet recordings.

Beside it, the rule of `librosa.effects.split`: active is what is less than so many dB below the loudest part of the recording.
It keeps quiet passages, where the published rule takes away the lowest 15 % of every track unless louder chunks are about.
"""

from collections.abc import Callable, Iterable

import numpy as np

SEGMENT_S = 6.0
"""Length of a segment in seconds; the next one starts half a segment later."""

CHUNKS_PER_SEGMENT = 10
"""Chunks in a segment: 0.6 s each. Overlapping segments share five of them."""

QUANTILE = 0.15
MIN_LEVEL = 1e-3
SILENT_LEVEL = 1e-5
"""What a chunk of zeros counts as."""


TOP_DB = 60.0
"""librosa's default for the second rule."""


def chunk_samples(sample_rate: int) -> int:
    """Samples in a chunk."""
    return round(SEGMENT_S * sample_rate) // CHUNKS_PER_SEGMENT


class EnergyMeter:
    """Measures the chunks of one signal block by block, in flat memory: add every block, then read `energies`."""

    def __init__(self, sample_rate: int) -> None:
        self._chunk_samples = chunk_samples(sample_rate)
        self._finished: list[float] = []
        self._sum = 0.0  # of the squares in the chunk that is being filled
        self._filled = 0  # its samples
        self._num_channels = 1

    def add(self, block: np.ndarray) -> None:
        """Appends a block, float (channels, n), of any length."""
        self._num_channels = block.shape[0]
        begin = 0
        while begin < block.shape[1]:
            piece = block[:, begin : begin + self._chunk_samples - self._filled]
            self._sum += float(np.einsum("cn,cn->", piece, piece, dtype=np.float64))
            self._filled += piece.shape[1]
            begin += piece.shape[1]
            if self._filled == self._chunk_samples:
                self._finished.append(self._sum / (self._num_channels * self._chunk_samples))
                self._sum, self._filled = 0.0, 0

    @property
    def energies(self) -> np.ndarray:
        """Mean square of every chunk over samples and channels, float64 (num_chunks,); the last chunk may be a shorter one."""
        rest = [self._sum / (self._num_channels * self._filled)] if self._filled else []
        return np.array(self._finished + rest, np.float64)


def chunk_energies(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Mean square of every chunk of a signal, float64 (num_chunks,), from consecutive blocks, float (channels, n)."""
    meter = EnergyMeter(sample_rate)
    for block in blocks:
        meter.add(block)
    return meter.energies


def is_silent(energies: np.ndarray) -> bool:
    """Whether a signal is digital silence all through, given `chunk_energies`."""
    return not np.any(energies)


def active_segments(energies: np.ndarray) -> np.ndarray:
    """Which segments are kept.

    Args:
        energies: `chunk_energies` of a whole recording, (num_chunks,).

    Returns:
        bool (num_segments,). Segment s begins at chunk 5 s; the last may be shorter, and is judged by the chunks it has.
    """
    levels = np.sqrt(energies)
    levels = np.where(levels == 0, SILENT_LEVEL, levels)
    if not levels.size:
        return np.zeros(0, bool)
    # "Reaches", not "exceeds": a steady sound, whose chunks are all equal, is active.
    active = levels >= max(float(np.quantile(levels, QUANTILE)), MIN_LEVEL)
    return np.array([2 * np.count_nonzero(active[begin:end]) >= end - begin for begin, end in _segments(len(levels))], bool)


def active_chunks(energies: np.ndarray) -> np.ndarray:
    """Which chunks lie in a kept segment, bool (num_chunks,), given `chunk_energies`."""
    kept = np.zeros(len(energies), bool)
    for (begin, end), keep in zip(_segments(len(energies)), active_segments(energies), strict=True):
        kept[begin:end] |= keep
    return kept


def chunks_near_the_loudest(energies: np.ndarray) -> np.ndarray:
    """Which chunks are less than `TOP_DB` below the loudest one, bool (num_chunks,), given `chunk_energies`."""
    return energies > np.max(energies, initial=0.0) * 10 ** (-TOP_DB / 10)


DETECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"band_split_rnn": active_chunks, "top_db": chunks_near_the_loudest}
"""The rules by their names in `DataConfig.activity_detector`."""


def is_active(chunks: np.ndarray, sample_rate: int, start: int, num_samples: int) -> bool:
    """Whether a clip is kept: at least half of it lies in kept segments.

    Args:
        chunks: `active_chunks` of the recording, (num_chunks,).
        sample_rate: in Hz, of the signal that was measured.
        start: first sample of the clip at that rate.
        num_samples: its length. What lies beyond the end of the recording is not kept.
    """
    size = chunk_samples(sample_rate)
    first, last = start // size, (start + num_samples - 1) // size
    kept = 0
    for chunk in range(first, min(last + 1, len(chunks))):
        if chunks[chunk]:
            kept += min(start + num_samples, (chunk + 1) * size) - max(start, chunk * size)
    return 2 * kept >= num_samples


def _segments(num_chunks: int) -> list[tuple[int, int]]:
    """First and one past the last chunk of every segment; together they cover all chunks."""
    hop = CHUNKS_PER_SEGMENT // 2
    count = max(1, -(-(num_chunks - CHUNKS_PER_SEGMENT) // hop) + 1) if num_chunks else 0
    return [(hop * s, min(hop * s + CHUNKS_PER_SEGMENT, num_chunks)) for s in range(count)]
