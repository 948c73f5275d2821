"""Training that starts with the parameters of another model."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.prepare import prepare
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.export import export
from jaxpu.config import (
    BandSplitRNNConfig,
    BootstrapConfig,
    Config,
    ConfigError,
    MixITConfig,
    ObjectiveConfig,
    PatchCNNConfig,
    PUConfig,
    SupervisedConfig,
    TrainConfig,
    UNetConfig,
)
from jaxpu.config.networks import ModelConfig
from jaxpu.config_files import load_config
from jaxpu.core.network import make_mask_fn
from jaxpu.training.initial import initial_state, keeps_positive
from jaxpu.training.loop import train

PATCH = PatchSpec(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=125, level="recording")
U_NET, CNN = UNetConfig(channels=(2, 3)), PatchCNNConfig(channels=3, blocks=0, normalization="batch", features="log")
RNN = BandSplitRNNConfig(bands=((1000.0, 4),), channels=4, repeats=1, hidden=4, mask_hidden=8)
RATIO = SupervisedConfig(loss="ratio_mask")


def make_config(model: ModelConfig, objective: ObjectiveConfig, init_from: Path | str = "", **settings: Any) -> Config:
    training = TrainConfig(num_steps=4, batch_size=8, learning_rate=1e-3, ema_decay=0.9, eval_every=2, init_from=str(init_from))
    data = DataConfig(patch=PATCH, activity_on="off", validation_share=0.4)
    return Config(data, model, objective, dataclasses.replace(training, **settings))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial")
    synthesize(folder / "songs", num_train=5, num_test=0, seconds=4.0, sample_rate=8000, num_workers=1, progress=False)
    config = make_config(U_NET, RATIO)
    return prepare(Musdb18HQ(folder / "songs"), config.data, folder / "data", num_workers=1, progress=False).directory


@pytest.fixture(scope="module")
def runs(data: Path) -> dict[str, Path]:
    """A supervised run of a few steps of each network."""
    networks = {"unet": U_NET, "cnn": CNN, "rnn": RNN}
    for name, model in networks.items():
        train(make_config(model, RATIO), data, data.parent / name, progress=False)
    return {name: data.parent / name for name in networks}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "objective"),
    [
        ("unet", U_NET, BootstrapConfig(remix_steps=0)),
        ("unet", U_NET, RATIO),
        ("cnn", CNN, BootstrapConfig(remix_steps=0)),
        ("cnn", CNN, PUConfig(mask="soft")),
        ("rnn", RNN, RATIO),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_first_step_has_the_masks_of_the_other_model(
    runs: dict[str, Path], name: str, model: ModelConfig, objective: ObjectiveConfig
) -> None:
    config = make_config(model, objective, runs[name])
    state, reasons = initial_state(config)
    assert reasons == ["initial parameters (supervised training)"]
    other = load_model(runs[name])
    rng = np.random.default_rng(1)
    stft = jnp.asarray(
        rng.standard_normal((2, 1, 20, PATCH.bins)) + 1j * rng.standard_normal((2, 1, 20, PATCH.bins)), jnp.complex64
    )
    expected = make_mask_fn(other.config)(other.variables, stft)
    for params in (state.params, state.ema_params):
        mask = make_mask_fn(config)({"params": params, "batch_stats": state.batch_stats}, stft)
        np.testing.assert_allclose(mask, expected, atol=1e-6)
    assert np.std(expected) > 1e-4


def test_objectives_differ_in_what_a_positive_logit_means() -> None:
    assert keeps_positive(make_config(U_NET, RATIO))
    assert not keeps_positive(make_config(U_NET, BootstrapConfig(remix_steps=0)))
    assert not keeps_positive(make_config(U_NET, PUConfig()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "objective", "message"),
    [
        ("unet", UNetConfig(channels=(2, 4)), RATIO, r"whose network is UNet.*\(2, 3\).*has UNet.*\(2, 4\)"),
        ("unet", U_NET, MixITConfig(), r"whose number of masks is 1; this config has 3"),
        ("rnn", RNN, BootstrapConfig(remix_steps=0), "Only those of the U-Net and the patch CNN can be negated"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    runs: dict[str, Path], name: str, model: ModelConfig, objective: ObjectiveConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        initial_state(make_config(model, objective, runs[name]))


@pytest.mark.parametrize("objective", [BootstrapConfig(remix_steps=0), BootstrapConfig(remix_steps=1), RATIO])
def test_the_masks_of_another_target_are_no_labels(objective: ObjectiveConfig) -> None:
    config = load_config("adapt")
    drums = dataclasses.replace(config.data, target=("drums",))
    wanted = dataclasses.replace(config, data=drums, objective=objective)
    if isinstance(objective, BootstrapConfig) and objective.remix_steps == 0:
        with pytest.raises(ConfigError, match=r"starter, which separates vocals; data.target is drums\. .*such as starter-drums"):
            initial_state(wanted)
        wanted = dataclasses.replace(wanted, train=dataclasses.replace(config.train, init_from="starter-drums"))
    initial_state(wanted)


@pytest.mark.slow
def test_a_run_tells_of_the_stems_of_its_start_and_resumes_without_it(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    start = shutil.copytree(runs["unet"], tmp_path / "start")
    config = make_config(U_NET, BootstrapConfig(remix_steps=0), start)
    whole = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=6))
    train(config, data, tmp_path / "run", progress=False)
    train(whole, data, tmp_path / "uninterrupted", progress=False)
    shutil.rmtree(start)
    train(whole, data, tmp_path / "run", progress=False)
    resumed, uninterrupted = (load_model(tmp_path / name, which="last") for name in ("run", "uninterrupted"))
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, uninterrupted.variables)
    assert resumed.info["uses_stems"] == ["initial parameters (supervised training)"]
    # The parameters are not random ones that were trained.
    random = dataclasses.replace(whole, train=dataclasses.replace(whole.train, init_from=""))
    train(random, data, tmp_path / "random", progress=False)
    kernels = [np.asarray(load_model(tmp_path / name).variables["params"]["first"]["kernel"]) for name in ("run", "random")]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    export(tmp_path / "run", tmp_path / "model.zip", licence="MIT", description="Noise of a test.")
    assert str(tmp_path) not in zipfile.ZipFile(tmp_path / "model.zip").read("model.json").decode()


@pytest.mark.slow
@pytest.mark.parametrize("select_by", ["si_sdr_improvement", "estimated_error", "last"])
def test_the_model_that_a_run_begins_with_is_among_its_checkpoints(
    runs: dict[str, Path], data: Path, tmp_path: Path, select_by: Any
) -> None:
    # With this learning rate the output is blank at once.
    settings = {"learning_rate": 30.0, "ema_decay": 0.01, "select_by": select_by}
    train(make_config(U_NET, BootstrapConfig(remix_steps=0), runs["unet"], **settings), data, tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line for line in lines if line["kind"] == "evaluate"}
    assert list(evaluations) == [0, 2, 4]
    chosen = load_model(tmp_path / "run")
    if select_by == "last":
        assert chosen.info["step"] == 4
    elif select_by == "estimated_error":
        # These few steps made a model that is worse than silence.
        assert evaluations[0]["estimated_error"] > 0.1
        assert chosen.info["step"] == min(evaluations, key=lambda step: evaluations[step]["estimated_error"])
    else:
        assert evaluations[0]["si_sdr_improvement"] > evaluations[4]["si_sdr_improvement"] + 50
        assert chosen.info["step"] == 0
        start, stft = load_model(runs["unet"]), jnp.ones((1, 1, 20, PATCH.bins), jnp.complex64)
        masks = [make_mask_fn(model.config)(model.variables, stft) for model in (chosen, start)]
        np.testing.assert_allclose(*masks, atol=1e-6)
