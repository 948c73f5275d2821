"""Objectives and their hyperparameters.

A field that is declared by `traced` enters the training step as a traced value: one compiled program serves all its values, and
`jaxpu sweep` can train many of them at once.
"""

import dataclasses
from typing import Any, Literal

from data_pipeline.dataclass_json import check_fields
from data_pipeline.errors import require

Estimated = float | Literal["estimate"]
"""A number, or `estimate`: `jaxpu.estimation` computes it from the prepared data before training."""


def traced(default: Any) -> Any:
    """A dataclass field whose value is traced by the training step."""
    return dataclasses.field(default=default, metadata={"traced": True})


def traced_fields(config: Any) -> list[str]:
    """Names of the fields of an objective's config that are declared by `traced`."""
    return [field.name for field in dataclasses.fields(config) if field.metadata.get("traced")]


def _require_class_prior(config: Any) -> None:
    prior = config.class_prior
    require(prior == "estimate" or 0 < prior < 1, config, "class_prior", "between 0 and 1, or 'estimate'")


def _require_moderate(config: Any, *fields: str) -> None:
    for field in fields:
        require(0 <= getattr(config, field) <= 1000, config, field, "from 0 to 1000")


def _require_remix(config: Any) -> None:
    """Check the fields that `remix`, `bootstrap` and `pnu` have in common."""
    _require_moderate(config, "gain_db", "shift_semitones", "weight_exponent")
    gain = config.positive_gain_db
    require(gain == "estimate" or abs(gain) <= 1000, config, "positive_gain_db", "from -1000 to 1000 dB, or 'estimate'")
    require(0 < config.label_frequency < 1, config, "label_frequency", "in (0, 1)")


@dataclasses.dataclass(frozen=True)
class PUConfig:
    """Positive-unlabeled learning of bins: PULSE's objective (Ito & Sugiyama 2023).

    Attributes:
        estimator: estimator of the risk: `unbiased`, `non_negative` (nnPU), `absolute` (absPU) or `balanced` (ImbPU); see
            `jaxpu.core.losses.pu_loss`.
        surrogate: margin loss, `sigmoid` or `logistic`.
        class_prior: share of the unlabeled bins in which the target is inactive, weighted as in the loss (docs/methods.md, pi);
            `estimate` computes it from the data before training (`jaxpu estimate-prior`).
        beta: tolerance of the clamp, which acts where the risk of the negative class is below -beta (Kiryo et al. 2017).
        gamma: weight of the gradient step that is taken back where the clamp acts.  Only `non_negative` and `balanced` clamp.
        weight_exponent: p in the weight |x|^p of a bin.
        mask: `hard` keeps the bins with a negative logit (PULSE); `soft` scales each bin by sigmoid(-logit).
    """

    estimator: Literal["unbiased", "non_negative", "absolute", "balanced"] = "non_negative"
    surrogate: Literal["sigmoid", "logistic"] = "sigmoid"
    class_prior: Estimated = traced(0.6)
    beta: float = traced(0.0)
    gamma: float = traced(0.096)
    weight_exponent: float = traced(1.0)
    mask: Literal["hard", "soft"] = "hard"

    def __post_init__(self) -> None:
        check_fields(self)
        _require_class_prior(self)
        _require_moderate(self, "beta", "weight_exponent")
        require(0 <= self.gamma <= 1, self, "gamma", "in [0, 1]")


