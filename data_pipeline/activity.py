"""Source activity detection: decide which parts of a recording are loud enough to learn from.

The default rule is that of Luo & Yu, "Music Source Separation with Band-Split RNN" (2023), section IV-A.  Segments of 6 s overlap
by half and consist of ten chunks each.  A chunk is active if it reaches the larger of two thresholds: the 15 % quantile of the
track, and 1e-3.  A segment is kept if at least half of its chunks are active.  The paper thresholds the "energy"; like the common
reimplementations, this one thresholds the root mean square (so 1e-3 is -60 dBFS), which keeps quiet recordings.

The alternative is the rule of `librosa.effects.split`: a chunk is active if it is less than `TOP_DB` below the loudest one.  It
keeps quiet passages; the published rule drops the lowest 15 % of every track unless the chunks around them are louder.
"""

from collections.abc import Callable, Iterable

import numpy as np

SEGMENT_S = 6.0
"""Length of a segment in seconds; the next one starts half a segment later."""

CHUNKS_PER_SEGMENT = 10
"""Chunks of 0.6 s in a segment.  Overlapping segments share five of them."""

QUANTILE = 0.15
MIN_LEVEL = 1e-3
SILENT_LEVEL = 1e-5
"""Level assigned to a chunk of zeros."""

TOP_DB = 60.0
"""Threshold of the second rule in dB: librosa's default."""

GATE_DB = 10.0
"""Chunks further than this below the mean do not count in the level of a recording: the relative gate of EBU R 128."""


def chunk_samples(sample_rate: int) -> int:
    """Number of samples in a chunk."""
    return round(SEGMENT_S * sample_rate) // CHUNKS_PER_SEGMENT


class EnergyMeter:
    """Meter of chunk energies in constant memory: add all blocks of a signal, then read `energies`."""

    def __init__(self, sample_rate: int) -> None:
        self._chunk_samples = chunk_samples(sample_rate)
        self._finished: list[float] = []
        self._sum = 0.0  # of squares, in the chunk being filled
        self._filled = 0  # samples of that chunk
        self._num_channels = 1

    def add(self, block: np.ndarray) -> None:
        """Add the next block, float (channels, n), of any length."""
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
        """Mean square of every chunk over samples and channels, float64 (num_chunks,); the last chunk may be shorter."""
        last = [self._sum / (self._num_channels * self._filled)] if self._filled else []
        return np.array(self._finished + last, np.float64)


def chunk_energies(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Compute the mean square of every chunk of a signal.

    Args:
        blocks: consecutive blocks of the signal, float (channels, n).
        sample_rate: in Hz.

    Returns:
        float64 (num_chunks,).
    """
    meter = EnergyMeter(sample_rate)
    for block in blocks:
        meter.add(block)
    return meter.energies


def is_silent(energies: np.ndarray) -> bool:
    """Whether a signal is digital silence throughout, given its `chunk_energies`."""
    return not np.any(energies)


def gated_level(energies: np.ndarray) -> float:
    """Compute the level of a recording without its pauses: the root mean square of the chunks above the gate.

    It scales with the recording.  Silence has the level 0.

    Args:
        energies: `chunk_energies` of a whole recording, (num_chunks,).
    """
    if not energies.size:
        return 0.0
    return float(np.sqrt(energies[energies >= energies.mean() * 10 ** (-GATE_DB / 10)].mean()))


def active_segments(energies: np.ndarray) -> np.ndarray:
    """Decide which segments are kept.

    Args:
        energies: `chunk_energies` of a whole recording, (num_chunks,).

    Returns:
        bool (num_segments,).  Segment s begins at chunk 5 s.  The last segment may be shorter; its own chunks decide.
    """
    levels = np.sqrt(energies)
    levels = np.where(levels == 0, SILENT_LEVEL, levels)
    if not levels.size:
        return np.zeros(0, bool)
    # "Reaches", not "exceeds": a steady sound, whose chunks are all equal, is active.
    active = levels >= max(float(np.quantile(levels, QUANTILE)), MIN_LEVEL)
    return np.array([2 * np.count_nonzero(active[begin:end]) >= end - begin for begin, end in _segments(len(levels))], bool)


def active_chunks(energies: np.ndarray) -> np.ndarray:
    """Mark the chunks that lie in a kept segment: bool (num_chunks,), given `chunk_energies`."""
    kept = np.zeros(len(energies), bool)
    for (begin, end), keep in zip(_segments(len(energies)), active_segments(energies), strict=True):
        kept[begin:end] |= keep
    return kept


def chunks_near_the_loudest(energies: np.ndarray) -> np.ndarray:
    """Mark the chunks less than `TOP_DB` below the loudest one: bool (num_chunks,), given `chunk_energies`."""
    return energies > np.max(energies, initial=0.0) * 10 ** (-TOP_DB / 10)


DETECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"band_split_rnn": active_chunks, "top_db": chunks_near_the_loudest}
"""Detection rules by their names in `DataConfig.activity_detector`."""


def is_active(chunks: np.ndarray, sample_rate: int, start: int, num_samples: int) -> bool:
    """Whether a clip is kept: whether at least half of it lies in active chunks.

    Args:
        chunks: active chunks of the recording as marked by a detector, bool (num_chunks,).
        sample_rate: of the measured signal, in Hz.
        start: first sample of the clip.
        num_samples: length of the clip.  Samples beyond the end of the recording count as inactive.
    """
    size = chunk_samples(sample_rate)
    first, last = start // size, (start + num_samples - 1) // size
    kept = 0
    for chunk in range(first, min(last + 1, len(chunks))):
        if chunks[chunk]:
            kept += min(start + num_samples, (chunk + 1) * size) - max(start, chunk * size)
    return 2 * kept >= num_samples


def _segments(num_chunks: int) -> list[tuple[int, int]]:
    """First chunk and end (exclusive) of every segment; together they cover all chunks."""
    hop = CHUNKS_PER_SEGMENT // 2
    count = max(1, -(-(num_chunks - CHUNKS_PER_SEGMENT) // hop) + 1) if num_chunks else 0
    return [(hop * s, min(hop * s + CHUNKS_PER_SEGMENT, num_chunks)) for s in range(count)]
