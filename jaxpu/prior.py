"""The class prior: the share of bins in which the target is inactive, from stems, or from positive and unlabeled data alone.

Without stems it comes from the log-max model of a mixture (Nadas, Nahamoo & Picheny 1989, "Speech recognition using
noise-adaptive prototypes", IEEE Trans. ASSP 37; "MixMax"): in a bin the louder of target and accompaniment stands for their
sum, |u| = max(|t|, |a|), and the two are independent.  Then the distribution functions of the magnitudes multiply, F_U = F_T F_A.
Positive recordings are accompaniment, F_A = F_P, so the target's is F_T = F_U / F_P, and with no label at all

    P(|t| < |a|) = integral of F_T dF_P,    weighted by |u|^p:  integral of m^p F_T dF_P / integral of m^p dF_U.

Each third-octave band has distributions of its own.  No network is needed, and nothing is assumed about what inactive bins of
a mixture look like beside their level; but that level counts: positives must be as loud as the accompaniment hidden in the
mixtures.  `jaxpu.best_bin` has the estimate of the PU literature, which needs no levels and is biased for another reason.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.batches import PatchDataset, Split
from data_pipeline.spec import PatchSpec
from jaxpu import parallel
from jaxpu.config import Config
from jaxpu.objectives import WEIGHT_FLOOR

MAX_CLIPS = 2000
"""Clips of each pile that are looked at, at most."""

RESAMPLES = 500
"""Draws of the bootstrap."""

COVERAGE = 0.9
"""What the intervals are meant to cover."""

PRIOR_FILE = "prior.json"
"""What the estimate was, in the folder of a run that asked for it."""

# A class prior of 0 or 1 would leave no learning problem.
_LOWEST, _HIGHEST = 0.01, 0.99
_BATCH_SIZE = 16
# Histograms of magnitudes: from -120 dB on, in steps of half a decibel.
_LOWEST_DB, _STEP_DB, _NUM_LEVELS = -120.0, 0.5, 440
_LEVELS = 10 ** ((_LOWEST_DB + _STEP_DB * (np.arange(_NUM_LEVELS) + 0.5)) / 20)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number in [0, 1], with the ends of its interval; None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the bins of mixtures in which the target is inactive, that is |accompaniment| > |target|.

    Attributes:
        class_prior: what `jaxpu.losses.pu_loss` takes.  It sums weights over counts, so that its prior stands for
            E_U[w; inactive] / E_P[w]: `weighted`, times the mean weight of unlabeled bins over that of positive ones.
        weighted: bins weighted by |x|^p, p the objective's `weight_exponent`.
        unweighted: every bin counts the same.
        weighted_bands: `weighted` within every octave of `octaves_hz`.
        unweighted_bands: `unweighted` within every octave.
        unlabeled_tracks: recordings that it was estimated from.
        positive_tracks: the same of the other pile.
    """

    class_prior: Estimate
    weighted: Estimate
    unweighted: Estimate
    weighted_bands: tuple[Estimate, ...]
    unweighted_bands: tuple[Estimate, ...]
    unlabeled_tracks: int
    positive_tracks: int


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


@dataclasses.dataclass
class _Pile:
    """What is known of one pile, by track.

    Attributes:
        magnitudes: float64 (bands, levels), histogram of magnitudes in the scale of the recordings.
        weight: sum of the weights of all bins in the scale in which they are stored.
    """

    magnitudes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    weight: dict[int, float] = dataclasses.field(default_factory=dict)

    def add(self, track: int, magnitudes: np.ndarray, level: float, band_of_bin: np.ndarray, exponent: float) -> None:
        """Adds a clip, float32 (..., bins), that was divided by `level` before it was stored."""
        num_bands = band_of_bin.max() + 1
        with np.errstate(divide="ignore"):
            steps = np.floor((20 * np.log10(magnitudes * level) - _LOWEST_DB) / _STEP_DB)
        cells = np.clip(steps, 0, _NUM_LEVELS - 1).astype(np.int64) + _NUM_LEVELS * band_of_bin
        counts = np.bincount(cells.ravel(), minlength=num_bands * _NUM_LEVELS).reshape(num_bands, _NUM_LEVELS)
        self.magnitudes[track] = self.magnitudes.get(track, 0) + counts.astype(np.float64)
        self.weight[track] = self.weight.get(track, 0.0) + float(weights(magnitudes, exponent).sum(dtype=np.float64))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(tracks, bands, levels) and (tracks,)."""
        return np.stack(list(self.magnitudes.values())), np.array(list(self.weight.values()))


def weights(magnitudes: np.ndarray, exponent: float) -> np.ndarray:
    """The weight of every bin, as the objectives have it."""
    return (magnitudes + WEIGHT_FLOOR) ** exponent


def weight_exponent(config: Config) -> float:
    """The objective's, or 1 where it has none."""
    return float(getattr(config.objective, "weight_exponent", 1.0))


