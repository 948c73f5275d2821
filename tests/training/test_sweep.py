"""Many runs at once: each is the run that it would be alone, killed or not."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Musdb18HQ
from jaxpu import parallel
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.cli.__main__ import main
from jaxpu.config import (
    BootstrapConfig,
    BrierPUConfig,
    Config,
    ConfigError,
    MixITConfig,
    PatchCNNConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
)
from jaxpu.config_files import from_json, to_json
from jaxpu.core.step import init_state
from jaxpu.training.grid import make_grid, parse_over
from jaxpu.training.loop import ASKED_TO_STOP, train
from jaxpu.training.run import Run, TrainingError
from jaxpu.training.sweep import sweep
from jaxpu.training.sweep_table import format_table, make_row

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
    train=TrainConfig(num_steps=24, batch_size=8, learning_rate=0.01, eval_every=8, eval_batches=2),
)
OVER = {"class_prior": (0.3, 0.9)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs of two seconds, tones and noise."""
    root = tmp_path_factory.mktemp("corpus")
    tone = np.sin(2 * np.pi * 600 * np.arange(2 * RATE) / RATE)
    for song in range(6):
        folder = root / "corpus" / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(song)
        stems = {name: 0.03 * rng.standard_normal(len(tone)) for name in STEMS[1:]} | {"vocals": 0.1 * tone}
        for name, samples in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(folder / f"{name}.wav", samples, RATE)
    prepare(Musdb18HQ(root / "corpus"), CONFIG.data, root / "data", num_workers=1, progress=False)
    return root / "data"


