"""The one description of a run: frozen dataclasses that validate themselves."""

import dataclasses
from typing import Literal

from data_pipeline.config import DataConfig
from data_pipeline.dataclass_json import check_fields
from data_pipeline.errors import ConfigError, require
from jaxpu.config.cluster import Cluster
from jaxpu.config.networks import BandSplitRNNConfig, ModelConfig, PatchCNNConfig, UNetConfig, band_groups, check_size
from jaxpu.config.objectives import (
    BootstrapConfig,
    BrierPUConfig,
    Estimated,
    MixITConfig,
    NoisyTargetConfig,
    ObjectiveConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
)

MAX_STEPS = 2**31 - 1
"""Steps are counted by int32."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        num_steps: number of optimizer steps.
        batch_size: unlabeled clips per step over all devices; as many positive clips are drawn.
        learning_rate: peak learning rate of Adam.
        schedule: `constant`, or `cosine` decay to zero.
        warmup_steps: steps of linear warm-up.
        gradient_clip: largest global norm of the gradients, or None.
        ema_decay: decay of an exponential moving average of the parameters, which is then evaluated and separates; 0 disables
            it.  `bootstrap` needs it: the average is its teacher.
        clips_at_once: largest number of clips that pass through the network at once on a device; 0: all of them.  The parts are
            equal, so it should divide the device's share of a batch.  It bounds the memory, and costs a third more time: what the
            backward pass needs is computed again.  The loss, and its non-negative clamp, stay those of the whole batch.  Batch
            normalization averages over these clips alone (Hoffer et al. 2017).
        mixed_precision: compute the network in bfloat16; parameters, STFT and losses stay in float32.
        disjoint_tracks: draw unlabeled and positive clips from different tracks (strictly non-parallel data).
        eval_every: steps between evaluations on the validation tracks; a checkpoint is saved at each.
        eval_batches: maximum number of batches of an evaluation.
        select_by: criterion of the best checkpoint on held-out tracks: their loss (`held_out_loss`), the estimated error of the
            separation (`estimated_error`, docs/methods.md), neither of which needs stems; SI-SDR improvement
            (`si_sdr_improvement`, uses stems); or the `last` step.
        patience: stop after this many evaluations without improvement; 0 disables it, as `select_by="last"` requires.
        on_blank: reaction to blank output: `warn`, or `stop` the run.
        init_from: model whose parameters are those of the first step: run directory, archive, or `starter` or `starter-drums`,
            which come with jaxpu.  Its network and patches must be those of this config.  Empty: random parameters.
        seed: determines initial parameters, data order, dropout and remixing.
    """

    num_steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 3.7e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    clips_at_once: int = 0
    mixed_precision: bool = False
    disjoint_tracks: bool = True
    eval_every: int = 500
    eval_batches: int = 16
    select_by: Literal["held_out_loss", "estimated_error", "si_sdr_improvement", "last"] = "held_out_loss"
    patience: int = 0
    on_blank: Literal["warn", "stop"] = "warn"
    init_from: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for field in ("num_steps", "eval_every", "eval_batches"):
            require(0 < getattr(self, field) <= MAX_STEPS, self, field, "positive and less than 2^31")
        require(0 < self.batch_size <= 2**20, self, "batch_size", "positive and at most 2^20")
        require(0 <= self.clips_at_once <= 2**20, self, "clips_at_once", "0 or more and at most 2^20")
        require(0 < self.learning_rate <= 1e30, self, "learning_rate", "positive and at most 1e30")
        for field in ("warmup_steps", "patience"):
            require(0 <= getattr(self, field) <= MAX_STEPS, self, field, "0 or more and less than 2^31")
        require(
            self.gradient_clip is None or 0 < self.gradient_clip <= 1e30,
            self,
            "gradient_clip",
            "positive and at most 1e30, or None",
        )
        require(0 <= self.ema_decay < 1, self, "ema_decay", "in [0, 1)")
        require(0 <= self.seed < 2**31, self, "seed", "from 0 to 2^31 - 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run, except the recordings themselves."""

    data: DataConfig = DataConfig()
    model: ModelConfig = PatchCNNConfig()
    objective: ObjectiveConfig = PUConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        check_fields(self)
        check_size(self.model, self.data.patch)
        if isinstance(self.objective, BootstrapConfig):
            steps = self.train.num_steps
            remedy = f"less than train.num_steps = {steps}, for example a third of it: --objective.remix-steps {steps // 3}"
            require(self.objective.remix_steps < steps, self.objective, "remix_steps", remedy)
            require(self.train.ema_decay > 0, self.train, "ema_decay", "more than 0 for bootstrap, whose teacher it is; try 0.99")


def uses_stems(config: Config) -> list[str]:
    """Uses of stems in a run, in words; empty if there are none."""
    reasons = []
    if isinstance(config.objective, SupervisedConfig):
        reasons.append("supervised training")
    if isinstance(config.objective, PNUConfig):
        reasons.append(f"targets of {config.objective.stem_tracks} tracks")
    if config.train.select_by == "si_sdr_improvement":
        reasons.append("checkpoint selected by SI-SDR")
    if config.data.activity_on == "target":
        reasons.append("activity detected on the target")
    if config.data.target_to_accompaniment_db is not None:
        reasons.append("mixtures remixed from stems")
    return reasons
