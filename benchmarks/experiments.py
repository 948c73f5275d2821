"""The experiments of docs/results.md, in the order in which they are run.

All share one network, one kind of patch and one number of steps, unless their name says otherwise.  The experiments on the four
targets use 24 + 24 clips a step; the others use 6 + 6, which a CPU trains in minutes.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import (
    BootstrapConfig,
    BrierPUConfig,
    Config,
    MixITConfig,
    NoisyTargetConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
)
from jaxpu.config_files import load_config

Songs = Literal["main", "unheard", "more"]

SEEDS = (0, 1, 2)
PRIORS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TARGETS = ("vocals", "drums", "bass", "other")

NUM_STEPS = 800
MANY_STEPS = 2400
PATCH = PatchSpec(
    sample_rate=11_025, clip_samples=16_536, n_fft=1024, win_length=1024, hop_length=512, window="hann", level="reference"
)
PATCH_16_KHZ = load_config("demo_remix").data.patch
MODEL: Any = load_config("demo_remix").model
TRAIN = TrainConfig(
    num_steps=NUM_STEPS,
    batch_size=24,
    learning_rate=4e-3,
    schedule="cosine",
    gradient_clip=1.0,
    ema_decay=0.99,
    eval_every=100,
    eval_batches=12,
)
FEW_CLIPS: dict[str, Any] = {"batch_size": 6}
"""Training settings of the experiments for CPUs."""

REMIX = RemixConfig(labels="ratio")
BOOTSTRAP = BootstrapConfig(labels="ratio", remix_steps=NUM_STEPS // 4)
WITHOUT_EMPTY = dataclasses.replace(BOOTSTRAP, empty_share=0.0)
"""A bootstrap without empty mixtures."""

SHIFTED = dataclasses.replace(WITHOUT_EMPTY, shift_semitones=1.0)

SUPERVISED = "supervised, ratio mask"
HALF = f"{SUPERVISED}, half of the songs"
NO_EMPTY = "bootstrap, no empty mixtures"
SHIFTS = "shifts of 1 semitone"

NETWORKS = {
    "no dilation": dataclasses.replace(MODEL, dilations=()),
    "dilation in time alone": dataclasses.replace(MODEL, dilations=tuple((time, 1) for time, _ in MODEL.dilations)),
    "dilation in frequency alone": dataclasses.replace(MODEL, dilations=tuple((1, bins) for _, bins in MODEL.dilations)),
    "dropout in place of normalization": dataclasses.replace(MODEL, normalization="none"),
}
"""Networks with as many weights in their convolutions as `MODEL`."""

THREE_NETWORKS = {
    "patch CNN": MODEL,
    "band-split RNN": load_config("demo_band_split_rnn").model,
    "U-Net": load_config("recordings").model,
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run and its scores on the test songs.

    Attributes:
        block: group of experiments that one table compares.
        method: its row in that table; the rows of one method differ by the seed.
        config: run configuration, with target and seed.
        songs: corpus: `main`; `unheard`, which scores the run of the same target, method and seed on `main` on songs of another
            corpus; or `more`, a corpus with the same test songs and more training songs.
    """

    block: str
    method: str
    config: Config
    songs: Songs = "main"

    @property
    def target(self) -> str:
        """The stem, or several joined by +."""
        return "+".join(self.config.data.target)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.train.seed

    @property
    def name(self) -> str:
        """Unique name of the result."""
        return f"unheard_{self.run_name}" if self.songs == "unheard" else self.run_name

    @property
    def run_name(self) -> str:
        """Name of the run directory."""
        return f"{'more_' * (self.songs == 'more')}{file_name(self.target, self.method, self.seed)}"


def file_name(target: str, method: str, seed: int) -> str:
    """Name of a run, of characters that every file system takes."""
    return f"{target}_{''.join(letter if letter.isalnum() or letter in '.+' else '-' for letter in method)}_{seed}"


def config_of(objective: Any, target: str, seed: int, **settings: Any) -> Config:
    """The shared config with an objective, target and seed, and some training settings changed.

    A bootstrap keeps its last checkpoint: its held-out loss is that of `remix`, which prefers early ones.
    """
    criterion: Any = "last" if isinstance(objective, BootstrapConfig) else TRAIN.select_by
    # The data's seed draws the halves of the songs that give mixtures and accompaniment: the same for all experiments.
    return Config(
        data=DataConfig(patch=PATCH, target=(target,), activity_on="off"),
        model=MODEL,
        objective=objective,
        train=dataclasses.replace(TRAIN, seed=seed, select_by=criterion, **settings),
    )


