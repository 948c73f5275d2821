"""Objectives and their hyperparameters."""

import dataclasses
import math
from typing import Literal

from jaxpu.config.errors import require

Estimated = float | Literal["estimate"]
"""A number, or what `jaxpu.estimation.resolve` makes of the data before training."""


def _is_class_prior(value: object) -> bool:
    return value == "estimate" or (isinstance(value, (int, float)) and 0 < value < 1)


def _is_gain(value: object) -> bool:
    return value == "estimate" or (isinstance(value, (int, float)) and math.isfinite(value))


@dataclasses.dataclass(frozen=True)
class PUConfig:
    """Positive-unlabeled learning of bins, PULSE's objective.

    Attributes:
        estimator: of the risk: `unbiased`, `non_negative` (nnPU), `absolute` (absPU) or `balanced` (ImbPU); see
            `jaxpu.core.losses.pu_loss`.
        surrogate: margin loss: `sigmoid` or `logistic`.
        class_prior: share of the positive class (target inactive) among unlabeled bins; `estimate` takes it from the data before
            training (`jaxpu estimate-prior`).
        beta: tolerance of the clamp: it acts where the risk of the negative class is below -beta (Kiryo et al. 2017).
        gamma: weight of the step that is taken back where the clamp acts.  The clamp, and so beta and gamma, belong to
            `non_negative` and `balanced`.
        weight_exponent: p in the weight |x|^p of a bin.
        mask: `hard` keeps the bins with a negative logit (PULSE); `soft` keeps sigmoid(-logit) of each.
    """

    estimator: Literal["unbiased", "non_negative", "absolute", "balanced"] = "non_negative"
    surrogate: Literal["sigmoid", "logistic"] = "sigmoid"
    class_prior: Estimated = 0.6
    beta: float = 0.0
    gamma: float = 0.096
    weight_exponent: float = 1.0
    mask: Literal["hard", "soft"] = "hard"

    def __post_init__(self) -> None:
        require(_is_class_prior(self.class_prior), self, "class_prior", "between 0 and 1, or 'estimate'")
        require(self.beta >= 0, self, "beta", "0 or more")
        require(0 <= self.gamma <= 1, self, "gamma", "in [0, 1]")
        require(self.weight_exponent >= 0, self, "weight_exponent", "0 or more")


