"""Estimation of the class prior, the share of bins in which the target is inactive, from positive and unlabeled data or stems.

Without stems it uses the log-max model of a mixture (Nadas, Nahamoo & Picheny 1989, "Speech recognition using noise-adaptive
prototypes", IEEE Trans. ASSP 37; "MixMax"): in each bin the sum is replaced by the louder of target and accompaniment,
|u| = max(|t|, |a|), and the two are independent.  Then the distribution functions of the magnitudes multiply, F_U = F_T F_A.
Positive recordings are accompaniment, F_A = F_P, so that F_T = F_U / F_P, and without any label

    P(|t| < |a|) = integral of F_T dF_P,    weighted by |u|^p:  integral of m^p F_T dF_P / integral of m^p dF_U.

Each third-octave band has distributions of its own.  No network is needed, and nothing is assumed about the inactive bins of a
mixture except their level: positives must be as loud as the accompaniment in the mixtures.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.dataset import PatchDataset, Split
from data_pipeline.files import write_text
from jaxpu.config import Config
from jaxpu.estimation import histograms
from jaxpu.estimation.histograms import Estimate

# A class prior of 0 or 1 would leave no learning problem.
_LOWEST, _HIGHEST = 0.01, 0.99
_LEVELS = 10 ** ((histograms.LOWEST_DB + histograms.STEP_DB * (np.arange(histograms.NUM_LEVELS) + 0.5)) / 20)


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the bins of mixtures in which the target is inactive, that is |accompaniment| > |target|.

    Attributes:
        class_prior: for `jaxpu.core.losses.pu_loss`, which divides sums of weights by counts, so that its prior means
            E_U[w; inactive] / E_P[w]: `weighted` times the mean weight of unlabeled bins over that of positive bins.
        weighted: bins weighted by |x|^p, p the objective's `weight_exponent`.
        unweighted: bins counted equally.
        weighted_bands: `weighted` within every octave of `jaxpu.estimation.histograms.octaves_hz`.
        unweighted_bands: `unweighted` within every octave.
        unlabeled_tracks: number of mixtures used.
        positive_tracks: number of positive recordings used.
    """

    class_prior: Estimate
    weighted: Estimate
    unweighted: Estimate
    weighted_bands: tuple[Estimate, ...]
    unweighted_bands: tuple[Estimate, ...]
    unlabeled_tracks: int
    positive_tracks: int


def weight_exponent(config: Config) -> float:
    """The weight exponent of the config's objective, or 1 if it has none."""
    return float(getattr(config.objective, "weight_exponent", 1.0))