@pytest.fixture(scope="module")
def straight(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two values and two seeds in one program, without interruption."""
    directory = tmp_path_factory.mktemp("sweep")
    return directory, sweep(CONFIG, data_dir, directory, OVER, num_seeds=2, at_once=4, progress=False)


def change(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("clips_per_s", "data_wait")} for line in lines]


def last_state(config: Config, run_dir: Path) -> Any:
    with RunCheckpoints(run_dir) as checkpoints:
        return jax.device_get(checkpoints.restore(init_state(config))[0])


def assert_same_run(actual: Path, expected: Path, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Config, log, state and best variables; equal to the bit without tolerances."""
    config = from_json(json.loads((expected / "config.json").read_text()))
    assert (actual / "config.json").read_text() == (expected / "config.json").read_text()

    def close(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)

    lines, wanted = read_log(actual), read_log(expected)
    assert [(line["kind"], line["step"], *line) for line in lines] == [(line["kind"], line["step"], *line) for line in wanted]
    for line, want in zip(lines, wanted, strict=True):
        jax.tree.map(close, *({name: value for name, value in each.items() if name != "kind"} for each in (line, want)))
    jax.tree.map(close, last_state(config, actual), last_state(config, expected))
    jax.tree.map(close, load_model(actual).variables, load_model(expected).variables)


@pytest.mark.parametrize("point", ["class_prior=0.3,seed=0", "class_prior=0.9,seed=1"])
def test_each_run_equals_the_run_alone(
    straight: tuple[Path, list[dict[str, Any]]], data_dir: Path, tmp_path: Path, point: str
) -> None:
    """Alone on eight devices: what differs is rounding, which Adam magnifies, here to less than one of its steps."""
    config = from_json(json.loads((straight[0] / point / "config.json").read_text()))
    train(config, data_dir, tmp_path, progress=False)
    assert_same_run(straight[0] / point, tmp_path, rtol=1e-3, atol=5e-3)
    # Nothing else differs in what is stored: the same command finds a finished run, and its objective's numbers.
    assert train(config, data_dir, straight[0] / point, progress=False)["stopped"] == "all steps done"


def test_runs_differ_and_the_table_says_how(straight: tuple[Path, list[dict[str, Any]]]) -> None:
    directory, table = straight
    assert [(row["class_prior"], row["seed"]) for row in table] == [(0.3, 0), (0.9, 0), (0.3, 1), (0.9, 1)]
    assert len({row["held_out_loss"] for row in table}) == 4
    summary = json.loads((directory / "sweep.json").read_text())
    assert summary["runs"] == table
    assert summary["over"] == {name: list(values) for name, values in OVER.items()}
    assert summary["seeds"] == [0, 1]
    assert "SI-SDR improvement uses their stems" in summary["note"]
    assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(directory.glob("*.tmp*"))
    for row in table:
        model = load_model(directory / row["folder"])
        assert model.info["step"] == row["step"]
        assert -model.info["score"] == row["held_out_loss"]
        assert row["stopped"] == "all steps done"
        assert {"kept_energy", "true_kept_energy", "si_sdr_improvement"} <= row.keys()
    heading, first = format_table(table, OVER).splitlines()[:2]
    assert heading.split()[:5] == ["class_prior", "seed", "step", "held_out_loss", "estimated_error"]
    assert first.split()[:2] == ["0.3", "0"]


def test_a_table_has_seeds_steps_and_values_in_full() -> None:
    row = {"learning_rate": 0.0012345, "seed": 20261, "step": 12345, "held_out_loss": 0.123456, "stopped": "", "folder": ""}
    second = format_table([row], ["learning_rate"]).splitlines()[1]
    assert second.split() == ["0.0012345", "20261", "12345", "0.1235"]


SWEEP = """
import json, sys
from jaxpu.config_files import from_json
from jaxpu.training.sweep import sweep

config, over = from_json(json.loads(sys.argv[1])), json.loads(sys.argv[4])
sweep(config, sys.argv[2], sys.argv[3], over, num_seeds=2, at_once=4, progress=False)
"""


def test_kill_and_resume_equals_a_straight_sweep(
    straight: tuple[Path, list[dict[str, Any]]], data_dir: Path, tmp_path: Path
) -> None:
    arguments = [json.dumps(to_json(CONFIG)), data_dir, tmp_path, json.dumps(OVER)]
    process = subprocess.Popen([sys.executable, "-c", SWEEP, *arguments], env=os.environ, cwd=Path(__file__).parents[2])

    def saved(step: int) -> int:
        return len(list(tmp_path.glob(f"*/checkpoints/{step}/")))

    # In the middle of the second round of checkpoints: some runs are ahead of the others.
    while process.poll() is None and not saved(16):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 1 <= saved(16) < 4
    assert not (tmp_path / "sweep.json").exists()
    assert sweep(CONFIG, data_dir, tmp_path, OVER, num_seeds=2, at_once=4, progress=False) == straight[1]
    for row in straight[1]:
        assert_same_run(tmp_path / row["folder"], straight[0] / row["folder"])


def test_sigterm_saves_and_the_same_command_resumes(
    straight: tuple[Path, list[dict[str, Any]]], data_dir: Path, tmp_path: Path
) -> None:
    first, second = (tmp_path / f"class_prior={value},seed=0" for value in OVER["class_prior"])

    def ask() -> None:
        while not (first / "checkpoints" / "8").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    table = sweep(CONFIG, data_dir, tmp_path, OVER, at_once=1, progress=False)
    thread.join()
    assert table[0]["step"] >= 8
    assert table[1] == {"class_prior": 0.9, "seed": 0, "stopped": ASKED_TO_STOP, "folder": second.name}
    assert ASKED_TO_STOP in format_table(table, OVER)
    table = sweep(CONFIG, data_dir, tmp_path, OVER, at_once=1, progress=False)
    assert [row["stopped"] for row in table] == ["all steps done"] * 2
    for run_dir in (first, second):
        states = (last_state(CONFIG, root / run_dir.name) for root in (tmp_path, straight[0]))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=5e-3), *states)


