"""The folder of a run: one training at a time, more steps later, disks that refuse data, and data without clips."""

import contextlib
import dataclasses
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError, WriteError
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.cli.__main__ import main
from jaxpu.config import Config, ConfigError, PatchCNNConfig, PUConfig, RemixConfig, TrainConfig
from jaxpu.config_files import from_json, to_json
from jaxpu.core.step import init_state
from jaxpu.training.grid import Point
from jaxpu.training.loop import train
from jaxpu.training.run import TrainingError, mean_results, open_data, open_run
from jaxpu.training.sweep import sweep
from jaxpu.training.sweep_table import make_row

pytestmark = pytest.mark.slow

RATE = 8000
CONFIG = Config(
    data=DataConfig(
        patch=PatchSpec(sample_rate=RATE, clip_samples=512, n_fft=64, win_length=64, hop_length=32),
        activity_on="off",
        validation_share=0.3,
    ),
    model=PatchCNNConfig(channels=2, blocks=0, features="log", dropout_rate=0.1),
    objective=PUConfig(),
    train=TrainConfig(num_steps=4, batch_size=8, learning_rate=0.01, warmup_steps=2, eval_every=2, eval_batches=1),
)


def change(config: Config = CONFIG, **settings: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


def folders(root: Path, seconds: float = 4.0) -> Folders:
    """One recording with the target, one without it."""
    for number, role in enumerate(("with", "without")):
        (root / role).mkdir(parents=True)
        signal_ = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(root / role / "long.flac", signal_, RATE)
    return Folders(root / "with", root / "without")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare(folders(root), CONFIG.data, root / "data", num_workers=1, progress=False)
    return root / "data"


def last_state(config: Config, run_dir: Path) -> Any:
    with RunCheckpoints(run_dir) as checkpoints:
        return jax.device_get(checkpoints.restore(init_state(config))[0])


def stored_config(run_dir: Path) -> Config:
    return from_json(json.loads((run_dir / "config.json").read_text()))


# The data of a run


@pytest.fixture
def prepared_again(data_dir: Path, tmp_path: Path) -> Path:
    """The same data, prepared from copies of the recordings: other times of change, so another fingerprint."""
    copy = shutil.copytree(data_dir, tmp_path / "again")
    info = json.loads((copy / "jaxpu.json").read_text())
    (copy / "jaxpu.json").write_text(json.dumps(info | {"fingerprint": "0123456789abcdef"}))
    return copy


def test_a_run_goes_on_with_copies_of_its_recordings(data_dir: Path, prepared_again: Path, tmp_path: Path) -> None:
    config = change(schedule="constant", warmup_steps=0)
    train(config, data_dir, tmp_path / "run", progress=False)
    train(change(config, num_steps=6), prepared_again, tmp_path / "run", progress=False)
    assert load_model(tmp_path / "run", which="last").info["step"] == 6


def test_a_run_does_not_go_on_with_other_recordings(data_dir: Path, tmp_path: Path) -> None:
    train(CONFIG, data_dir, tmp_path / "run", progress=False)
    other = prepare(folders(tmp_path / "songs", 5.0), CONFIG.data, tmp_path / "data", num_workers=1, progress=False).directory
    for config in (CONFIG, change(eval_every=1)):  # A run that is finished, too.
        with pytest.raises(TrainingError, match=r"run: its steps so far .* other recordings or marks .*data\. .*--run"):
            train(config, other, tmp_path / "run", progress=False)
    # What was refused is not kept as the config of the run.
    assert from_json(json.loads((tmp_path / "run" / "config.json").read_text())) == CONFIG
    train(CONFIG, data_dir, tmp_path / "run", progress=False)


def test_estimates_of_a_run_without_steps_are_made_anew(data_dir: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, objective=RemixConfig(positive_gain_db="estimate"))
    source = folders(tmp_path / "songs")
    path = tmp_path / "songs" / "without" / "long.flac"
    soundfile.write(path, np.cumsum(soundfile.read(path)[0]) / 50, RATE)
    other = prepare(source, CONFIG.data, tmp_path / "data", num_workers=1, progress=False).directory
    gains = []
    for directory, name in ((data_dir, "run"), (other, "run"), (other, "other")):
        with open_run(config, open_data(config, directory), tmp_path / name, progress=False) as run:
            assert isinstance(run.config.objective, RemixConfig)
            gains.append(run.config.objective.positive_gain_db)
    assert gains[0] != gains[1] == gains[2]


@pytest.mark.filterwarnings("ignore:.*encountered")
def test_an_estimate_that_is_no_number_is_refused(data_dir: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, objective=PUConfig(class_prior="estimate", weight_exponent=1000.0))
    with pytest.raises(ConfigError, match=r"class_prior cannot be estimated .* lower objective.weight_exponent \(now 1000\)"):
        train(config, data_dir, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "estimates.json").exists()


# One training at a time


def test_a_second_training_in_a_folder_is_refused(data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with open_run(CONFIG, open_data(CONFIG, data_dir), run_dir, progress=False):
        temporary = run_dir / "checkpoints" / "2.orbax-checkpoint-tmp"  # As of a save that the first one is in.
        temporary.mkdir()
        with pytest.raises(TrainingError, match=rf"^{re.escape(str(run_dir))}: another process is training"):
            train(CONFIG, data_dir, run_dir, progress=False)
        assert temporary.is_dir()
        with pytest.raises(TrainingError, match=re.escape(str(run_dir))):
            sweep(CONFIG, data_dir, run_dir, {"class_prior": (0.5,)}, progress=False)
        shutil.rmtree(temporary)
    assert train(CONFIG, data_dir, run_dir, progress=False)["step"] == 4


HOLD = """
import sys, time
from pathlib import Path
from data_pipeline.errors import DataError
from data_pipeline.files import locked
with locked(Path(sys.argv[1]), DataError("busy")):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock_and_a_model_can_be_used_meanwhile(data_dir: Path, tmp_path: Path) -> None:
    train(CONFIG, data_dir, tmp_path, progress=False)
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(TrainingError, match=re.escape(str(tmp_path))):
            train(CONFIG, data_dir, tmp_path, progress=False)
        assert load_model(tmp_path).info["step"] in (2, 4)
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert train(CONFIG, data_dir, tmp_path, progress=False)["step"] == 4


# More steps


def test_more_steps_under_a_constant_rate_equal_a_straight_run(data_dir: Path, tmp_path: Path) -> None:
    straight = change(num_steps=8)
    train(straight, data_dir, tmp_path / "straight", progress=False)
    train(CONFIG, data_dir, tmp_path / "further", progress=False)
    assert train(straight, data_dir, tmp_path / "further", progress=False)["step"] == 8
    jax.tree.map(np.testing.assert_array_equal, *(last_state(straight, tmp_path / name) for name in ("further", "straight")))
    assert stored_config(tmp_path / "further") == straight
    assert load_model(tmp_path / "further").config == straight
    with pytest.raises(ConfigError, match=r"train\.num_steps is 8 there and 4 here"):
        train(CONFIG, data_dir, tmp_path / "further", progress=False)
    with pytest.raises(ConfigError, match=r"train\.learning_rate is 0\.01 there and 0\.02 here"):
        train(change(num_steps=10, learning_rate=0.02), data_dir, tmp_path / "further", progress=False)
    assert stored_config(tmp_path / "further") == straight


def test_more_steps_under_a_cosine_schedule_are_refused_with_the_reason(data_dir: Path, tmp_path: Path) -> None:
    train(change(schedule="cosine"), data_dir, tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"train\.num_steps is 4 there and 8 here\. The cosine schedule depends on train\.num"):
        train(change(schedule="cosine", num_steps=8), data_dir, tmp_path, progress=False)
    assert stored_config(tmp_path).train.num_steps == 4


def test_settings_of_evaluation_and_memory_may_change(data_dir: Path, tmp_path: Path) -> None:
    train(change(patience=1, eval_every=1, learning_rate=0.3), data_dir, tmp_path, progress=False)
    stopped = load_model(tmp_path, which="last").info
    again = change(eval_every=4, on_blank="stop", learning_rate=0.3, clips_at_once=4)
    assert train(again, data_dir, tmp_path, progress=False)["step"] == 4
    assert stored_config(tmp_path) == again
    if stopped["step"] < 4:  # Patience no longer ends it.
        assert load_model(tmp_path, which="last").info["step"] == 4


def test_scores_of_one_run_are_of_as_many_batches(data_dir: Path, tmp_path: Path) -> None:
    """More batches may change while no checkpoint is chosen by their scores."""
    train(CONFIG, data_dir, tmp_path / "scored", progress=False)
    with pytest.raises(ConfigError, match=r"train\.eval_batches is 1 there and 2 here"):
        train(change(eval_batches=2), data_dir, tmp_path / "scored", progress=False)
    last = change(select_by="last", schedule="constant", warmup_steps=0)
    train(last, data_dir, tmp_path / "last", progress=False)
    assert train(change(last, eval_batches=2, num_steps=6), data_dir, tmp_path / "last", progress=False)["step"] == 6


def test_a_run_whose_config_is_lost_goes_on_with_the_same_alone(data_dir: Path, tmp_path: Path) -> None:
    train(change(schedule="constant", warmup_steps=0), data_dir, tmp_path, progress=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"belongs to a run with another config: train\.learning_rate is 0\.01 there"):
        train(change(schedule="constant", warmup_steps=0, learning_rate=0.02, num_steps=8), data_dir, tmp_path, progress=False)
    assert not (tmp_path / "config.json").exists()
    assert train(change(schedule="constant", warmup_steps=0, num_steps=8), data_dir, tmp_path, progress=False)["step"] == 8


def test_the_checkpoint_of_an_interruption_is_neither_the_best_nor_counted(data_dir: Path, tmp_path: Path) -> None:
    config = change(patience=2)
    with open_run(config, open_data(config, data_dir), tmp_path, progress=False) as run:
        state, _ = run.start()
        assert run.note_evaluation(1, state, {"loss": 9.0}, None, scheduled=False) is None
    assert load_model(tmp_path).info["step"] == 1, "the only one"
    with open_run(config, open_data(config, data_dir), tmp_path, progress=False) as run:
        state, _ = run.start()
        assert run.note_evaluation(2, state, {"loss": 1.0}, None, scheduled=True) is None
        for step, loss in ((3, 2.0), (4, 0.5), (5, 2.0)):
            assert run.note_evaluation(step, state, {"loss": loss}, None, scheduled=False) is None
        assert run.best_score == -1.0
    assert (load_model(tmp_path).info["step"], load_model(tmp_path, which="last").info["step"]) == (2, 5)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "seed=0").symlink_to(tmp_path)
    row = make_row(Point({}, config), None, tmp_path / "sweep")
    assert (row["step"], row["held_out_loss"]) == (2, 1.0)
    with open_run(config, open_data(config, data_dir), tmp_path, progress=False) as run:
        state, stopped = run.start()
        assert stopped is None
        assert run.note_evaluation(6, state, {"loss": 1.5}, None, scheduled=True) is None
        assert run.note_evaluation(8, state, {"loss": 1.2}, None, scheduled=True) == "no better checkpoint in 2 evaluations"


def test_settings_without_effect_are_said(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = change(num_steps=4, warmup_steps=4)
    open_data(dataclasses.replace(config, objective=PUConfig(estimator="unbiased", gamma=0.5)), data_dir)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "Warning: train.warmup_steps is 4 and train.num_steps 4: the learning rate never reaches train.learning_rate = 0.01. "
        "Lower the warm-up, or raise the number of steps.",
        "Warning: objective.gamma is 0.5, which has no effect where objective.estimator is 'unbiased'. Leave it out, or change "
        "estimator.",
    ]
    open_data(change(), data_dir)
    assert "Warning: train" not in capsys.readouterr().err


def test_patience_needs_a_score_that_can_stay(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig.patience is 1; it must be 0 where select_by is last"):
        train(change(patience=1, select_by="last"), data_dir, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_results_are_means_over_clips_and_bins() -> None:
    """As if all batches were one, however the clips in which the target plays fall into them."""
    first = {"loss": 1.0, "si_sdr_improvement": 6.0, "audible_clips": 3.0, "kept_energy": 0.5, "input_energy": 1.0}
    second = {"loss": 3.0, "si_sdr_improvement": 0.0, "audible_clips": 0.0, "kept_energy": 0.1, "input_energy": 3.0}
    assert mean_results([first, second]) == {
        "loss": 2.0, "si_sdr_improvement": 6.0, "kept_energy": pytest.approx(0.2), "input_energy": 2.0
    }  # fmt: skip
    assert "si_sdr_improvement" not in mean_results([second])


def test_nothing_to_score_is_said(data_dir: Path, tmp_path: Path) -> None:
    config = change(select_by="si_sdr_improvement")
    with open_run(config, PatchDataset.open(data_dir), tmp_path, progress=False) as run:
        state, _ = run.start()
        with pytest.raises(TrainingError, match=r"plays in no clip of the validation batches.*train\.select_by"):
            run.note_evaluation(2, state, {"loss": 1.0}, None, scheduled=True)


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path, leaving: int) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(free - leaving, 0)))


def test_a_full_disk_is_named_with_the_checkpoint_that_is_kept(
    data_dir: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = small_disk / "run"
    train(CONFIG, data_dir, run_dir, progress=False)
    before = last_state(CONFIG, run_dir)
    fill(small_disk, leaving=40_000)
    capfd.readouterr()
    with pytest.raises(WriteError) as caught:
        train(change(num_steps=8), data_dir, run_dir, progress=False)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert f"{run_dir}/checkpoints: cannot be written (No space left on device)" in str(caught.value)
    assert "step 4 is kept" in str(caught.value)
    assert not list((run_dir / "checkpoints").glob("*tmp*"))
    jax.tree.map(np.testing.assert_array_equal, last_state(CONFIG, run_dir), before)
    # With some space the same command ends as if nothing had happened.
    (small_disk / "filler").unlink()
    assert train(change(num_steps=8), data_dir, run_dir, progress=False)["step"] == 8


@pytest.mark.parametrize("part", ["config.json", "metrics.jsonl"])
def test_other_files_of_a_run_on_a_full_disk(data_dir: Path, small_disk: Path, part: str) -> None:
    run_dir = small_disk / "run"
    if part == "config.json":
        fill(small_disk, leaving=0)
    else:
        train(change(num_steps=2), data_dir, run_dir, progress=False)
        log = run_dir / "metrics.jsonl"
        log.write_text(log.read_text().replace('"step": 2', '"step":' + 5000 * " " + "2"))
        config = json.dumps(to_json(change(num_steps=3)), indent=2)
        (run_dir / "config.json").write_text(config)
        fill(small_disk, leaving=0)
    with pytest.raises(WriteError, match=r"run/?.*: cannot be written \(No space left on device\)"):
        train(change(num_steps=3), data_dir, run_dir, progress=False)
    (small_disk / "filler").unlink()
    assert train(change(num_steps=3), data_dir, run_dir, progress=False)["step"] == 3


@contextlib.contextmanager
def limited_files(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_line_that_the_disk_refuses(data_dir: Path, tmp_path: Path) -> None:
    with open_run(CONFIG, open_data(CONFIG, data_dir), tmp_path, progress=False) as run:
        state, _ = run.start()
        names = ("loss", "gradient_norm", "kept_energy", "unlabeled_energy", "positive_energy")
        values = [dict.fromkeys(names, 1.0)]
        run.note_steps(1, values, {})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with limited_files(size + 10), pytest.raises(WriteError, match=r"metrics\.jsonl.*File too large.*no checkpoint yet"):
            run.note_steps(2, values, {})
        del state


def test_a_folder_that_is_removed_while_training_is_not_made_again(data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with open_run(CONFIG, open_data(CONFIG, data_dir), run_dir, progress=False) as run:
        state, _ = run.start()
        shutil.rmtree(run_dir)
        with pytest.raises(WriteError, match=rf"{re.escape(str(run_dir))}.*no longer exists"):
            run.note_evaluation(2, state, {"loss": 1.0}, None, scheduled=True)
    assert not run_dir.exists()


def test_the_command_says_it_in_one_sentence(data_dir: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = small_disk / "run"
    config = small_disk.parent / "config.py"
    config.write_text(
        "import json\nfrom jaxpu.config_files import from_json\n"
        f"config = from_json(json.loads({json.dumps(to_json(CONFIG))!r}))\n"
    )
    fill(small_disk, leaving=60_000)
    assert main([*map(str, ("train", config, "--prepared", data_dir, "--run", run_dir))]) == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    (said,) = [line for line in errors.splitlines() if "jaxpu:" in line]
    assert str(run_dir) in said
    assert "No space left on device" in said
    assert len(errors.splitlines()) < 8, errors


# Data without clips


def test_data_that_cannot_give_a_batch_are_refused_before_the_first_step(tmp_path: Path) -> None:
    song = tmp_path / "corpus" / "train"
    for number in range(3):
        (song / f"Song {number}").mkdir(parents=True)
        stems = {name: 0.1 * np.random.default_rng([number, *name.encode()]).standard_normal(RATE) for name in STEMS}
        for name, samples in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(song / f"Song {number}" / f"{name}.wav", samples, RATE, "FLOAT")
    prepare(Musdb18HQ(tmp_path / "corpus"), CONFIG.data, tmp_path / "data", num_workers=1, progress=False)
    # One song for validation, so one of its halves is empty.
    with pytest.raises(DataError, match=r"disjoint_tracks divides its tracks has no active positive clips in validation"):
        train(CONFIG, tmp_path / "data", tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"disjoint_tracks"):
        sweep(CONFIG, tmp_path / "data", tmp_path / "sweep", {"class_prior": (0.5,)}, progress=False)
    assert train(change(disjoint_tracks=False), tmp_path / "data", tmp_path / "run", progress=False)["step"] == 4


def test_a_batch_larger_than_the_split_is_said(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_data(change(batch_size=800), data_dir)
    assert re.search(r"the training split has \d+ unlabeled clips and \d+ positive clips, fewer", capsys.readouterr().err)
    for objective in (PUConfig(), PUConfig(class_prior="estimate"), RemixConfig(positive_gain_db="estimate")):
        open_data(dataclasses.replace(CONFIG, objective=objective), data_dir)
    assert capsys.readouterr().err == ""