def estimate(dataset: PatchDataset, config: Config, *, split: Split = "train") -> Shares:
    """Estimate the shares from positive and unlabeled clips alone, by the log-max model (see the module's docstring).

    The recordings of a source with stems share one level, and magnitudes are compared at that level; others have no common
    level, and magnitudes are compared at the scale at which clips are stored.

    Args:
        dataset: the prepared data.
        config: its objective's weight exponent, `train.disjoint_tracks` and `train.seed` (of the draws) are used.
        split: which tracks.

    Raises:
        DataError: the split has no mixtures, or no positives.
    """
    _, octave_of_band = histograms.bands_and_octaves(dataset.spec)
    exponent = weight_exponent(config)
    read = histograms.read_histograms(dataset, config, split, exponent, as_recorded=dataset.has_stems)
    (unlabeled, unlabeled_weight), (positive, positive_weight) = (each.arrays() for each in read)

    def shares(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        counts, positive_counts = unlabeled[chosen].sum(0), positive[chosen_positive].sum(0)
        mean_weight = unlabeled_weight[chosen].sum() / counts.sum()
        positive_mean_weight = positive_weight[chosen_positive].sum() / positive_counts.sum()
        return _log_max(counts, positive_counts, octave_of_band, exponent, mean_weight / positive_mean_weight)

    estimates = histograms.resampled(shares, len(unlabeled), len(positive), config.train.seed)
    return _shares(estimates, len(unlabeled), len(positive))


def _log_max(
    unlabeled: np.ndarray, positive: np.ndarray, octave_of_band: np.ndarray, exponent: float, weight_ratio: float
) -> np.ndarray:
    """Shares from histograms of magnitudes, float64 (bands, levels), in the order of the fields of `Shares`."""
    counts = unlabeled.sum(-1)
    density, positive_density = (
        histogram / np.maximum(histogram.sum(-1, keepdims=True), 1) for histogram in (unlabeled, positive)
    )
    # Of the bins at a level, half count as below it.
    below, positive_below = (np.cumsum(each, -1) - each / 2 for each in (density, positive_density))
    with np.errstate(divide="ignore", invalid="ignore"):
        target_below = np.where(positive_below > 0, np.minimum(below / positive_below, 1), 0)
    inactive = target_below * positive_density
    # An exponent of 0 counts bins; both are needed.
    sums = [counts[:, None] * np.stack([inactive @ weight, density @ weight], -1) for weight in (_LEVELS**exponent, _LEVELS**0)]
    return _in_order(sums[0], sums[1], octave_of_band, weight_ratio)


def _in_order(weighted: np.ndarray, unweighted: np.ndarray, octave_of_band: np.ndarray, weight_ratio: float) -> np.ndarray:
    """Shares from sums over bins, in the order of the fields of `Shares`, at most 1.

    Args:
        weighted: float64 (bands, 2), sums of the weights of inactive bins and of all bins.
        unweighted: float64 (bands, 2), counts of inactive bins and of all bins.
        octave_of_band: int (bands,).
        weight_ratio: mean weight of unlabeled bins over that of positive bins.
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
    """The true shares, from the stems of the mixtures that `estimate` uses; without intervals.

    Raises:
        DataError: the data have no stems.
    """
    band_of_bin, octave_of_band = histograms.bands_and_octaves(dataset.spec)
    exponent = weight_exponent(config)
    num_bands = len(octave_of_band)
    weighted, unweighted = np.zeros((num_bands, 2)), np.zeros((num_bands, 2))
    positive_weight, positive_bins = 0.0, 0
    tracks: dict[str, set[int]] = {"unlabeled": set(), "positive": set()}
    for batch in histograms.batches(dataset, config, split, with_target=True):
        mixture, target = histograms.as_complex(batch["unlabeled"]), histograms.as_complex(batch["target"])
        inactive = np.abs(mixture - target) > np.abs(target)
        weight = histograms.weights(np.abs(mixture), exponent)
        bands = np.broadcast_to(band_of_bin, inactive.shape).ravel()
        for sums, of_bins in ((weighted, weight), (unweighted, np.ones_like(weight))):
            sums[:, 0] += np.bincount(bands, (inactive * of_bins).ravel(), num_bands)
            sums[:, 1] += np.bincount(bands, of_bins.ravel(), num_bands)
        positive = histograms.weights(np.abs(histograms.as_complex(batch["positive"])), exponent)
        positive_weight, positive_bins = positive_weight + positive.sum(dtype=np.float64), positive_bins + positive.size
        for role, seen in tracks.items():
            seen.update(batch[f"{role}_track"].tolist())
    ratio = weighted[:, 1].sum() / unweighted[:, 1].sum() / (positive_weight / positive_bins)
    values = _in_order(weighted, unweighted, octave_of_band, ratio)
    estimates = [Estimate(float(value)) for value in values]
    return _shares(estimates, len(tracks["unlabeled"]), len(tracks["positive"]))


def _shares(estimates: list[Estimate], unlabeled_tracks: int, positive_tracks: int) -> Shares:
    """`Shares` from estimates in the order of its fields."""
    class_prior, weighted, unweighted, *bands = estimates
    octaves = len(bands) // 2
    return Shares(
        class_prior, weighted, unweighted, tuple(bands[:octaves]), tuple(bands[octaves:]), unlabeled_tracks, positive_tracks
    )


def in_words(estimate: Estimate) -> str:
    """An estimate and its interval as text, such as `0.61 [0.55, 0.68]`."""
    return f"{estimate.value:.2f}" + ("" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]")


TITLES = {"oracle": "from stems", "log_max": "log-max"}
"""Headings of the estimators in `table`."""


def table(found: dict[str, Shares], dataset: PatchDataset, config: Config) -> str:
    """The shares of all estimators by name, `oracle` and `log_max`, as text, with the assumption of the estimate."""
    rows: list[tuple[str, list[Estimate]]] = [
        ("class prior of the objectives", [shares.class_prior for shares in found.values()]),
        (f"weighted by |x|^{weight_exponent(config):g}", [shares.weighted for shares in found.values()]),
        ("unweighted", [shares.unweighted for shares in found.values()]),
    ]
    for kind, name in (("weighted", "weighted_bands"), ("unweighted", "unweighted_bands")):
        for number, (low, high) in enumerate(histograms.octaves_hz(dataset.spec)):
            rows.append((f"{low:.0f} to {high:.0f} Hz, {kind}", [getattr(shares, name)[number] for shares in found.values()]))
    tracks = (f"{TITLES[name]} {shares.unlabeled_tracks} and {shares.positive_tracks}" for name, shares in found.items())
    met = (
        "recordings with stems share one level"
        if dataset.has_stems
        else "recordings without stems share no level: take it with care"
    )
    return "\n".join(
        [
            f"Share of bins in which {' and '.join(config.data.target)} are inactive, "
            f"with {histograms.COVERAGE:.0%} intervals over tracks",
            (" " * 32 + "".join(f"{TITLES[name]:<21}" for name in found)).rstrip(),
            *((f"{label:<32}" + "".join(f"{in_words(each):<21}" for each in values)).rstrip() for label, values in rows),
            f"Tracks, unlabeled and positive: {', '.join(tracks)}.",
            f"log-max assumes positives as loud as the accompaniment in the mixtures; {met}.",
        ]
    )


def to_json(found: dict[str, Shares], dataset: PatchDataset, config: Config) -> dict[str, Any]:
    """The shares by estimator, the limits of the octaves in Hz and the fingerprint of the data, JSON-serialisable."""
    return {
        "data_fingerprint": dataset.fingerprint,
        "weight_exponent": weight_exponent(config),
        "octaves_hz": histograms.octaves_hz(dataset.spec),
        **{name: dataclasses.asdict(shares) for name, shares in found.items()},
    }


def write_json(path: Path, found: dict[str, Shares], dataset: PatchDataset, config: Config) -> None:
    """Write the document of `to_json` to a file."""
    write_text(path, json.dumps(to_json(found, dataset, config), indent=1))
