"""Configs: what is refused and in which words, JSON and back, the files that come with jaxpu."""

import dataclasses
import importlib.util
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import (
    BandSplitRNNConfig,
    BootstrapConfig,
    BrierPUConfig,
    Config,
    ConfigError,
    MixITConfig,
    NoisyTargetConfig,
    ObjectiveConfig,
    PatchCNNConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
    UNetConfig,
    uses_stems,
)
from jaxpu.config.networks import ModelConfig
from jaxpu.config_files import config_names, from_json, load_config, to_json

DILATIONS = ((1, 1), (2, 2))

REFUSED: list[tuple[type, str, Any]] = [
    (PatchCNNConfig, "channels", 0),
    (PatchCNNConfig, "blocks", -1),
    (PatchCNNConfig, "growth", 0),
    (PatchCNNConfig, "pointwise_blocks", 3),
    (PatchCNNConfig, "pointwise_blocks", -1),
    (PatchCNNConfig, "kernel_size", (3, 4)),
    (PatchCNNConfig, "kernel_size", (-1, 3)),
    (PatchCNNConfig, "output_kernel_size", 2),
    (PatchCNNConfig, "dropout_rate", 1.0),
    (PatchCNNConfig, "dropout_rate", -0.1),
    (PatchCNNConfig, "dilations", DILATIONS),
    (PatchCNNConfig, "dilations", ((1, 0),) * 6),
    (BandSplitRNNConfig, "bands", "piano"),
    (BandSplitRNNConfig, "bands", ()),
    (BandSplitRNNConfig, "bands", ((100.0, 3), (0.0, 2))),
    (BandSplitRNNConfig, "bands", ((100.0, 0),)),
    (BandSplitRNNConfig, "channels", 0),
    (BandSplitRNNConfig, "repeats", 0),
    (BandSplitRNNConfig, "hidden", 0),
    (BandSplitRNNConfig, "mask_hidden", -1),
    (UNetConfig, "channels", ()),
    (UNetConfig, "channels", (8, 0)),
    (UNetConfig, "convolutions", 0),
    (UNetConfig, "dilations", (1, 0)),
    (UNetConfig, "dilations", (1,) * 65),
    (UNetConfig, "bottleneck", -1),
    (UNetConfig, "bands_per_octave", 0.0),
    (PUConfig, "class_prior", 0.0),
    (PUConfig, "class_prior", 1.0),
    (PUConfig, "class_prior", float("nan")),
    (PUConfig, "beta", -0.1),
    (PUConfig, "gamma", 1.1),
    (PUConfig, "gamma", -0.1),
    (PUConfig, "weight_exponent", -1.0),
    (BrierPUConfig, "class_prior", 1.0),
    (BrierPUConfig, "weight_exponent", -1.0),
    (SupervisedConfig, "gain_db", -1.0),
    (NoisyTargetConfig, "gain_db", -1.0),
    (SupervisedConfig, "shift_semitones", -1.0),
    *(
        (cls, field, value)
        for cls in (RemixConfig, BootstrapConfig, PNUConfig)
        for field, value in (
            ("gain_db", -1.0),
            ("shift_semitones", -1.0),
            ("positive_gain_db", float("inf")),
            ("positive_gain_db", -1001.0),
            ("label_frequency", 0.0),
            ("label_frequency", 1.0),
            ("weight_exponent", -1.0),
        )
    ),
    (BootstrapConfig, "remix_steps", -1),
    (BootstrapConfig, "taught_gain_db", -1.0),
    (BootstrapConfig, "mixture_share", -0.1),
    (BootstrapConfig, "empty_share", 1.1),
    (BootstrapConfig, "max_false_positive_ratio", -0.1),
    (PNUConfig, "supervised_weight", 1.5),
    (PNUConfig, "stem_tracks", 0),
    (TrainConfig, "num_steps", 0),
    (TrainConfig, "batch_size", -8),
    (TrainConfig, "clips_at_once", -1),
    (TrainConfig, "eval_every", 0),
    (TrainConfig, "eval_batches", 0),
    (TrainConfig, "learning_rate", 0.0),
    (TrainConfig, "warmup_steps", -1),
    (TrainConfig, "patience", -1),
    (TrainConfig, "gradient_clip", 0.0),
    (TrainConfig, "ema_decay", 1.0),
    (TrainConfig, "seed", -1),
    (TrainConfig, "seed", 2**31),
    (PatchSpec, "sample_rate", 0),
    (PatchSpec, "hop_length", -1),
    (PatchSpec, "n_fft", 1025),
    (PatchSpec, "win_length", 2048),
    (PatchSpec, "hop_length", 600),
    (PatchSpec, "clip_samples", 1000),
    (DataConfig, "target", ()),
    (DataConfig, "target", ("bass", "bass")),
    (DataConfig, "target", ("drums/bass",)),
    (DataConfig, "target", ("..",)),
    (DataConfig, "target", ("a\nb",)),
    (DataConfig, "target", ("\udce9",)),
    (DataConfig, "target", ("x" * 201,)),
    (DataConfig, "target", "vocals"),
    (DataConfig, "marked_hop", 0.0),
    (DataConfig, "validation_share", 1.0),
    (DataConfig, "target_to_accompaniment_db", (10.0, -5.0)),
    (DataConfig, "target_to_accompaniment_db", (0.0, 1000.0)),
    (DataConfig, "seed", -1),
    (PatchSpec, "window", "kaiser"),
    (PatchSpec, "stereo", 1),
    (PatchSpec, "sample_rate", 16000.5),
    (PatchSpec, "sample_rate", True),
    (Config, "data", PatchSpec()),
    (Config, "objective", None),
]

