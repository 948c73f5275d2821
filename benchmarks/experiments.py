"""The experiments of docs/results.md: which runs there are, in the order in which they are done.

All share network, patches and steps; an objective alone has its own learning rate only where the table says so.  The blocks of
the four targets take many clips a step, the others as few as a CPU trains in minutes.
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
MODEL = load_config("demo_remix").model
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
REMIX = RemixConfig(labels="ratio")
BOOTSTRAP = BootstrapConfig(labels="ratio", remix_steps=NUM_STEPS // 4)
"""Its held-out loss, which is that of `remix`, prefers early checkpoints: the last one is taken."""

WITHOUT_EMPTY = dataclasses.replace(BOOTSTRAP, empty_share=0.0)
"""What a bootstrap is without empty mixtures."""

NO_EMPTY = "no empty mixtures"

FEW_CLIPS: dict[str, Any] = {"batch_size": 6}
"""Settings of training of the blocks that are for CPUs."""

HALF = "supervised, ratio mask, half of the songs"
SHIFTED = "shifts of 1 semitone"

NETWORKS = {
    "no dilation": dataclasses.replace(MODEL, dilations=()),
    "dilation in time alone": dataclasses.replace(MODEL, dilations=tuple((time, 1) for time, _ in MODEL.dilations)),
    "dilation in frequency alone": dataclasses.replace(MODEL, dilations=tuple((1, bins) for _, bins in MODEL.dilations)),
    "dropout in place of normalization": dataclasses.replace(MODEL, normalization="none"),
}
"""With as many weights in their convolutions as the network of all other experiments."""

BAND_SPLIT_RNN = load_config("demo_band_split_rnn").model
"""A step of it takes 1.2 to 1.4 times as long as one of the network above (16 kHz, medians of seven in turn, 2 CPU cores)."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run and its scores on the test songs.

    Attributes:
        block: heading that it stands under.
        method: row that it stands in.
        config: of the run; its target and seed are those of the table.
        songs: which corpus it takes: `main`; `unheard`, for the run of that target, method and seed on `main`, scored on songs
            of another one; or `more`, a corpus with the same test songs and more for training.
    """

    block: str
    method: str
    config: Config
    songs: Songs = "main"

    @property
    def target(self) -> str:
        """The stem, or stems joined by +."""
        return "+".join(self.config.data.target)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.config.train.seed

    @property
    def name(self) -> str:
        """Of its result: unique."""
        return f"unheard_{self.run_name}" if self.songs == "unheard" else self.run_name

    @property
    def run_name(self) -> str:
        """Of its run."""
        method = "".join(letter if letter.isalnum() or letter in ".+" else "-" for letter in self.method)
        return f"{'more_' * (self.songs == 'more')}{self.target}_{method}_{self.seed}"


def config_of(objective: Any, target: str, seed: int, **settings: Any) -> Config:
    """The shared config with this objective, target and seed, and `settings` of training changed."""
    # The halves of the songs from which mixtures and accompaniment come are drawn by the data's seed: the same for all.
    return Config(
        data=DataConfig(patch=PATCH, target=(target,), activity_on="off"),
        model=MODEL,
        objective=objective,
        train=dataclasses.replace(TRAIN, seed=seed, **settings),
    )


def supervised(loss: Any, target: str, seed: int, *, half: bool = False, **settings: Any) -> Config:
    """Supervised on remixed stems of all training songs, or of the half that gives the mixtures elsewhere."""
    return config_of(SupervisedConfig(loss=loss, remix_songs=True), target, seed, disjoint_tracks=half, **settings)


def experiments() -> Iterator[Experiment]:
    """All of them, in order."""

    def pu(prior: float) -> PUConfig:
        return PUConfig(class_prior=prior, mask="soft")

    block = "vocals"
    for seed in SEEDS:
        yield Experiment(block, "remix", config_of(REMIX, "vocals", seed))
        yield Experiment(block, "bootstrap", config_of(BOOTSTRAP, "vocals", seed, select_by="last"))
        yield Experiment(block, f"bootstrap, {NO_EMPTY}", config_of(WITHOUT_EMPTY, "vocals", seed, select_by="last"))
        yield Experiment(block, "supervised, ratio mask", supervised("ratio_mask", "vocals", seed))
        yield Experiment(block, HALF, supervised("ratio_mask", "vocals", seed, half=True))
        if seed == 0:
            yield Experiment(block, "supervised, signal approximation", supervised("signal_approximation", "vocals", seed))
            for loss, name in (("ratio_mask", "ratio mask"), ("signal_approximation", "signal approximation")):
                for rate in (2e-3, 8e-3):
                    config = supervised(loss, "vocals", seed, learning_rate=rate)
                    yield Experiment(block, f"supervised, {name}, rate {rate:g}", config)
            for prior in PRIORS:
                yield Experiment(block, f"pu, prior {prior:g}", config_of(pu(prior), "vocals", seed))
    for prior in PRIORS:
        for seed in SEEDS[1:]:
            yield Experiment(block, f"pu, prior {prior:g}", config_of(pu(prior), "vocals", seed))
    for target in TARGETS[1:]:
        for seed in SEEDS:
            yield Experiment(target, "remix", config_of(REMIX, target, seed))
            yield Experiment(target, "bootstrap", config_of(BOOTSTRAP, target, seed, select_by="last"))
            yield Experiment(target, f"bootstrap, {NO_EMPTY}", config_of(WITHOUT_EMPTY, target, seed, select_by="last"))
            yield Experiment(target, "supervised, ratio mask", supervised("ratio_mask", target, seed))
            yield Experiment(target, HALF, supervised("ratio_mask", target, seed, half=True))
            yield Experiment(target, "pu, prior 0.7", config_of(pu(0.7), target, seed))
    shifted = dataclasses.replace(WITHOUT_EMPTY, shift_semitones=1.0)
    for seed in SEEDS:
        yield Experiment("other", f"bootstrap, {SHIFTED}", config_of(shifted, "other", seed, select_by="last"))
        known = SupervisedConfig(loss="ratio_mask", remix_songs=True, shift_semitones=1.0)
        yield Experiment("other", f"{HALF}, {SHIFTED}", config_of(known, "other", seed))
    for seed in SEEDS:
        for method, config in (
            ("remix", config_of(REMIX, "vocals", seed, **FEW_CLIPS)),
            ("bootstrap", config_of(BOOTSTRAP, "vocals", seed, select_by="last", **FEW_CLIPS)),
            ("supervised, ratio mask", supervised("ratio_mask", "vocals", seed, **FEW_CLIPS)),
        ):
            yield Experiment("vocals, 6 + 6 clips", f"{method}, 6 clips", config)
    many = FEW_CLIPS | {"num_steps": MANY_STEPS, "eval_every": MANY_STEPS // 8}
    longer = dataclasses.replace(BOOTSTRAP, remix_steps=MANY_STEPS // 4)
    for seed in SEEDS:
        for target in TARGETS:
            for method, config in (
                ("remix", config_of(REMIX, target, seed, **many)),
                ("bootstrap", config_of(longer, target, seed, select_by="last", **many)),
                ("supervised, ratio mask", supervised("ratio_mask", target, seed, **many)),
            ):
                yield Experiment(f"{target}, {MANY_STEPS} steps", f"{method}, {MANY_STEPS} steps", config)
    others = {
        "remix, binary labels": RemixConfig(),
        "remix, gains of 6 dB": dataclasses.replace(REMIX, gain_db=6.0),
        "bootstrap, one round": dataclasses.replace(BOOTSTRAP, teacher="round"),
        "bootstrap, three rounds": dataclasses.replace(BOOTSTRAP, teacher="round", round_steps=NUM_STEPS // 4),
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
        for method, objective in others.items():
            criterion = "last" if isinstance(objective, BootstrapConfig) else TRAIN.select_by
            yield Experiment("other objectives", method, config_of(objective, "vocals", seed, select_by=criterion, **FEW_CLIPS))
    gains: dict[str, Any] = {f"positives {offset_db:+g} dB": offset_db for offset_db in (-6.0, -3.0, 3.0, 6.0)}
    gains["level estimated"] = "estimate"
    for seed in SEEDS:
        for name, gain_db in gains.items():
            for method, base, criterion in (("remix", REMIX, "held_out_loss"), ("bootstrap", BOOTSTRAP, "last")):
                objective = dataclasses.replace(base, positive_gain_db=gain_db)
                config = config_of(objective, "vocals", seed, select_by=criterion, **FEW_CLIPS)
                yield Experiment("levels", f"{method}, {name}", config)
    for seed in SEEDS:
        for method, config in (
            ("remix", config_of(REMIX, "vocals", seed)),
            ("bootstrap", config_of(BOOTSTRAP, "vocals", seed, select_by="last")),
            (f"bootstrap, {NO_EMPTY}", config_of(WITHOUT_EMPTY, "vocals", seed, select_by="last")),
            ("supervised, ratio mask", supervised("ratio_mask", "vocals", seed)),
        ):
            yield Experiment("unheard voices", method, config, songs="unheard")
    for target in ("vocals", "other"):
        for seed in SEEDS:
            methods = {
                "bootstrap": config_of(BOOTSTRAP, target, seed, select_by="last"),
                f"bootstrap, {NO_EMPTY}": config_of(WITHOUT_EMPTY, target, seed, select_by="last"),
                "supervised, ratio mask": supervised("ratio_mask", target, seed),
            }
            if target == "other":
                methods[f"bootstrap, {SHIFTED}"] = config_of(shifted, target, seed, select_by="last")
            for method, config in methods.items():
                yield Experiment(f"{target}, more songs", method, config, songs="more")
    for seed in SEEDS:
        for num_tracks in (1, 3, 10, 26):
            objective = PNUConfig(labels="ratio", stem_tracks=num_tracks)
            name = f"pnu, {num_tracks} song{'s' * (num_tracks > 1)} with stems"
            yield Experiment("songs with stems", name, config_of(objective, "vocals", seed, **FEW_CLIPS))
    for seed in SEEDS:
        for name, model in NETWORKS.items():
            config = config_of(BOOTSTRAP, "vocals", seed, select_by="last", **FEW_CLIPS)
            yield Experiment("networks", f"bootstrap, {name}", dataclasses.replace(config, model=model))
    for seed in SEEDS:
        for method, config in (
            ("supervised, ratio mask", supervised("ratio_mask", "vocals", seed, **FEW_CLIPS)),
            ("remix", config_of(REMIX, "vocals", seed, **FEW_CLIPS)),
            ("bootstrap", config_of(BOOTSTRAP, "vocals", seed, select_by="last", **FEW_CLIPS)),
        ):
            for name, model in (("patch CNN", MODEL), ("band-split RNN", BAND_SPLIT_RNN)):
                data = dataclasses.replace(config.data, patch=PATCH_16_KHZ)
                changed = dataclasses.replace(config, data=data, model=model)
                yield Experiment("band-split RNN, 16 kHz", f"{method}, {name}, 16 kHz", changed)