@dataclasses.dataclass(frozen=True)
class BrierPUConfig:
    """Positive-unlabeled learning of bins with a squared loss, which estimates the posterior and needs no clamp.

    It overfits in long runs, so stop early.

    Attributes:
        class_prior: share of the unlabeled bins in which the target is inactive, weighted as in the loss (docs/methods.md, pi);
            `estimate` computes it from the data before training (`jaxpu estimate-prior`).
        weight_exponent: p in the weight |x|^p of a bin.
    """

    class_prior: Estimated = traced(0.6)
    weight_exponent: float = traced(1.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _require_class_prior(self)
        _require_moderate(self, "weight_exponent")


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Supervised learning of a soft mask from mixtures with known targets.  Uses stems.

    Attributes:
        loss: `signal_approximation` (PULSE): squared error of the masked magnitude; `ratio_mask`: cross-entropy with the ideal
            ratio mask, weighted by magnitude; `phase_sensitive`: squared error of the masked STFT, in which phase counts.
        remix_songs: make new mixtures from the target of one song and the accompaniment of another.
        gain_db: with `remix_songs`, independent gains of both signals, uniform within plus or minus this many dB.
        shift_semitones: with `remix_songs`, independent pitch shifts of both signals, uniform within plus or minus this many
            semitones.
    """

    loss: Literal["signal_approximation", "ratio_mask", "phase_sensitive"] = "signal_approximation"
    remix_songs: bool = False
    gain_db: float = traced(6.0)
    shift_semitones: float = traced(0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _require_moderate(self, "gain_db", "shift_semitones")


@dataclasses.dataclass(frozen=True)
class MixITConfig:
    """Mixture invariant training: three masks of mixture + positive, of which the first keeps the target.

    Attributes:
        minimum_over: take the better of the two assignments for each `example` (Wisdom et al. 2020), or for the whole `batch`
            (PULSE).
    """

    minimum_over: Literal["example", "batch"] = "example"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class NoisyTargetConfig:
    """Noisy-target training (Fujimura et al. 2021): learn to remove the positive from mixture + positive, then mask mixtures.

    Attributes:
        gain_db: independent gains of both signals, uniform within plus or minus this many dB.
    """

    gain_db: float = traced(6.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _require_moderate(self, "gain_db")


@dataclasses.dataclass(frozen=True)
class RemixConfig:
    """Remix learning: add a positive to a mixture and learn in which bins the positive is louder (docs/methods.md).

    Attributes:
        gain_db: independent gains of both signals, uniform within plus or minus this many dB.  They make labels depend less on
            the target, so learning takes longer.
        shift_semitones: pitch-shift augmentation against overfitting to few songs: independent shifts of both signals, uniform
            within plus or minus this many semitones.
        positive_gain_db: constant gain of the positives, which should be as loud as the accompaniment hidden in the mixtures.
            Where every recording is scaled to the same level (`level="recording"`) they are louder, by what the target adds.
            `estimate` computes the gain from the data, without stems (`jaxpu.estimation.positive_gain`).  Marked passages have
            the right level, and get no gain.
        label_frequency: c, the probability that the positive is the louder of two exchangeable accompaniments; 1/2 by symmetry.
        weight_exponent: p in the weight |x|^p of a bin.
        labels: `binary`: which of the two is louder; `ratio`: magnitude of the positive over the sum of both magnitudes, which
            has the same mean where the target is silent, and less variance; `phase_sensitive`: the real factor, within
            0 and 1, that brings the sum closest to the positive.
    """

    gain_db: float = traced(0.0)
    shift_semitones: float = traced(0.0)
    positive_gain_db: Estimated = traced(0.0)
    label_frequency: float = traced(0.5)
    weight_exponent: float = traced(1.0)
    labels: Literal["binary", "ratio", "phase_sensitive"] = "binary"

    def __post_init__(self) -> None:
        check_fields(self)
        _require_remix(self)


@dataclasses.dataclass(frozen=True)
class BootstrapConfig:
    """Bootstrap: `remix`, then also remixes of pseudo-targets that a teacher separates from the mixtures.

    The teacher is the moving average of the network itself (`train.ema_decay`).  A remix of a pseudo-target is as dense as a real
    mixture (Neural Egg Separation, Halperin et al. 2019; RemixIT, Tzinis et al. 2022).  `jaxpu.core.objectives.teacher` says how
    scores become the teacher's masks.

    Attributes:
        gain_db: as in `RemixConfig`, for the steps before there is a teacher and for mixtures.
        shift_semitones: as in `RemixConfig`.
        positive_gain_db: as in `RemixConfig`.
        label_frequency: as in `RemixConfig`.
        weight_exponent: as in `RemixConfig`.
        labels: as in `RemixConfig`.
        remix_steps: steps of `remix` before there is a teacher.
        taught_gain_db: takes the place of `gain_db` for remixes of pseudo-targets, whose labels do not depend on gains.
        mixture_share: fraction of the examples that stay remixes of mixtures: from pseudo-targets alone a student learns no
            more than its teacher knows.
        empty_share: a mixture clip counts as target-free, and joins the positives, when the teacher's mask keeps less than this
            fraction of the energy that it keeps on average; 0 disables this.
        max_false_positive_ratio: safeguard of `empty_share`, which is inactive while the false-positive ratio is higher: the
            fraction of the energy of positives that the teacher's masks keep over the fraction that they keep of mixtures.
    """

    gain_db: float = traced(0.0)
    shift_semitones: float = traced(0.0)
    positive_gain_db: Estimated = traced(0.0)
    label_frequency: float = traced(0.5)
    weight_exponent: float = traced(1.0)
    labels: Literal["binary", "ratio", "phase_sensitive"] = "ratio"
    remix_steps: int = 400
    taught_gain_db: float = traced(3.0)
    mixture_share: float = traced(0.5)
    empty_share: float = traced(0.35)
    max_false_positive_ratio: float = traced(0.12)

    def __post_init__(self) -> None:
        check_fields(self)
        _require_remix(self)
        _require_moderate(self, "taught_gain_db", "max_false_positive_ratio")
        require(0 <= self.remix_steps < 2**31, self, "remix_steps", "0 or more and less than 2^31")
        require(0 <= self.mixture_share <= 1, self, "mixture_share", "in [0, 1]")
        require(0 <= self.empty_share <= 1, self, "empty_share", "in [0, 1]")


@dataclasses.dataclass(frozen=True)
class PNUConfig:
    """PNU learning: `remix` of all mixtures, and supervised learning from a few songs with stems, in one loss.

    Attributes:
        gain_db: as in `RemixConfig`.
        shift_semitones: as in `RemixConfig`.
        positive_gain_db: as in `RemixConfig`.
        label_frequency: as in `RemixConfig`.
        weight_exponent: as in `RemixConfig`.
        labels: as in `RemixConfig`.
        supervised_weight: lambda in lambda * supervised + (1 - lambda) * remix.
        stem_tracks: number of the tracks with mixtures whose targets are used; all of them where there are fewer.
    """

    gain_db: float = traced(0.0)
    shift_semitones: float = traced(0.0)
    positive_gain_db: Estimated = traced(0.0)
    label_frequency: float = traced(0.5)
    weight_exponent: float = traced(1.0)
    labels: Literal["binary", "ratio", "phase_sensitive"] = "binary"
    supervised_weight: float = traced(0.5)
    stem_tracks: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        _require_remix(self)
        require(0 <= self.supervised_weight <= 1, self, "supervised_weight", "in [0, 1]")
        require(0 < self.stem_tracks <= 10**6, self, "stem_tracks", "positive and at most 10^6")


ObjectiveConfig = (
    PUConfig | BrierPUConfig | SupervisedConfig | MixITConfig | NoisyTargetConfig | RemixConfig | BootstrapConfig | PNUConfig
)


def ignored_fields(config: Any) -> dict[str, str]:
    """Traced fields of an objective's config that change nothing, each with the field whose value makes it so."""
    match config:
        case SupervisedConfig(remix_songs=False):
            return dict.fromkeys(("gain_db", "shift_semitones"), "remix_songs")
        case PUConfig(estimator="unbiased" | "absolute"):
            return dict.fromkeys(("beta", "gamma"), "estimator")
        case BootstrapConfig():
            ignored = {"taught_gain_db": "mixture_share"} if config.mixture_share == 1 else {}
            return ignored | ({"max_false_positive_ratio": "empty_share"} if config.empty_share == 0 else {})
    return {}