def test_one_run_at_a_time_and_more_seeds_later(
    straight: tuple[Path, list[dict[str, Any]]], data_dir: Path, tmp_path: Path
) -> None:
    sweep(CONFIG, data_dir, tmp_path, OVER, progress=False)
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/*")}
    assert {path.parts[-3] for path in checkpoints} == {"class_prior=0.3,seed=0", "class_prior=0.9,seed=0"}
    sweep(CONFIG, data_dir, tmp_path, {"class_prior": (0.9,)}, num_seeds=2, progress=False)
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    for name in ("class_prior=0.3,seed=0", "class_prior=0.9,seed=1"):
        assert_same_run(tmp_path / name, straight[0] / name, rtol=1e-3, atol=5e-3)


def test_what_the_data_are_to_say_is_estimated_once_for_all_runs(data_dir: Path, tmp_path: Path) -> None:
    objective = RemixConfig(positive_gain_db="estimate", gain_db=3.0)
    config = change(dataclasses.replace(CONFIG, objective=objective), num_steps=2, eval_every=2)
    sweep(config, data_dir, tmp_path, {"gain_db": (0.0, 6.0)}, progress=False)
    estimate = json.loads((tmp_path / "estimates.json").read_text())["positive_gain_db"]["number"]
    for gain_db in (0.0, 6.0):
        ran = load_model(tmp_path / f"gain_db={gain_db},seed=0").config.objective
        assert ran == dataclasses.replace(objective, positive_gain_db=estimate, gain_db=gain_db)
    # Of data that were prepared again in the same folder, they are made anew.
    shutil.copytree(data_dir, tmp_path / "data")
    sweep(config, tmp_path / "data", tmp_path / "again", {"gain_db": (0.0,)}, progress=False)
    file = tmp_path / "again" / "estimates.json"
    written = json.loads(file.read_text())
    for gain_db, fingerprint, used in ((1.0, written["positive_gain_db"]["data_fingerprint"], 1.25), (2.0, "0" * 16, estimate)):
        stored = {"positive_gain_db": {**written["positive_gain_db"], "number": 1.25, "data_fingerprint": fingerprint}}
        file.write_text(json.dumps(stored))
        sweep(config, tmp_path / "data", tmp_path / "again", {"gain_db": (gain_db,)}, progress=False)
        assert load_model(tmp_path / "again" / f"gain_db={gain_db},seed=0").config.objective.positive_gain_db == used
    # So they are with other settings of the estimate.
    anew = change(config, disjoint_tracks=not config.train.disjoint_tracks)
    file.write_text(json.dumps({"positive_gain_db": {**written["positive_gain_db"], "number": 1.25}}))
    sweep(anew, tmp_path / "data", tmp_path / "again", {"gain_db": (3.0,)}, progress=False)
    assert load_model(tmp_path / "again" / "gain_db=3.0,seed=0").config.objective.positive_gain_db != 1.25
    # What is swept is not estimated.
    sweep(config, data_dir, tmp_path / "swept", {"positive_gain_db": (-1.0,)}, progress=False)
    assert not (tmp_path / "swept" / "estimates.json").exists()
    assert load_model(tmp_path / "swept" / "positive_gain_db=-1.0,seed=0").config.objective.positive_gain_db == -1


def test_runs_that_end_early_leave_the_others_alone(data_dir: Path, tmp_path: Path) -> None:
    """A rate of 1e30 is not finite after a step or two; one of 1e-30 never gets better."""
    config = change(CONFIG, num_steps=12, eval_every=4, patience=1)
    over = {"learning_rate": (1e30, 1e-30, 0.01)}
    table = sweep(config, data_dir, tmp_path / "sweep", over, at_once=3, progress=False)
    failed, patient, whole = table
    assert failed["stopped"].startswith("Step ")
    assert "train.learning_rate (now 1e+30)" in failed["stopped"]
    assert "step" not in failed
    assert patient["stopped"] == "no better checkpoint in 1 evaluations"
    assert [line["step"] for line in read_log(tmp_path / "sweep" / patient["folder"])] == [4, 4, 8, 8]
    assert "1e+30" in format_table(table, OVER)
    alone = change(config, learning_rate=0.01)
    assert train(alone, data_dir, tmp_path / "alone", progress=False)["stopped"] == whole["stopped"]
    assert_same_run(tmp_path / "sweep" / whole["folder"], tmp_path / "alone", rtol=1e-3, atol=5e-3)
    # A sweep that is stopped before it reaches a run knows what an earlier one did.
    (*_, point), *_ = make_grid(config, over, 1)
    assert make_row(point, None, tmp_path / "sweep") == whole
    # Nor does the same command go on with what has stopped.
    assert sweep(config, data_dir, tmp_path / "sweep", over, at_once=3, progress=False) == table


def test_an_initial_model_that_cannot_be_scored_leaves_the_other_runs_alone(data_dir: Path, tmp_path: Path) -> None:
    """Weights |x|^900 are not finite."""
    train(change(CONFIG, num_steps=2), data_dir, tmp_path / "first", progress=False)
    config = change(CONFIG, num_steps=4, eval_every=4, init_from=str(tmp_path / "first"))
    failed, whole = sweep(config, data_dir, tmp_path / "sweep", {"weight_exponent": (900.0, 1.0)}, progress=False)
    assert failed["stopped"].startswith("Evaluation after step 0: loss nan, held_out_loss nan. Before the first step")
    assert "step" not in failed
    assert whole["stopped"] == "all steps done"
    assert (tmp_path / "sweep" / "sweep.json").exists()


def test_a_run_has_no_score_where_its_target_plays_in_no_clip(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds draw other clips for validation: here, none in which the target plays for the second."""
    batches = Run.validation_batches

    def silenced(self: Run) -> Iterator[Any]:
        for batch, key in batches(self):
            yield batch | {"target": batch["target"] * (self.config.train.seed == 0)}, key

    monkeypatch.setattr(Run, "validation_batches", silenced)
    config = change(CONFIG, num_steps=2, eval_every=2)
    table = sweep(config, data_dir, tmp_path, {"gamma": (0.5,)}, num_seeds=2, at_once=2, progress=False)
    assert ["si_sdr_improvement" in row for row in table] == [True, False]


def test_a_sweep_without_any_score_names_no_run(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from jaxpu.config_files import from_json\nconfig = from_json({to_json(change(CONFIG, num_steps=8))!r})\n")
    command = ["sweep", str(path), "--prepared", str(data_dir), "--run", str(tmp_path / "sweep"), "--over"]
    assert main([*command, "learning_rate=1e30,1e29"]) == 1
    assert "No run has a score" in capsys.readouterr().out
    assert main([*command, "learning_rate=1e30,1e-3"]) == 0
    assert f"The run of the lowest estimated error: {tmp_path / 'sweep'}/learning_rate=0.001,seed=0" in capsys.readouterr().out


@pytest.mark.parametrize(("limit", "groups"), [(2**40, 1), (2**10, 4), (None, 4)])
def test_memory_decides_how_many_run_at_once(
    straight: tuple[Path, list[dict[str, Any]]],
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit: int | None,
    groups: int,
) -> None:
    monkeypatch.setattr(parallel, "memory_limit_bytes", lambda: limit)
    # All is done there already: the groups are only counted.
    assert sweep(CONFIG, data_dir, straight[0], OVER, num_seeds=2) == straight[1]
    assert f"group {groups} of {groups}, runs: {4 // groups}:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at_once", "told"),
    [(2, "of 2 runs at once. Add --at-once 1, and rerun"), (1, "of 8 clips at once. Add --train.clips-at-once 4: the batch")],
)
def test_too_little_memory_is_told_with_what_may_fit(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, told: str
) -> None:
    def step(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99999999999 bytes.")

    monkeypatch.setattr("jaxpu.training.sweep.make_group_steps", lambda *_: (step, step))
    with pytest.raises(TrainingError, match=f"^The device has too little memory for a training step {re.escape(told)}"):
        sweep(CONFIG, data_dir, tmp_path, OVER, at_once=at_once, progress=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class_prior=.4:.9:6", ("class_prior", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9))),
        ("weight-exponent=2:0:3", ("weight_exponent", (2.0, 1.0, 0.0))),
        ("gamma=0,.1,1", ("gamma", (0.0, 0.1, 1.0))),
        ("gamma=1", ("gamma", (1.0,))),
    ],
)
def test_values_of_an_option(text: str, expected: tuple[str, tuple[float, ...]]) -> None:
    assert parse_over(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "gamma",
        "gamma=",
        "gamma=0:1",
        "gamma=0:1:0",
        "gamma=0:1:1",
        "gamma=0:1:-1",
        "gamma=a,b",
        "gamma=nan",
        "gamma=0:inf:3",
        "gamma=0:1:100000000000",
    ],
)
def test_options_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--over is '{text}'; it must be NAME=START:STOP:COUNT or "):
        parse_over(text)


def test_the_grid() -> None:
    grid = make_grid(CONFIG, {"gamma": (0.5, 0.5, 1.0), "beta": (0.0,)}, 3)
    assert [[(point.values["gamma"], point.config.train.seed) for point in row] for row in grid] == [
        [(0.5, seed), (1.0, seed)] for seed in range(3)
    ]
    assert grid[2][1].name == "gamma=1.0,beta=0.0,seed=2"
    assert make_grid(CONFIG, {"learning_rate": (0.5,)}, 1)[0][0].config.train.learning_rate == 0.5
    # What has no effect with the config's value may have one with others.
    alone = Config(data=CONFIG.data, objective=BootstrapConfig(empty_share=0.0), train=TrainConfig(ema_decay=0.9))
    assert len(make_grid(alone, {"empty_share": (0.0, 0.5), "max_false_positive_ratio": (0.1,)}, 1)[0]) == 2
    # A class prior that is swept is not estimated.
    estimated = Config(data=CONFIG.data, objective=PUConfig(class_prior="estimate"))
    assert len(make_grid(estimated, {"class_prior": (0.5,), "weight_exponent": (0.0, 1.0)}, 1)[0]) == 2
    for over, seeds in (({"gamma": tuple(range(101)), "beta": tuple(range(100))}, 1), ({"gamma": (0.5,)}, 10**11)):
        with pytest.raises(ConfigError, match="a sweep has at most 10,000"):
            make_grid(CONFIG, over, seeds)


@pytest.mark.parametrize(
    ("objective", "over", "message"),
    [
        (PUConfig(), {"prior": (0.5,)}, "prior cannot be swept with PUConfig; it must be one of class_prior, beta, gamma, "),
        (BrierPUConfig(), {"gamma": (0.5,)}, "gamma cannot be swept with BrierPUConfig; .* class_prior, weight_exponent, learn"),
        (MixITConfig(), {"batch_size": (8.0,)}, "batch_size cannot be swept .* one of learning_rate"),
        (PUConfig(), {"class_prior": (0.5, 1.5)}, "PUConfig.class_prior is 1.5; it must be between 0 and 1"),
        (PUConfig(), {"learning_rate": (0.0,)}, "TrainConfig.learning_rate is 0.0; it must be positive"),
        (
            PUConfig(class_prior="estimate"),
            {"weight_exponent": (0.0, 1.0)},
            "class_prior is .estimate.: a sweep has one estimate",
        ),
        (
            SupervisedConfig(),
            {"gain_db": (0.0, 6.0)},
            r"gain_db has no effect where SupervisedConfig.remix_songs is False: .* Change remix_songs, or sweep another number",
        ),
        (PUConfig(estimator="absolute"), {"gamma": (0.0,)}, "gamma has no effect where PUConfig.estimator is 'absolute'"),
        (BootstrapConfig(empty_share=0.0), {"max_false_positive_ratio": (0.1,)}, "max_false_positive_ratio has no effect where"),
        (PUConfig(), {}, "Say what to sweep: --over NAME=START:STOP:COUNT"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(objective: Any, over: dict[str, Any], message: str) -> None:
    config = Config(data=CONFIG.data, objective=objective, train=TrainConfig(ema_decay=0.9))
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_grid(config, over, 1)


def test_gains_are_not_ranked_by_an_error_that_they_change(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(dataclasses.replace(CONFIG, objective=SupervisedConfig()), data_dir, "first", progress=False)
    config = dataclasses.replace(change(CONFIG, num_steps=2, init_from="first"), objective=RemixConfig())
    Path("gains.py").write_text(
        "import json\nfrom jaxpu.config_files import from_json\n"
        f"config = from_json(json.loads({json.dumps(to_json(config))!r}))\n"
    )
    assert main(["sweep", "gains.py", "--prepared", str(data_dir), "--over", "positive_gain_db=-40,0"]) == 0
    printed = capsys.readouterr().out
    assert "lowest estimated error" not in printed
    assert "measured with positives at each run's positive_gain_db" in printed
    summary = json.loads(Path("runs/sweep-gains/sweep.json").read_text())
    assert summary["uses_stems"] == ["initial parameters (supervised training)"]


def test_the_command(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.py").write_text(
        "import json\nfrom jaxpu.config_files import from_json\n"
        f"config = from_json(json.loads({json.dumps(to_json(CONFIG))!r}))\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "tiny.py", "--prepared", str(data_dir), "--train.num-steps", "2", "--objective.gamma", "0.5"]
    values = ["--over", "class-prior=.3:.4:2", "--over", "weight_exponent=1"]
    assert main([*command, *values, "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "class_prior  weight_exponent  seed  step" in printed
    assert "runs/sweep-tiny/sweep.png" in printed
    rows = json.loads(Path("runs/sweep-tiny/sweep.json").read_text())["runs"]
    best = min(rows, key=lambda row: float(row["estimated_error"]))["folder"]
    assert f"jaxpu separate runs/sweep-tiny/{best} RECORDING" in printed
    folder = Path("runs/sweep-tiny/class_prior=0.4,weight_exponent=1.0,seed=1")
    assert load_model(folder).config.objective == PUConfig(class_prior=0.4, gamma=0.5)
    # Other settings are refused in the same folder, and so are unreadable options.
    assert main([*command[:-1], "0.6", *values]) == 2
    assert "objective.gamma is 0.5 there and 0.6 here" in capsys.readouterr().err
    assert main([*command, "--over", "gamma=0", "--over", "gamma=1"]) == 2
    assert "twice: gamma=0, gamma=1" in capsys.readouterr().err
    assert main([*command, "--over", "gamma=0", "--seeds", "0"]) == 2
    assert "--seeds is 0" in capsys.readouterr().err