def supervised(loss: Any, target: str, seed: int, *, half: bool = False, **settings: Any) -> Config:
    """Supervision on remixed stems of all training songs, or of the half that gives the mixtures to the other methods."""
    return config_of(SupervisedConfig(loss=loss, remix_songs=True), target, seed, disjoint_tracks=half, **settings)


def experiments() -> Iterator[Experiment]:
    """All experiments, in the order in which they are run."""
    yield from _vocals()
    for target in TARGETS[1:]:
        yield from _target(target)
    yield from _shifts()
    yield from _few_clips()
    yield from _many_steps()
    yield from _other_objectives()
    yield from _levels()
    yield from _unheard_voices()
    yield from _more_songs()
    yield from _songs_with_stems()
    yield from _networks()
    yield from _three_networks()


def _pu(prior: float) -> PUConfig:
    return PUConfig(class_prior=prior, mask="soft")


def _compared(target: str, seed: int) -> dict[str, Config]:
    """The methods that are compared on every target."""
    return {
        "remix": config_of(REMIX, target, seed),
        "bootstrap": config_of(BOOTSTRAP, target, seed),
        NO_EMPTY: config_of(WITHOUT_EMPTY, target, seed),
        SUPERVISED: supervised("ratio_mask", target, seed),
        HALF: supervised("ratio_mask", target, seed, half=True),
    }


def _vocals() -> Iterator[Experiment]:
    for seed in SEEDS:
        for method, config in _compared("vocals", seed).items():
            yield Experiment("vocals", method, config)
        if seed == 0:
            config = supervised("signal_approximation", "vocals", seed)
            yield Experiment("vocals", "supervised, signal approximation", config)
            for loss, name in (("ratio_mask", "ratio mask"), ("signal_approximation", "signal approximation")):
                for rate in (2e-3, 8e-3):
                    config = supervised(loss, "vocals", seed, learning_rate=rate)
                    yield Experiment("vocals", f"supervised, {name}, rate {rate:g}", config)
            for prior in PRIORS:
                yield Experiment("vocals", f"pu, prior {prior:g}", config_of(_pu(prior), "vocals", seed))
    for prior in PRIORS:
        for seed in SEEDS[1:]:
            yield Experiment("vocals", f"pu, prior {prior:g}", config_of(_pu(prior), "vocals", seed))


def _target(target: str) -> Iterator[Experiment]:
    for seed in SEEDS:
        for method, config in _compared(target, seed).items():
            yield Experiment(target, method, config)
        yield Experiment(target, "pu, prior 0.7", config_of(_pu(0.7), target, seed))


def _shifts() -> Iterator[Experiment]:
    known = SupervisedConfig(loss="ratio_mask", remix_songs=True, shift_semitones=1.0)
    for seed in SEEDS:
        yield Experiment("other", f"bootstrap, {SHIFTS}", config_of(SHIFTED, "other", seed))
        yield Experiment("other", f"{HALF}, {SHIFTS}", config_of(known, "other", seed))


def _few_clips() -> Iterator[Experiment]:
    for seed in SEEDS:
        for method, config in (
            ("remix", config_of(REMIX, "vocals", seed, **FEW_CLIPS)),
            ("bootstrap", config_of(BOOTSTRAP, "vocals", seed, **FEW_CLIPS)),
            (SUPERVISED, supervised("ratio_mask", "vocals", seed, **FEW_CLIPS)),
        ):
            yield Experiment("vocals, 6 + 6 clips", f"{method}, 6 clips", config)