CLASSES = (PatchSpec, DataConfig, *typing.get_args(ModelConfig), *typing.get_args(ObjectiveConfig), TrainConfig)


@pytest.mark.parametrize(("cls", "field", "value"), REFUSED)
def test_impossible_values_are_refused_by_name(cls: type, field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**{field: value})
    assert str(caught.value).startswith(f"{cls.__name__}.{field} is {value!r}"[:40])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_no_machine_holds_and_what_is_no_number_is_refused_in_every_field(cls: type) -> None:
    for field in dataclasses.fields(cls):
        if not isinstance(field.default, (int, float)) or isinstance(field.default, bool):
            continue
        for value in (10**30, 1e308, float("nan"), float("-inf"), "x", [], {}, None, "1", (1,)):
            with pytest.raises(ConfigError) as caught:
                cls(**{field.name: value})
            assert str(caught.value).startswith(f"{cls.__name__}.{field.name} is {value!r}; it must be ")


def test_every_field_with_limits_has_a_row() -> None:
    """A field that may be a number and stands in no row above is forgotten."""
    rows = {(cls.__name__, field) for cls, field, _ in REFUSED}
    for cls in CLASSES:
        for field in dataclasses.fields(cls):
            if isinstance(field.default, (int, float, tuple)) and not isinstance(field.default, bool):
                assert (cls.__name__, field.name) in rows


@pytest.mark.parametrize(
    ("patch", "model", "named"),
    [
        ({}, PatchCNNConfig(growth=100, blocks=4), "parameters"),
        ({}, PatchCNNConfig(channels=2**15), "parameters"),
        ({}, BandSplitRNNConfig(hidden=2**15), "parameters"),
        ({}, BandSplitRNNConfig(bands=((44.0, 2**20),), mask_hidden=2**15), "parameters"),
        ({"clip_samples": 10**8, "hop_length": 1}, PatchCNNConfig(), "clip_samples"),
        ({"clip_samples": 10**8, "hop_length": 1, "sample_rate": 8000}, BandSplitRNNConfig(bands=((4000.0, 1),)), "clip_samples"),
        (
            {"n_fft": 2**20, "win_length": 2**20, "hop_length": 2**19, "clip_samples": 2**20},
            PatchCNNConfig(channels=1, kernel_size=(255, 1), dilations=((4096, 1),) * 6),
            "dilations",
        ),
    ],
)
def test_networks_that_no_machine_holds_are_refused_before_anything_is_built(
    patch: dict[str, Any], model: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=f"{type(model).__name__} has .*{named}"):
        Config(DataConfig(patch=PatchSpec(**patch)), model)


@pytest.mark.parametrize(
    "model",
    [
        PatchCNNConfig(channels=3, growth=3, blocks=2, pointwise_blocks=1, kernel_size=(5, 3), output_kernel_size=3),
        BandSplitRNNConfig(bands=((1000.0, 3), (4000.0, 2)), channels=7, repeats=3, hidden=5, mask_hidden=11),
        UNetConfig(channels=(3, 5, 7), convolutions=1, dilations=(1, 3), bottleneck=4),
    ],
)
def test_the_number_of_parameters_is_known_without_building_the_network(model: Any) -> None:
    from jaxpu.artifacts.archive import num_parameters
    from jaxpu.core.network import variable_shapes

    config = Config(model=model)
    built = num_parameters(variable_shapes(config))
    assert 0.85 * built < config.model.sizes(config.data.patch)[0] <= built  # all but biases