@dataclasses.dataclass(frozen=True)
class BrierPUConfig:
    """Positive-unlabeled learning of bins with a squared loss, which estimates the posterior and needs no clamp.

    It overfits in the long run, so stop early.

    Attributes:
        class_prior: share of the positive class (target inactive) among unlabeled bins; `estimate` takes it from the data before
            training (`jaxpu estimate-prior`).
        weight_exponent: p in the weight |x|^p of a bin.
    """

    class_prior: Estimated = 0.6
    weight_exponent: float = 1.0

    def __post_init__(self) -> None:
        require(_is_class_prior(self.class_prior), self, "class_prior", "between 0 and 1, or 'estimate'")
        require(self.weight_exponent >= 0, self, "weight_exponent", "0 or more")


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Supervised learning of a soft mask from mixtures with known targets.

    Attributes:
        loss: `signal_approximation` (PULSE): squared error of the masked magnitude; `ratio_mask`: cross-entropy with the
            ideal ratio mask, each bin weighted by its magnitude.
        remix_songs: make new mixtures from the target of one song and the accompaniment of another, the positive.
        gain_db: with `remix_songs`, both get independent gains drawn uniformly from plus or minus this many dB.
        shift_semitones: with `remix_songs`, the frequencies of both are scaled by independent factors drawn uniformly from plus
            or minus this many semitones.
    """

    loss: Literal["signal_approximation", "ratio_mask"] = "signal_approximation"
    remix_songs: bool = False
    gain_db: float = 6.0
    shift_semitones: float = 0.0

    def __post_init__(self) -> None:
        require(self.gain_db >= 0, self, "gain_db", "0 or more")
        require(self.shift_semitones >= 0, self, "shift_semitones", "0 or more")


@dataclasses.dataclass(frozen=True)
class MixITConfig:
    """Mixture invariant training: three masks of mixture + positive, of which the first keeps the target.

    Attributes:
        minimum_over: each `example` has the better of the two assignments (Wisdom et al. 2020), or the whole `batch` has one
            (PULSE).
    """

    minimum_over: Literal["example", "batch"] = "example"


@dataclasses.dataclass(frozen=True)
class NoisyTargetConfig:
    """Noisy-target training (Fujimura et al. 2021): take the positive out of mixture + positive, then apply that to mixtures.

    Attributes:
        gain_db: both signals get independent gains drawn uniformly from plus or minus this many dB.
    """

    gain_db: float = 6.0

    def __post_init__(self) -> None:
        require(self.gain_db >= 0, self, "gain_db", "0 or more")


@dataclasses.dataclass(frozen=True)
class RemixConfig:
    """Positives in context: learn which bins of mixture + positive the positive dominates (README, "How it works").

    Attributes:
        gain_db: both signals get independent gains drawn uniformly from plus or minus this many dB.  The labels vary with them
            and say less of where the target plays, so that learning takes longer.
        shift_semitones: the frequencies of both are scaled by independent factors drawn uniformly from plus or minus this many
            semitones, so that few songs are less easily known by heart.
        positive_gain_db: a constant gain of the positives.  They should be as loud as the accompaniment hidden in the mixtures;
            where every recording is scaled to the same level (`level="recording"`), they are louder by what the target adds.
            `estimate` finds it in the data, without stems (`jaxpu.estimation.positive_gain`).
        label_frequency: c, the probability that the positive is the larger of two exchangeable accompaniments; 1/2 by symmetry.
            The network's score s is the posterior of "target inactive" in the mixture: labels are compared with
            c s / (1 - c + c s), since the sum holds 1 / (1 - c) times as much accompaniment.
        weight_exponent: p in the weight |x|^p of a bin.
        labels: `binary`: which of the two is larger; `ratio`: the share of the positive in the sum of the two magnitudes.  Both
            have the same mean where the target is silent; the second is less random.
    """

    gain_db: float = 0.0
    shift_semitones: float = 0.0
    positive_gain_db: Estimated = 0.0
    label_frequency: float = 0.5
    weight_exponent: float = 1.0
    labels: Literal["binary", "ratio"] = "binary"

    def __post_init__(self) -> None:
        require(self.gain_db >= 0, self, "gain_db", "0 or more")
        require(self.shift_semitones >= 0, self, "shift_semitones", "0 or more")
        require(_is_gain(self.positive_gain_db), self, "positive_gain_db", "a number of dB, or 'estimate'")
        require(0 < self.label_frequency < 1, self, "label_frequency", "in (0, 1)")
        require(self.weight_exponent >= 0, self, "weight_exponent", "0 or more")


@dataclasses.dataclass(frozen=True)
class BootstrapConfig(RemixConfig):
    """`remix`, then the same with the target that a teacher takes out of the mixture in the place of the mixture.

    The teacher is an earlier state of the network that is trained.  What is added to a positive is then as sparse as a real
    target, so the sum is as dense as a real mixture (Neural Egg Separation, Halperin et al. 2019; RemixIT, Tzinis et al. 2022).

    The teacher's scores s become masks k (1 - s / q), clipped to [0, 1].  q is the mean s of the positives themselves in each
    octave (Elkan & Noto 2008, e1).  k is such that the masks let pass the share of the mixtures' energy that the target has by
    the levels: (E_U - E_P) / E_U, means of the run so far.  Otherwise a network that is unsure keeps little, so that the next one
    learns from little and keeps less, down to blank output.

    A pupil can learn no more than its teacher knows, while `remix` goes on learning from the mixtures themselves.  So half of the
    examples stay as in `remix`.

    Attributes:
        remix_steps: steps of `remix` before there is a teacher.
        teacher: `average`: the moving average of the parameters (`train.ema_decay`) as it is at every step; `round`: what
            separated at the beginning of the round, the moving average or, where there is none, the parameters.
        round_steps: steps of a round; without meaning for `average`.
        taught_gain_db: takes the place of `gain_db` once there is a teacher: then gains vary the data and blur no label.
        mixture_share: share of the examples that stay mixtures, as in `remix`.
        empty_share: a mixture of whose energy the teacher takes less than this share of what it takes on average is taken for
            a recording without the target, and is one of the positives; 0: none is.
        trusted_leak: nor is any as long as the masks take more of the positives than this, over what they take of mixtures
            (`jaxpu.core.teacher.leak`): the mixtures in which little of the target is found may be those in which it is quiet.
    """

    remix_steps: int = 400
    teacher: Literal["average", "round"] = "average"
    round_steps: int = 1000
    taught_gain_db: float = 3.0
    mixture_share: float = 0.5
    empty_share: float = 0.35
    trusted_leak: float = 0.12

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.remix_steps >= 0, self, "remix_steps", "0 or more")
        require(self.round_steps > 0, self, "round_steps", "positive")
        require(self.taught_gain_db >= 0, self, "taught_gain_db", "0 or more")
        require(0 <= self.mixture_share <= 1, self, "mixture_share", "in [0, 1]")
        require(0 <= self.empty_share <= 1, self, "empty_share", "in [0, 1]")
        require(self.trusted_leak >= 0, self, "trusted_leak", "0 or more")


@dataclasses.dataclass(frozen=True)
class PNUConfig(RemixConfig):
    """`remix`, and supervised learning from a few tracks whose target is known, in one loss.

    Attributes:
        supervised_weight: lambda in lambda * supervised + (1 - lambda) * remix.
        stem_tracks: how many of the tracks that give mixtures give their targets too; all of them where there are fewer.
    """

    supervised_weight: float = 0.5
    stem_tracks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.supervised_weight <= 1, self, "supervised_weight", "in [0, 1]")
        require(self.stem_tracks > 0, self, "stem_tracks", "positive")


ObjectiveConfig = (
    PUConfig | BrierPUConfig | SupervisedConfig | MixITConfig | NoisyTargetConfig | RemixConfig | BootstrapConfig | PNUConfig
)
