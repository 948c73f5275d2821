"""Third-octave histograms of the magnitudes of mixtures and of positives, and bootstrap confidence intervals over tracks."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from data_pipeline.config import PatchSpec
from data_pipeline.dataset import PatchDataset, Split
from data_pipeline.third_octaves import bin_frequencies, third_octaves
from jaxpu.config import Config
from jaxpu.core.objectives import WEIGHT_FLOOR

MAX_CLIPS = 2000
"""Clips of mixtures, and of positives, that are read at most."""

RESAMPLES = 500
"""Draws of the bootstrap."""

COVERAGE = 0.9
"""Nominal coverage of the confidence intervals."""

# Histograms of magnitudes: from -120 dB on, in steps of half a decibel.
LOWEST_DB, STEP_DB, NUM_LEVELS = -120.0, 0.5, 440

_BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimated number with the ends of its confidence interval, None if it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass
class MagnitudeHistograms:
    """Histograms of the magnitudes of recordings, by track.

    Attributes:
        magnitudes: by track, float64 (bands, levels), counts of bins from -120 dB up in steps of half a decibel.
        weight: by track, the sum of the weights of all bins, at the scale at which clips are stored.
    """

    magnitudes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    weight: dict[int, float] = dataclasses.field(default_factory=dict)

    def add(self, track: int, magnitudes: np.ndarray, level: float, band_of_bin: np.ndarray, exponent: float) -> None:
        """Count the bins of a clip.

        Args:
            track: number of its track.
            magnitudes: float32 (..., bins), as stored.
            level: the clip was divided by it before it was stored; the histogram is of the magnitudes times the level.
            band_of_bin: int (bins,), see `bands_and_octaves`.
            exponent: of the weights.
        """
        num_bands = band_of_bin.max() + 1
        with np.errstate(divide="ignore"):
            steps = np.floor((20 * np.log10(magnitudes * level) - LOWEST_DB) / STEP_DB)
        cells = np.clip(steps, 0, NUM_LEVELS - 1).astype(np.int64) + NUM_LEVELS * band_of_bin
        counts = np.bincount(cells.ravel(), minlength=num_bands * NUM_LEVELS).reshape(num_bands, NUM_LEVELS)
        self.magnitudes[track] = self.magnitudes.get(track, 0) + counts.astype(np.float64)
        self.weight[track] = self.weight.get(track, 0.0) + float(weights(magnitudes, exponent).sum(dtype=np.float64))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Histograms, (tracks, bands, levels), and sums of weights, (tracks,)."""
        return np.stack(list(self.magnitudes.values())), np.array(list(self.weight.values()))


def bands_and_octaves(spec: PatchSpec) -> tuple[np.ndarray, np.ndarray]:
    """The third-octave band of every bin and the octave of every band, both counted from 0 without gaps.

    Octaves are centred on 1 kHz times powers of two; everything below 88 Hz is one band.

    Returns:
        int (bins,) and int (bands,).
    """
    bands, band_of_bin = np.unique(third_octaves(spec, lowest=-10), return_inverse=True)
    return band_of_bin, np.unique((bands + 1) // 3, return_inverse=True)[1]


def octaves_hz(spec: PatchSpec) -> list[tuple[float, float]]:
    """Lowest and highest bin frequency of the octaves of `bands_and_octaves`, in Hz."""
    band_of_bin, octave_of_band = bands_and_octaves(spec)
    octave = octave_of_band[band_of_bin]
    frequencies = bin_frequencies(spec)
    return [(float(frequencies[octave == k].min()), float(frequencies[octave == k].max())) for k in range(octave.max() + 1)]


def weights(magnitudes: np.ndarray, exponent: float) -> np.ndarray:
    """The weight of every bin as in the objectives, |x|^exponent: an array of the shape of `magnitudes`, at any scale."""
    return (magnitudes + WEIGHT_FLOOR) ** exponent


def as_complex(patches: np.ndarray) -> np.ndarray:
    """Convert real and imaginary part, (..., 2), to complex64 (...)."""
    return np.ascontiguousarray(patches, np.float32).view(np.complex64)[..., 0]


def batches(dataset: PatchDataset, config: Config, split: Split, *, with_target: bool) -> Iterator[dict[str, np.ndarray]]:
    """Batches with as many clips in all as the larger of the two sets, at most `MAX_CLIPS`, drawn by `config.train.seed`."""
    settings = config.train
    clips = max(dataset.num_clips(split, "mixture"), dataset.num_clips(split, "accompaniment"))
    if settings.disjoint_tracks and dataset.has_stems:
        clips = math.ceil(clips / 2)  # Every track gives mixtures or positives.
    return dataset.batches(
        split,
        batch_size=_BATCH_SIZE,
        seed=settings.seed,
        num_steps=math.ceil(min(clips, MAX_CLIPS) / _BATCH_SIZE),
        disjoint_tracks=settings.disjoint_tracks,
        with_target=with_target,
    )


def read_histograms(
    dataset: PatchDataset, config: Config, split: Split, exponent: float, *, as_recorded: bool
) -> tuple[MagnitudeHistograms, MagnitudeHistograms]:
    """Histograms of the mixtures and of the positives of a split, without use of stems.

    Args:
        dataset: the prepared data.
        config: its `train.disjoint_tracks` and `train.seed` are used.
        split: which tracks.
        exponent: of the weights.
        as_recorded: histograms of the magnitudes at the level of the recordings, before clips were scaled.

    Raises:
        DataError: the split has no mixtures, or no positives.
    """
    band_of_bin, _ = bands_and_octaves(dataset.spec)
    found = {"unlabeled": MagnitudeHistograms(), "positive": MagnitudeHistograms()}
    for batch in batches(dataset, config, split, with_target=False):
        for role, histograms in found.items():
            for clip, level, track in zip(batch[role], batch[f"{role}_level"], batch[f"{role}_track"], strict=True):
                scale = float(level) if as_recorded else 1.0
                histograms.add(int(track), np.abs(as_complex(clip)), scale, band_of_bin, exponent)
    return found["unlabeled"], found["positive"]


def resampled(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], num_unlabeled: int, num_positive: int, seed: int
) -> list[Estimate]:
    """Values of a statistic over all tracks, with bootstrap confidence intervals from resampling whole tracks.

    Tracks, not bins: bins of one recording are similar.  The intervals are percentile intervals; from fewer than about ten tracks
    they are too narrow, and a single track gives none.

    Args:
        statistic: from indices of unlabeled tracks and of positive tracks to float64 (values,).
        num_unlabeled: unlabeled tracks.
        num_positive: positive tracks.
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