def test_a_bootstrap_needs_steps_for_its_teacher_and_an_average_to_take() -> None:
    train = TrainConfig(num_steps=400, ema_decay=0.9)
    Config(objective=BootstrapConfig(remix_steps=399), train=train)
    with pytest.raises(ConfigError, match=r"must be less than train.num_steps = 400, .*--objective.remix-steps 133\.$"):
        Config(objective=BootstrapConfig(remix_steps=400), train=train)
    without = dataclasses.replace(train, ema_decay=0.0)
    with pytest.raises(ConfigError, match=r"TrainConfig.ema_decay is 0\.0"):
        Config(objective=BootstrapConfig(remix_steps=1), train=without)


def test_limits_themselves_are_allowed() -> None:
    PatchCNNConfig(blocks=0, dropout_rate=0.0)
    PatchCNNConfig(blocks=1, pointwise_blocks=1, dilations=DILATIONS)
    PUConfig(gamma=1.0, beta=0.0, weight_exponent=0.0)
    RemixConfig(gain_db=0.0)
    TrainConfig(gradient_clip=None, ema_decay=0.0, seed=2**31 - 1)


CONFIGS = [
    Config(),
    Config(
        data=DataConfig(patch=PatchSpec(stereo=True), target=("drums", "bass"), target_to_accompaniment_db=(-5.0, 10.0)),
        model=PatchCNNConfig(blocks=1, dilations=((1, 1), (2, 2), (4, 4), (8, 8)), kernel_size=(5, 3)),
        objective=RemixConfig(positive_gain_db=-1.5),
        train=TrainConfig(gradient_clip=1.0),
    ),
    Config(objective=SupervisedConfig(loss="ratio_mask", remix_songs=True)),
    Config(objective=BrierPUConfig(class_prior=0.3)),
    Config(objective=MixITConfig(minimum_over="batch")),
    Config(objective=NoisyTargetConfig(gain_db=3.0)),
    Config(objective=PNUConfig(stem_tracks=1)),
    Config(model=BandSplitRNNConfig(bands=((100.0, 10), (250.0, 12)), repeats=3)),
    Config(objective=BootstrapConfig(remix_steps=7, mixture_share=0.25, labels="binary"), train=TrainConfig(ema_decay=0.9)),
]


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=["defaults", "changed", "supervised", "brier_pu", "mixit", "noisy_target", "pnu", "band_split_rnn", "bootstrap"],
)
def test_json_and_back(config: Config) -> None:
    restored = from_json(json.loads(json.dumps(to_json(config))))
    assert restored == config
    assert hash(restored) == hash(config)  # tuples, not lists
    assert type(restored.objective) is type(config.objective)
    assert type(restored.model) is type(config.model)


def test_stored_configs_of_another_version_are_refused() -> None:
    values = to_json(Config())
    values["train"] |= {"momentum": 0.9, "averaging": True}
    with pytest.raises(
        ConfigError, match=r"^TrainConfig has no field averaging, momentum; another version wrote the stored config\.$"
    ):
        from_json(values)
    values = to_json(Config())
    values["objective"]["kind"] = "ElsewhereConfig"
    with pytest.raises(ConfigError, match=r"^objective\.kind is 'ElsewhereConfig'; it must be 'PUConfig', .* or 'PNUConfig'\."):
        from_json(values)
    values = to_json(Config())
    values["objective"]["class_prior"] = 2.0
    with pytest.raises(ConfigError, match=r"^PUConfig.class_prior is 2.0; it must be between 0 and 1, or 'estimate'\.$"):
        from_json(values)


def test_fields_that_a_stored_config_lacks_take_their_defaults() -> None:
    values = to_json(Config())
    del values["train"]["patience"]
    assert from_json(values) == Config()


def test_reasons_why_a_run_uses_stems() -> None:
    assert uses_stems(Config()) == []
    for objective in (BrierPUConfig(), MixITConfig(), NoisyTargetConfig(), RemixConfig(), BootstrapConfig()):
        assert uses_stems(Config(objective=objective, train=TrainConfig(ema_decay=0.9))) == []
    assert uses_stems(Config(objective=PNUConfig(stem_tracks=2))) == ["targets of 2 tracks"]
    config = Config(
        data=DataConfig(activity_on="target", target_to_accompaniment_db=(-5.0, 10.0)),
        objective=SupervisedConfig(),
        train=TrainConfig(select_by="si_sdr_improvement"),
    )
    assert uses_stems(config) == [
        "supervised training",
        "checkpoint selected by SI-SDR",
        "activity detected on the target",
        "mixtures remixed from stems",
    ]