def num_held(dataset: PatchDataset, split: Split, disjoint_tracks: bool) -> int:
    """Clips of the larger pile, `MAX_CLIPS` at most."""
    clips = max(dataset.num_clips(split, "mixture"), dataset.num_clips(split, "accompaniment"))
    return min(-(-clips // 2) if disjoint_tracks and dataset.has_stems else clips, MAX_CLIPS)


def estimate(dataset: PatchDataset, config: Config, *, split: Split = "train") -> Shares:
    """The shares from positive and unlabeled clips alone, by the log-max model (see the module), drawn by `config.train.seed`.

    Where the source has stems its recordings share one level, and the clips are looked at in that; two folders have none in
    common, and the scale in which they are stored is taken.

    Args:
        dataset: the prepared data.
        config: its objective's weight exponent, `train.disjoint_tracks` and `train.seed` matter.
        split: which tracks.

    Raises:
        DataError: the split has no clips of one of the piles.
    """
    band_of_bin, octave_of_band = third_octaves(dataset.spec)
    exponent = weight_exponent(config)
    piles = {"unlabeled": _Pile(), "positive": _Pile()}
    for batch in _batches(dataset, config, split, with_target=False):
        for role, pile in piles.items():
            for clip, level, track in zip(batch[role], batch[f"{role}_level"], batch[f"{role}_track"], strict=True):
                scale = float(level) if dataset.has_stems else 1.0
                pile.add(int(track), np.abs(_complex(clip)), scale, band_of_bin, exponent)
    unlabeled, unlabeled_weight = piles["unlabeled"].arrays()
    positive, positive_weight = piles["positive"].arrays()

    def shares(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        histograms = unlabeled[chosen].sum(0), positive[chosen_positive].sum(0)
        mean_weights = [
            weight[rows].sum() / histogram.sum()
            for weight, rows, histogram in zip(
                (unlabeled_weight, positive_weight), (chosen, chosen_positive), histograms, strict=True
            )
        ]
        return _log_max(*histograms, octave_of_band, exponent, mean_weights[0] / mean_weights[1])

    return bootstrapped(shares, len(unlabeled), len(positive), config.train.seed)


def _log_max(
    unlabeled: np.ndarray, positive: np.ndarray, octave_of_band: np.ndarray, exponent: float, weight_ratio: float
) -> np.ndarray:
    """The shares from histograms of magnitudes, float64 (bands, levels), in the order of `Shares`."""
    counts = unlabeled.sum(-1)
    density, positive_density = (
        histogram / np.maximum(histogram.sum(-1, keepdims=True), 1) for histogram in (unlabeled, positive)
    )
    # At a level, half of the bins of that very level lie below.
    below, positive_below = (np.cumsum(each, -1) - each / 2 for each in (density, positive_density))
    with np.errstate(divide="ignore", invalid="ignore"):
        target_below = np.where(positive_below > 0, np.minimum(below / positive_below, 1), 0)
    inactive = target_below * positive_density
    # An exponent of 0 counts bins; both are needed.
    sums = [counts[:, None] * np.stack([inactive @ weight, density @ weight], -1) for weight in (_LEVELS**exponent, _LEVELS**0)]
    return in_order(sums[0], sums[1], octave_of_band, weight_ratio)


def in_order(weighted: np.ndarray, unweighted: np.ndarray, octave_of_band: np.ndarray, weight_ratio: float) -> np.ndarray:
    """Sums over bins to shares, in the order of `Shares`, at most 1.

    Args:
        weighted: float64 (bands, 2), of the weights of inactive bins and of all bins.
        unweighted: the same of counts.
        octave_of_band: int (bands,).
        weight_ratio: mean weight of unlabeled bins over that of positive ones.
    """
    overall = [sums[:, 0].sum() / sums[:, 1].sum() for sums in (weighted, unweighted)]
    num_octaves = octave_of_band.max() + 1
    by_octave = [
        np.bincount(octave_of_band, sums[:, 0], num_octaves)
        / np.maximum(np.bincount(octave_of_band, sums[:, 1], num_octaves), 1e-30)
        for sums in (weighted, unweighted)
    ]
    shares = np.minimum(np.concatenate([[overall[0], *overall], *by_octave]), 1)
    shares[0] = np.clip(shares[0] * weight_ratio, _LOWEST, _HIGHEST)
    return shares


def oracle(dataset: PatchDataset, config: Config, *, split: Split = "train") -> Shares:
    """The shares from stems, of the mixtures that `estimate` looks at; without intervals.

    Raises:
        DataError: the data have no stems.
    """
    band_of_bin, octave_of_band = third_octaves(dataset.spec)
    exponent = weight_exponent(config)
    num_bands = len(octave_of_band)
    weighted, unweighted = np.zeros((num_bands, 2)), np.zeros((num_bands, 2))
    positive_weight, positive_bins = 0.0, 0
    tracks: dict[str, set[int]] = {"unlabeled": set(), "positive": set()}
    for batch in _batches(dataset, config, split, with_target=True):
        mixture, target = _complex(batch["unlabeled"]), _complex(batch["target"])
        inactive = np.abs(mixture - target) > np.abs(target)
        weight = weights(np.abs(mixture), exponent)
        bands = np.broadcast_to(band_of_bin, inactive.shape).ravel()
        for sums, of_bins in ((weighted, weight), (unweighted, np.ones_like(weight))):
            sums[:, 0] += np.bincount(bands, (inactive * of_bins).ravel(), num_bands)
            sums[:, 1] += np.bincount(bands, of_bins.ravel(), num_bands)
        positive = weights(np.abs(_complex(batch["positive"])), exponent)
        positive_weight, positive_bins = positive_weight + positive.sum(dtype=np.float64), positive_bins + positive.size
        for role, seen in tracks.items():
            seen.update(batch[f"{role}_track"].tolist())
    ratio = weighted[:, 1].sum() / unweighted[:, 1].sum() / (positive_weight / positive_bins)
    values = in_order(weighted, unweighted, octave_of_band, ratio)
    return _shares(values, None, (len(tracks["unlabeled"]), len(tracks["positive"])))


def bootstrapped(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], num_unlabeled: int, num_positive: int, seed: int
) -> Shares:
    """The shares that `statistic` makes of all tracks, with intervals by resampling whole tracks of either pile.

    Tracks, not bins: bins of one recording are alike.  Percentile intervals; from fewer than about ten tracks they are too
    narrow, and from a single one there is none.

    Args:
        statistic: numbers of unlabeled tracks and of positive ones to shares in the order of `Shares`.
        num_unlabeled: tracks.
        num_positive: tracks.
        seed: of the draws.
    """
    values = statistic(np.arange(num_unlabeled), np.arange(num_positive))
    interval = None
    if min(num_unlabeled, num_positive) > 1:
        generator = np.random.default_rng(seed)
        draws = np.stack(
            [
                statistic(
                    generator.integers(num_unlabeled, size=num_unlabeled), generator.integers(num_positive, size=num_positive)
                )
                for _ in range(RESAMPLES)
            ]
        )
        interval = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    return _shares(values, interval, (num_unlabeled, num_positive))


def _shares(values: np.ndarray, interval: np.ndarray | None, tracks: tuple[int, int]) -> Shares:
    if interval is None:
        estimates = [Estimate(float(value)) for value in values]
    else:
        estimates = [Estimate(*map(float, row)) for row in zip(values, *interval, strict=True)]
    num_octaves = (len(estimates) - 3) // 2
    class_prior, weighted, unweighted, *bands = estimates
    return Shares(class_prior, weighted, unweighted, tuple(bands[:num_octaves]), tuple(bands[num_octaves:]), *tracks)


def _batches(dataset: PatchDataset, config: Config, split: Split, *, with_target: bool) -> Iterator[dict[str, np.ndarray]]:
    settings = config.train
    return dataset.batches(
        split,
        batch_size=_BATCH_SIZE,
        seed=settings.seed,
        num_steps=math.ceil(num_held(dataset, split, settings.disjoint_tracks) / _BATCH_SIZE),
        disjoint_tracks=settings.disjoint_tracks,
        with_target=with_target,
    )


def _complex(patches: np.ndarray) -> np.ndarray:
    """(..., 2), real and imaginary part, to complex64 (...)."""
    return np.ascontiguousarray(patches, np.float32).view(np.complex64)[..., 0]


def with_estimate(
    config: Config, dataset: PatchDataset, run_dir: Path, *, progress: bool = True
) -> tuple[Config, dict[str, Any] | None]:
    """A config whose class prior is a number, and where it came from.

    Where the config asks for an estimate, process 0 makes it once, prints it, and keeps it in `run_dir`, so that a run goes on
    with the same.

    Returns:
        The config, and the estimate as JSON-serialisable values; None where the config has a number or needs none.
    """
    if getattr(config.objective, "class_prior", None) != "estimate":
        return config, None
    path = run_dir / PRIOR_FILE
    if parallel.process_index() == 0 and not path.exists():
        shares = estimate(dataset, config)
        if progress:
            print(f"Class prior: {in_words(shares.class_prior)}, estimated from the data (see `jaxpu estimate-prior`).")
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"estimator": "log_max", **dataclasses.asdict(shares)}, indent=1))
        temporary.replace(path)
    prior = parallel.of_first_process(lambda: json.loads(path.read_text()))
    objective = dataclasses.replace(config.objective, class_prior=prior["class_prior"]["value"])
    return dataclasses.replace(config, objective=objective), prior


