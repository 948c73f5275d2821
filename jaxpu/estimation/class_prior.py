"""The class prior: the share of bins in which the target is inactive, from stems, or from positive and unlabeled data alone.

Without stems it comes from the log-max model of a mixture (Nadas, Nahamoo & Picheny 1989, "Speech recognition using
noise-adaptive prototypes", IEEE Trans. ASSP 37; "MixMax"): in a bin the louder of target and accompaniment stands for their
sum, |u| = max(|t|, |a|), and the two are independent.  Then the distribution functions of the magnitudes multiply, F_U = F_T F_A.
Positive recordings are accompaniment, F_A = F_P, so the target's is F_T = F_U / F_P, and with no label at all

    P(|t| < |a|) = integral of F_T dF_P,    weighted by |u|^p:  integral of m^p F_T dF_P / integral of m^p dF_U.

Each third-octave band has distributions of its own.  No network is needed, and nothing is assumed about what inactive bins of
a mixture look like beside their level; but that level counts: positives must be as loud as the accompaniment hidden in the
mixtures.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.dataset import PatchDataset, Split
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
        class_prior: what `jaxpu.core.losses.pu_loss` takes.  It sums weights over counts, so that its prior stands for
            E_U[w; inactive] / E_P[w]: `weighted`, times the mean weight of unlabeled bins over that of positive ones.
        weighted: bins weighted by |x|^p, p the objective's `weight_exponent`.
        unweighted: every bin counts the same.
        weighted_bands: `weighted` within every octave of `jaxpu.estimation.histograms.octaves_hz`.
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


def weight_exponent(config: Config) -> float:
    """The objective's, or 1 where it has none."""
    return float(getattr(config.objective, "weight_exponent", 1.0))


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
    _, octave_of_band = histograms.third_octaves(dataset.spec)
    exponent = weight_exponent(config)
    read = histograms.read_piles(dataset, config, split, exponent, as_recorded=dataset.has_stems)
    (unlabeled, unlabeled_weight), (positive, positive_weight) = (pile.arrays() for pile in read)

    def shares(chosen: np.ndarray, chosen_positive: np.ndarray) -> np.ndarray:
        histograms = unlabeled[chosen].sum(0), positive[chosen_positive].sum(0)
        mean_weights = [
            weight[rows].sum() / histogram.sum()
            for weight, rows, histogram in zip(
                (unlabeled_weight, positive_weight), (chosen, chosen_positive), histograms, strict=True
            )
        ]
        return _log_max(*histograms, octave_of_band, exponent, mean_weights[0] / mean_weights[1])

    return from_tracks(shares, len(unlabeled), len(positive), config.train.seed)


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
    band_of_bin, octave_of_band = histograms.third_octaves(dataset.spec)
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
    values = in_order(weighted, unweighted, octave_of_band, ratio)
    return _shares([Estimate(float(value)) for value in values], (len(tracks["unlabeled"]), len(tracks["positive"])))


def from_tracks(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], num_unlabeled: int, num_positive: int, seed: int
) -> Shares:
    """The shares that `statistic` makes of all tracks, in the order of `Shares`, with intervals of `histograms.resampled`."""
    return _shares(histograms.resampled(statistic, num_unlabeled, num_positive, seed), (num_unlabeled, num_positive))


def _shares(estimates: list[Estimate], tracks: tuple[int, int]) -> Shares:
    num_octaves = (len(estimates) - 3) // 2
    class_prior, weighted, unweighted, *bands = estimates
    return Shares(class_prior, weighted, unweighted, tuple(bands[:num_octaves]), tuple(bands[num_octaves:]), *tracks)


def in_words(estimate: Estimate | None) -> str:
    """Such as `0.61 [0.55, 0.68]`, or a dash."""
    if estimate is None:
        return "-"
    return f"{estimate.value:.2f}" + ("" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]")


CAUTION = """\
log-max: needs positives as loud as the accompaniment in the mixtures{levels}"""


def table(found: dict[str, Shares], dataset: PatchDataset, config: Config) -> str:
    """The shares of all estimators by name (`oracle`, `log_max`), as text with what to beware of."""
    titles = {"oracle": "from stems", "log_max": "log-max"}
    exponent = weight_exponent(config)
    rows: list[tuple[str, Callable[[Shares], Estimate]]] = [
        ("class prior of the objectives", lambda shares: shares.class_prior),
        (f"weighted by |x|^{exponent:g}", lambda shares: shares.weighted),
        ("unweighted", lambda shares: shares.unweighted),
    ]
    for kind, name in (("weighted", "weighted_bands"), ("unweighted", "unweighted_bands")):
        for number, (low, high) in enumerate(histograms.octaves_hz(dataset.spec)):
            label = f"{low:.0f} to {high:.0f} Hz, {kind}"
            rows.append((label, lambda shares, name=name, number=number: getattr(shares, name)[number]))  # type: ignore[misc]
    lines = [
        f"Share of bins in which {' and '.join(config.data.target)} are inactive, "
        f"with {histograms.COVERAGE:.0%} intervals over tracks",
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
    return "\n".join([*lines, *CAUTION.format(levels=levels).splitlines()])


def to_json(found: dict[str, Shares], dataset: PatchDataset, config: Config) -> dict[str, Any]:
    """The shares by estimator, with the octaves' limits in Hz and the fingerprint of the data, JSON-serialisable."""
    return {
        "data_fingerprint": dataset.fingerprint,
        "weight_exponent": weight_exponent(config),
        "octaves_hz": histograms.octaves_hz(dataset.spec),
        **{name: dataclasses.asdict(shares) for name, shares in found.items()},
    }


def write_json(path: Path, found: dict[str, Shares], dataset: PatchDataset, config: Config) -> None:
    """Writes what `to_json` returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(to_json(found, dataset, config), indent=1))
    temporary.replace(path)
