"""Types of the JSON documents that describe trained models, which `data_pipeline.dataclass_json.decode` checks.

They list the fields that jaxpu reads; others are allowed.  A field that earlier versions did not write is `NotRequired`.
"""

from typing import Literal, NotRequired, TypedDict

from data_pipeline.dataclass_json import Measured
from jaxpu.config import Config


class Amount(TypedDict):
    """Recordings, seconds of the clips that are kept, the part of both that is marked, and mean level of the recordings."""

    tracks: int
    kept_s: float
    marked_tracks: NotRequired[int]
    marked_s: NotRequired[float]
    level_db: NotRequired[float | None]


class CheckOfMarks(TypedDict):
    """The model that checked the marks, the number of marks, and how many were left out."""

    model: str
    num_marks: int
    num_left_out: int


class TrainingData(TypedDict):
    """Amounts by split and signal, and the check of the marks if there was one."""

    counts: dict[str, Amount]
    marks_check: NotRequired[CheckOfMarks | None]


class Estimate(TypedDict):
    """A number of the objective that was estimated from the data."""

    number: float
    data_fingerprint: NotRequired[str]


class Member(TypedDict):
    """Training of one network of an ensemble."""

    step: int
    num_steps: int
    select_by: str
    score: Measured
    data: TrainingData | None
    stopped: str | None


class ModelInfo(TypedDict):
    """Record of a training, in checkpoints, archives and scores; see `jaxpu.training.run`.

    `num_networks` and `members` are those of an ensemble, whose other fields are those of its first network.
    """

    step: int
    select_by: str
    score: Measured
    uses_stems: list[str]
    data_fingerprint: str
    data: NotRequired[TrainingData | None]
    estimates: NotRequired[dict[str, Estimate]]
    num_networks: NotRequired[int]
    members: NotRequired[list[Member]]
    stopped: NotRequired[str | None]


class WatchdogState(TypedDict):
    """State of `jaxpu.monitoring.watchdog.Watchdog`: statistics of the last steps by name, sums of energies, counts of steps."""

    windows: dict[str, list[Measured]]
    unlabeled_energy: Measured
    positive_energy: Measured
    steps: int
    blank_steps: int


class ResumeInfo(ModelInfo):
    """Additional fields that a run needs to resume."""

    best_score: Measured
    evaluations_since_best: int
    results: dict[str, Measured]
    watchdog: NotRequired[WatchdogState]


RESUME_FIELDS = ("watchdog",)
"""Fields that say nothing about the model: they stay in the checkpoint."""


class ModelRecord(TypedDict):
    """Config and record of a checkpoint."""

    config: Config
    info: ModelInfo


class ResumeRecord(TypedDict):
    """Config and record of the checkpoint from which a run resumes."""

    config: Config
    info: ResumeInfo


class Summary(TypedDict, total=False):
    """Scores of a method over all tracks, in dB, as far as they are known."""

    si_sdr_improvement_mean: float | None
    sdr_target: float | None
    sdr_accompaniment: float | None


class MethodScores(TypedDict):
    """Scores of a model or a baseline."""

    num_tracks: int
    summary: Summary


class ModelScores(TypedDict):
    """Scores as an archive stores them."""

    split: str
    methods: dict[str, MethodScores]


class ScoredModel(TypedDict, total=False):
    """Record of a model that was scored; empty for another separator than jaxpu's."""

    step: int
    select_by: str
    uses_stems: list[str]
    data_fingerprint: str
    num_networks: int


class ScoresFile(ModelScores):
    """The part of `scores.json` that an archive takes over."""

    model: ScoredModel


class ModelDocument(ModelRecord):
    """`model.json` of an archive."""

    kind: Literal["model", "StableHLO program", "ONNX graph"]
    jaxpu: str
    licence: str | None
    description: str | None
    num_parameters: int
    scores: ModelScores | None