def test_the_reports_configs_and_the_demo_are_shipped() -> None:
    assert {"aligned", "baseline", "demo", "supervised", "tuned"} <= set(config_names())


@pytest.mark.parametrize("name", config_names())
def test_shipped_configs_load_and_say_how_to_run_them(name: str) -> None:
    config = load_config(name)
    assert load_config(f"configs/{name}.py") == load_config(name + ".py") == config
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    path = Path(__file__).parent.parent / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__
    assert re.search(rf"(jaxpu train (configs/)?{name}(\.py)?\b|make {name}\b|jaxpu {name}\b)", module.__doc__), module.__doc__


def test_a_config_that_people_copy_stands_by_itself() -> None:
    folder = Path(__file__).parent.parent / "configs"
    based_on = {name: re.findall(r'load_config\("(\w+)"\)', (folder / f"{name}.py").read_text()) for name in config_names()}
    for name, others in based_on.items():
        assert not others or name.startswith("demo_")
        assert len(others) <= 1  # and the other one stands by itself: no chains
        assert not any(based_on[other] for other in others)


def test_the_baseline_is_what_pulse_publishes() -> None:
    config = load_config("baseline")
    assert config.data.patch == dataclasses.replace(PatchSpec(), sample_rate=44_100)
    assert config.data.target == ("vocals",)
    assert config.model == PatchCNNConfig(channels=8, blocks=2, dropout_rate=0.2, features="scaled")
    assert config.objective == PUConfig("non_negative", "sigmoid", 0.6, 0.0, 0.096, 1.0, "hard")
    assert config.train.learning_rate == 3.7e-5
    assert config.data.patch.level == "clip"


def test_the_other_objectives_are_on_equal_terms_with_the_demo() -> None:
    demos = [load_config(name) for name in config_names() if name.startswith("demo")]
    configs = [config for config in demos if isinstance(config.model, PatchCNNConfig)]
    assert {type(config.objective) for config in configs} == set(typing.get_args(ObjectiveConfig))
    # A bootstrap's held-out loss prefers early checkpoints: it takes the last one.
    assert len({(config.data, config.model, dataclasses.replace(config.train, select_by="last")) for config in configs}) == 1
    assert {type(config.objective) for config in configs if config.train.select_by != "held_out_loss"} == {BootstrapConfig}


def test_the_band_split_rnn_learns_what_the_patch_cnn_learns() -> None:
    for name in ("demo", "demo_supervised"):
        other = load_config(f"demo_band_split_rnn{name.removeprefix('demo')}")
        assert isinstance(other.model, BandSplitRNNConfig)
        assert dataclasses.replace(other, model=load_config(name).model, train=load_config(name).train) == load_config(name)
        assert other.train.select_by == load_config(name).train.select_by


def test_configs_that_cannot_be_found_are_named(tmp_path: Path) -> None:
    of_baseline = " Did you mean baseline?"
    for name, hint in {
        "nothing": "",
        "configs/nothing.py": "",
        "basline": of_baseline,
        str(tmp_path / "baseline.py"): of_baseline,
        "elsewhere/baseline.py": of_baseline,
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        expected = f"There is no config {name!r}.{hint} Give a Python file, or one of {', '.join(config_names())}."
        assert str(caught.value) == expected


def test_config_files_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from jaxpu.config import Config, TrainConfig\nconfig = Config(train=TrainConfig(num_steps=3))\n")
    assert load_config(path).train.num_steps == 3
    own = "from jaxpu.config import Config, PatchCNNConfig\nclass Mine(PatchCNNConfig): pass\nconfig = Config(model=Mine())\n"
    path.write_text(own)
    with pytest.raises(ConfigError, match=r"mine.py: its config cannot be stored .*Mine.*not classes derived from them"):
        load_config(path)
    path.write_text("config = 5\n")
    message = f"{path} must assign a jaxpu.config.Config to the name `config`; it holds int."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_config(path)
    path.write_text("settings = 5\n")
    with pytest.raises(ConfigError, match="it holds NoneType"):
        load_config(path)
