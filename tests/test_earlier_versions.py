"""Runs and archives of earlier versions still load, separate and resume.

tests/data/earlier_run was stopped after 4 of its 8 steps by the version before objectives had states of their own;
earlier_model.zip is its export, and earlier_run_resumed.json what that version logged when it resumed the run.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.prepare import prepare
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18HQ
from jaxpu import load_model, separate_waveform
from jaxpu.artifacts.checkpoints import RunCheckpoints
from jaxpu.config import BootstrapConfig, Config, ConfigError, TrainConfig
from jaxpu.config_files import from_json, to_json
from jaxpu.core.step import init_state
from jaxpu.monitoring.run_log import read_log
from jaxpu.training.loop import train

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["earlier_run", "earlier_model.zip"])
def test_an_earlier_model_separates_as_it_did(name: str) -> None:
    mixture = (0.1 * np.random.default_rng(0).standard_normal((2, 16_000))).astype(np.float32)
    target = separate_waveform(load_model(DATA / name), mixture, 8000)
    np.testing.assert_allclose(target, np.load(DATA / "earlier_target.npy"), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_earlier_run_resumes_with_the_same_losses(tmp_path: Path) -> None:
    corpus = synthesize(tmp_path / "corpus", num_train=4, num_test=1, seconds=6.0, sample_rate=8000, num_workers=1)
    run = tmp_path / "run"
    shutil.copytree(DATA / "earlier_run", run)
    config = from_json(json.loads((run / "config.json").read_text()))
    prepare(Musdb18HQ(corpus), config.data, tmp_path / "data", num_workers=1, progress=False)
    assert train(config, tmp_path / "data", run, progress=False)["step"] == 8
    resumed = [line for line in read_log(run) if line["step"] > 4]
    expected = json.loads((DATA / "earlier_run_resumed.json").read_text())
    assert len(resumed) == len(expected)
    for line, earlier in zip(resumed, expected, strict=True):
        assert line["kind"] == earlier["kind"]
        assert [line["loss"], line["kept_energy"]] == pytest.approx([earlier["loss"], earlier["kept_energy"]], rel=1e-3)


def test_a_removed_field_loads_where_it_holds_its_default_and_is_refused_elsewhere() -> None:
    config = Config(objective=BootstrapConfig(remix_steps=1), train=TrainConfig(ema_decay=0.9))
    stored = to_json(config)
    stored["objective"] |= {"teacher": "average", "round_steps": 1000}
    assert from_json(stored) == config
    stored["objective"]["teacher"] = "round"
    with pytest.raises(ConfigError, match=r"BootstrapConfig\.teacher = 'round'"):
        from_json(stored)


def test_a_renamed_field_loads() -> None:
    config = Config(objective=BootstrapConfig(max_false_positive_ratio=0.3), train=TrainConfig(ema_decay=0.9))
    stored = to_json(config)
    stored["objective"]["trusted_leak"] = stored["objective"].pop("max_false_positive_ratio")
    assert from_json(stored) == config


def test_a_state_with_a_hyperparameter_that_was_renamed_is_restored(tmp_path: Path) -> None:
    config = Config(objective=BootstrapConfig(max_false_positive_ratio=0.3), train=TrainConfig(ema_decay=0.9))
    state = init_state(config)
    earlier = dict(state.hyperparameters)
    earlier["trusted_leak"] = earlier.pop("max_false_positive_ratio")
    info = {"step": 0, "score": 0.0, "select_by": "last", "uses_stems": [], "data_fingerprint": "0", "best_score": 0.0}
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(
            0,
            state=dataclasses.replace(state, hyperparameters=earlier),
            variables={"params": state.params, "batch_stats": state.batch_stats},
            score=0.0,
            config=config,
            info=info | {"evaluations_since_best": 0, "results": {}},
        )
        restored, _ = checkpoints.restore(state)
    assert restored.hyperparameters["max_false_positive_ratio"] == np.float32(0.3)
    assert restored.hyperparameters.keys() == state.hyperparameters.keys()