def in_words(estimate: Estimate | None) -> str:
    """Such as `0.61 [0.55, 0.68]`, or a dash."""
    if estimate is None:
        return "-"
    return f"{estimate.value:.2f}" + ("" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]")


CAUTION = """\
log-max: needs positives as loud as the accompaniment in the mixtures{levels}
best bin: from other tracks, held out. It takes inactive bins of mixtures for the same as bins of recordings without the target.
In music they have the target around them, a network sees that, and the estimate is too low; by half on synthetic songs."""


def table(found: dict[str, Shares], dataset: PatchDataset, config: Config) -> str:
    """The shares of all estimators by name (`oracle`, `log_max`, `best_bin`), as text with what to beware of."""
    titles = {"oracle": "from stems", "log_max": "log-max", "best_bin": "best bin"}
    exponent = weight_exponent(config)
    rows: list[tuple[str, Callable[[Shares], Estimate]]] = [
        ("class prior of the objectives", lambda shares: shares.class_prior),
        (f"weighted by |x|^{exponent:g}", lambda shares: shares.weighted),
        ("unweighted", lambda shares: shares.unweighted),
    ]
    for kind, name in (("weighted", "weighted_bands"), ("unweighted", "unweighted_bands")):
        for number, (low, high) in enumerate(octaves_hz(dataset.spec)):
            label = f"{low:.0f} to {high:.0f} Hz, {kind}"
            rows.append((label, lambda shares, name=name, number=number: getattr(shares, name)[number]))  # type: ignore[misc]
    lines = [
        f"Share of bins in which {' and '.join(config.data.target)} are inactive, with {COVERAGE:.0%} intervals over tracks",
        (" " * 32 + "".join(f"{titles[name]:<21}" for name in found)).rstrip(),
    ]
    lines += [
        f"{label:<32}" + "".join(f"{in_words(row(shares)):<21}" for shares in found.values()).rstrip() for label, row in rows
    ]
    tracks = (f"{titles[name]} {shares.unlabeled_tracks} and {shares.positive_tracks}" for name, shares in found.items())
    lines.append(f"Tracks, unlabeled and positive: {', '.join(tracks)}.")
    levels = (
        "; recordings that share a level do." if dataset.has_stems else ", and two folders share no level: take it with care."
    )
    return "\n".join([*lines, *CAUTION.format(levels=levels).splitlines()[: 1 + 2 * ("best_bin" in found)]])


def write_json(path: Path, found: dict[str, Shares], dataset: PatchDataset, config: Config) -> None:
    """Writes the shares by estimator, with the octaves' limits in Hz and the fingerprint of the data."""
    values = {
        "data_fingerprint": dataset.fingerprint,
        "weight_exponent": weight_exponent(config),
        "octaves_hz": octaves_hz(dataset.spec),
        **{name: dataclasses.asdict(shares) for name, shares in found.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(values, indent=1))
    temporary.replace(path)