def _many_steps() -> Iterator[Experiment]:
    settings = FEW_CLIPS | {"num_steps": MANY_STEPS, "eval_every": MANY_STEPS // 8}
    longer = dataclasses.replace(BOOTSTRAP, remix_steps=MANY_STEPS // 4)
    for seed in SEEDS:
        for target in TARGETS:
            for method, config in (
                ("remix", config_of(REMIX, target, seed, **settings)),
                ("bootstrap", config_of(longer, target, seed, **settings)),
                (SUPERVISED, supervised("ratio_mask", target, seed, **settings)),
            ):
                yield Experiment(f"{target}, {MANY_STEPS} steps", f"{method}, {MANY_STEPS} steps", config)


def _other_objectives() -> Iterator[Experiment]:
    objectives = {
        "remix, binary labels": RemixConfig(labels="binary"),
        "remix, gains of 6 dB": dataclasses.replace(REMIX, gain_db=6.0),
        "bootstrap, a quarter mixtures": dataclasses.replace(BOOTSTRAP, mixture_share=0.25),
        "noisy_target": NoisyTargetConfig(),
        "mixit": MixITConfig(),
        "brier_pu, prior 0.7": BrierPUConfig(class_prior=0.7),
        "pu unbiased, prior 0.7": PUConfig(estimator="unbiased", class_prior=0.7, mask="soft"),
        "pu absolute, prior 0.7": PUConfig(estimator="absolute", class_prior=0.7, mask="soft"),
        "pu balanced, prior 0.7": PUConfig(estimator="balanced", class_prior=0.7, mask="soft"),
        "pu, hard mask, prior 0.7": PUConfig(class_prior=0.7),
    }
    for seed in SEEDS:
        for method, objective in objectives.items():
            yield Experiment("other objectives", method, config_of(objective, "vocals", seed, **FEW_CLIPS))


def _levels() -> Iterator[Experiment]:
    gains: dict[str, Any] = {f"positives {offset_db:+g} dB": offset_db for offset_db in (-6.0, -3.0, 3.0, 6.0)}
    gains["level estimated"] = "estimate"
    objectives: dict[str, Any] = {"remix": REMIX, "bootstrap": BOOTSTRAP}
    for seed in SEEDS:
        for name, gain_db in gains.items():
            for method, base in objectives.items():
                objective = dataclasses.replace(base, positive_gain_db=gain_db)
                yield Experiment("levels", f"{method}, {name}", config_of(objective, "vocals", seed, **FEW_CLIPS))


def _unheard_voices() -> Iterator[Experiment]:
    for seed in SEEDS:
        for method, config in _compared("vocals", seed).items():
            if method != HALF:
                yield Experiment("unheard voices", method, config, songs="unheard")


def _more_songs() -> Iterator[Experiment]:
    for target in ("vocals", "other"):
        for seed in SEEDS:
            compared = _compared(target, seed)
            methods = {method: compared[method] for method in ("bootstrap", NO_EMPTY, SUPERVISED)}
            if target == "other":
                methods[f"bootstrap, {SHIFTS}"] = config_of(SHIFTED, target, seed)
            for method, config in methods.items():
                yield Experiment(f"{target}, more songs", method, config, songs="more")


def _songs_with_stems() -> Iterator[Experiment]:
    for seed in SEEDS:
        for num_tracks in (1, 3, 10, 26):
            objective = PNUConfig(labels="ratio", stem_tracks=num_tracks)
            name = f"pnu, {num_tracks} song{'s' * (num_tracks > 1)} with stems"
            yield Experiment("songs with stems", name, config_of(objective, "vocals", seed, **FEW_CLIPS))


def _networks() -> Iterator[Experiment]:
    for seed in SEEDS:
        for name, model in NETWORKS.items():
            config = config_of(BOOTSTRAP, "vocals", seed, **FEW_CLIPS)
            yield Experiment("networks", f"bootstrap, {name}", dataclasses.replace(config, model=model))


def _three_networks() -> Iterator[Experiment]:
    for seed in SEEDS:
        for method, config in (
            (SUPERVISED, supervised("ratio_mask", "vocals", seed, **FEW_CLIPS)),
            ("remix", config_of(REMIX, "vocals", seed, **FEW_CLIPS)),
            ("bootstrap", config_of(BOOTSTRAP, "vocals", seed, **FEW_CLIPS)),
        ):
            for name, model in THREE_NETWORKS.items():
                data = dataclasses.replace(config.data, patch=PATCH_16_KHZ)
                changed = dataclasses.replace(config, data=data, model=model)
                yield Experiment("three networks, 16 kHz", f"{method}, {name}, 16 kHz", changed)
