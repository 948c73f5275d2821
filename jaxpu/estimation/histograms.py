"""What is known of the two piles of recordings without a network: magnitudes by third octave, and how sure one may be."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.dataset import PatchDataset, Split
from jaxpu.config import Config
from jaxpu.core.objectives import WEIGHT_FLOOR

MAX_CLIPS = 2000
"""Clips of each pile that are looked at, at most."""

RESAMPLES = 500
"""Draws of the bootstrap."""

COVERAGE = 0.9
"""What the intervals are meant to cover."""

# Histograms of magnitudes: from -120 dB on, in steps of half a decibel.
LOWEST_DB, STEP_DB, NUM_LEVELS = -120.0, 0.5, 440

_BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, with the ends of its interval; None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass
class Pile:
    """One pile, by track.

    Attributes:
        magnitudes: float64 (bands, levels), histograms of the magnitudes, -120 dB first.
        weight: sums of the weights of all bins in the scale in which they are stored.
    """

    magnitudes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    weight: dict[int, float] = dataclasses.field(default_factory=dict)

    def add(self, track: int, magnitudes: np.ndarray, level: float, band_of_bin: np.ndarray, exponent: float) -> None:
        """Adds a clip, float32 (..., bins), that was divided by `level` before it was stored."""
        num_bands = band_of_bin.max() + 1
        with np.errstate(divide="ignore"):
            steps = np.floor((20 * np.log10(magnitudes * level) - LOWEST_DB) / STEP_DB)
        cells = np.clip(steps, 0, NUM_LEVELS - 1).astype(np.int64) + NUM_LEVELS * band_of_bin
        counts = np.bincount(cells.ravel(), minlength=num_bands * NUM_LEVELS).reshape(num_bands, NUM_LEVELS)
        self.magnitudes[track] = self.magnitudes.get(track, 0) + counts.astype(np.float64)
        self.weight[track] = self.weight.get(track, 0.0) + float(weights(magnitudes, exponent).sum(dtype=np.float64))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(tracks, bands, levels) and (tracks,)."""
        return np.stack(list(self.magnitudes.values())), np.array(list(self.weight.values()))


def third_octaves(spec: PatchSpec) -> tuple[np.ndarray, np.ndarray]:
    """The third-octave band of every bin and the octave of every band, both counted from 0 without gaps.

    Octaves are centred on 1 kHz times powers of two; all below 88 Hz is one band.

    Returns:
        int (bins,) and int (bands,).
    """
    frequencies = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    bands, band_of_bin = np.unique(np.digitize(frequencies, 1000 * 2 ** (np.arange(-21, 60, 2) / 6)), return_inverse=True)
    return band_of_bin, np.unique((bands + 2) // 3, return_inverse=True)[1]


def octaves_hz(spec: PatchSpec) -> list[tuple[float, float]]:
    """Lowest and highest frequency of the octaves of `third_octaves`."""
    band_of_bin, octave_of_band = third_octaves(spec)
    octave = octave_of_band[band_of_bin]
    frequencies = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    return [(float(frequencies[octave == k].min()), float(frequencies[octave == k].max())) for k in range(octave.max() + 1)]


def weights(magnitudes: np.ndarray, exponent: float) -> np.ndarray:
    """The weight of every bin, as the objectives have it."""
    return (magnitudes + WEIGHT_FLOOR) ** exponent


def as_complex(patches: np.ndarray) -> np.ndarray:
    """(..., 2), real and imaginary part, to complex64 (...)."""
    return np.ascontiguousarray(patches, np.float32).view(np.complex64)[..., 0]


def num_held(dataset: PatchDataset, split: Split, disjoint_tracks: bool) -> int:
    """Clips of the larger pile, `MAX_CLIPS` at most."""
    clips = max(dataset.num_clips(split, "mixture"), dataset.num_clips(split, "accompaniment"))
    return min(-(-clips // 2) if disjoint_tracks and dataset.has_stems else clips, MAX_CLIPS)


def batches(dataset: PatchDataset, config: Config, split: Split, *, with_target: bool) -> Iterator[dict[str, np.ndarray]]:
    """Batches that hold as many clips as `num_held` says, drawn by `config.train.seed`."""
    settings = config.train
    return dataset.batches(
        split,
        batch_size=_BATCH_SIZE,
        seed=settings.seed,
        num_steps=math.ceil(num_held(dataset, split, settings.disjoint_tracks) / _BATCH_SIZE),
        disjoint_tracks=settings.disjoint_tracks,
        with_target=with_target,
    )


def read_piles(dataset: PatchDataset, config: Config, split: Split, exponent: float, *, as_recorded: bool) -> tuple[Pile, Pile]:
    """Mixtures and positives of a split; no stem is looked at.

    Args:
        dataset: the prepared data.
        config: its `train.disjoint_tracks` and `train.seed` matter.
        split: which tracks.
        exponent: of the weights.
        as_recorded: magnitudes at the level of the recordings, before they were scaled to be stored.

    Raises:
        DataError: the split has no clips of one of the piles.
    """
    band_of_bin, _ = third_octaves(dataset.spec)
    piles = {"unlabeled": Pile(), "positive": Pile()}
    for batch in batches(dataset, config, split, with_target=False):
        for role, pile in piles.items():
            for clip, level, track in zip(batch[role], batch[f"{role}_level"], batch[f"{role}_track"], strict=True):
                pile.add(int(track), np.abs(as_complex(clip)), float(level) if as_recorded else 1.0, band_of_bin, exponent)
    return piles["unlabeled"], piles["positive"]


def resampled(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], num_unlabeled: int, num_positive: int, seed: int
) -> list[Estimate]:
    """What `statistic` makes of all tracks, with intervals by resampling whole tracks of either pile.

    Tracks, not bins: bins of one recording are alike.  Percentile intervals; from fewer than about ten tracks they are too
    narrow, and from a single one there is none.

    Args:
        statistic: numbers of unlabeled tracks and of positive ones to float64 (values,).
        num_unlabeled: tracks.
        num_positive: tracks.
        seed: of the draws.
    """
    values = statistic(np.arange(num_unlabeled), np.arange(num_positive))
    if min(num_unlabeled, num_positive) == 1:
        return [Estimate(float(value)) for value in values]
    generator = np.random.default_rng(seed)
    draws = np.stack(
        [
            statistic(generator.integers(num_unlabeled, size=num_unlabeled), generator.integers(num_positive, size=num_positive))
            for _ in range(RESAMPLES)
        ]
    )
    interval = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    return [Estimate(*map(float, row)) for row in zip(values, *interval, strict=True)]
