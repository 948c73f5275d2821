"""Checkpoints: what is kept, what is refused, and what a kill leaves behind."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpu.artifacts.checkpoints import CheckpointError, RunCheckpoints, load_model
from jaxpu.config import Config, RemixConfig, TrainConfig

CONFIG = Config(objective=RemixConfig(gain_db=3.0), train=TrainConfig(gradient_clip=1.0, seed=7))


def make_state(step: int, size: int = 5) -> dict[str, Any]:
    return {"step": jnp.int32(step), "params": {"kernel": jnp.full((2, size), step, jnp.float32)}, "empty": {}}


def make_info(step: int, score: float) -> dict[str, Any]:
    info = {"step": step, "score": score, "select_by": "last", "uses_stems": [], "data_fingerprint": "0"}
    return info | {"best_score": score, "evaluations_since_best": 0, "results": {}}


def save(checkpoints: RunCheckpoints, step: int, score: float) -> None:
    variables = {"params": {"kernel": jnp.full((2, 5), 100 + step, jnp.float32)}, "batch_stats": {}}
    info = make_info(step, score)
    checkpoints.save(step, state=make_state(step), variables=variables, score=score, config=CONFIG, info=info)


def stored_steps(run_dir: Path) -> list[int]:
    return sorted(int(path.name) for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit())


def test_last_and_best_are_kept_and_come_back_as_they_were(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        for step, score in ((10, -3.0), (20, -1.0), (30, -2.0), (40, -1.5)):
            save(checkpoints, step, score)
        assert checkpoints.latest_step == 40
    assert stored_steps(tmp_path) == [20, 40]
    with pytest.raises(ValueError, match="which is 'latest'; it must be 'best' or 'last'"):
        load_model(tmp_path, which="latest")
    for which, step in (("best", 20), ("last", 40)):
        model = load_model(tmp_path, which=which)
        assert model.config == CONFIG
        assert model.info["step"] == step
        assert set(model.variables) == {"params", "batch_stats"}
        kernel = model.variables["params"]["kernel"]
        assert kernel.dtype == jnp.float32
        np.testing.assert_array_equal(kernel, np.full((2, 5), 100 + step))
    assert load_model(str(tmp_path)).info["step"] == 20

    # Another process goes on from the last one.
    with RunCheckpoints(tmp_path) as checkpoints:
        state, record = checkpoints.restore(make_state(0))
        info = record["info"]
        assert (info["step"], info["score"]) == (40, -1.5)
        assert int(state["step"]) == 40
        assert state["empty"] == {}
        np.testing.assert_array_equal(state["params"]["kernel"], np.full((2, 5), 40))

        begins = f"The checkpoint of step 40 in {tmp_path / 'checkpoints'} does not fit this config: params/"
        ends = "Use another run directory, or the config that the run was started with."
        for params, difference in (
            ({"kernel": jnp.zeros((2, 6))}, "kernel has shape (2, 5) there and (2, 6) here (1 arrays differ). "),
            ({"kernel": jnp.zeros((2, 5)), "bias": jnp.zeros(5)}, "bias has shape None there and (5,) here (1 arrays differ). "),
        ):
            with pytest.raises(CheckpointError) as caught:
                checkpoints.restore(make_state(0) | {"params": params})
            assert str(caught.value) == begins + difference + ends

        # A better one takes the place of both.
        save(checkpoints, 50, 0.5)
        assert checkpoints.latest_step == 50
    assert stored_steps(tmp_path) == [50]


def test_a_removal_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    """Orbax removes file by file: a kill in between leaves a folder with a step's name and without its score."""
    with RunCheckpoints(tmp_path) as checkpoints:
        for step, score in ((10, -3.0), (20, -1.0), (30, -2.0)):
            save(checkpoints, step, score)
        stale = tmp_path / "checkpoints" / "15"
        shutil.copytree(tmp_path / "checkpoints" / "30", stale)
    shutil.rmtree(stale / "metrics")
    shutil.rmtree(stale / "state")
    (stale / "_CHECKPOINT_METADATA").unlink()
    assert load_model(tmp_path).info["step"] == 20
    assert load_model(tmp_path, which="last").info["step"] == 30
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 30
        save(checkpoints, 40, 0.0)
    assert load_model(tmp_path).info["step"] == 40
    assert stored_steps(tmp_path) == [40]


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path) as checkpoints:
        for step, score in ((10, -3.0), (20, math.nan), (30, -4.0)):
            save(checkpoints, step, score)
    assert stored_steps(tmp_path) == [10, 30]
    assert load_model(tmp_path).info["step"] == 10


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "jaxpu train" in str(caught.value)
    (tmp_path / os.fsdecode(b"r\xe9") / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="UTF-8"):
        load_model(tmp_path / os.fsdecode(b"r\xe9"))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        load_model(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    variables = {
        "params": {"good": jnp.zeros(3), "kernel": jnp.zeros((2, 5)).at[1, 2].set(value)},
        "batch_stats": {"steps": jnp.int32(1)},
    }
    with RunCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=make_state(1), variables=variables, score=0.0, config=CONFIG, info=make_info(1, 0.0))
    with pytest.raises(CheckpointError, match=r"NaN or infinite, in 1 of 3 arrays, first in params/kernel") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


SAVE_FOREVER = """
    import os, signal, sys

    import jax.numpy as jnp

    from jaxpu.artifacts.checkpoints import RunCheckpoints
    from jaxpu.config import Config

    INFO = {"select_by": "last", "score": 0.0, "uses_stems": [], "data_fingerprint": "0"}

    def save_forever(run_dir):
        with RunCheckpoints(run_dir) as checkpoints:
            step = checkpoints.latest_step or 0
            while True:
                step += 1
                arrays = {f"layer_{number}": jnp.full((64, 1024), step, jnp.float32) for number in range(8)}
                print("begins", step, flush=True)
                checkpoints.save(
                    step, state=arrays, variables=arrays, score=-abs(step - 2.0), config=Config(), info=INFO | {"step": step}
                )
                print("saved", step, flush=True)

    # Every line of input starts a process that saves until it is killed; importing takes longer than all of them together.
    for run_dir in sys.stdin:
        child = os.fork()
        if child == 0:
            save_forever(run_dir.strip())
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("dead", child, flush=True)
"""


@pytest.mark.timeout(120)
def test_kill_in_the_middle_of_a_save_leaves_the_one_before(tmp_path: Path) -> None:
    chance = random.Random(0)
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONWARNINGS": "ignore"}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVE_FOREVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    in_the_middle = 0
    saved = 0
    try:
        for _ in range(6):
            parent.stdin.write(f"{tmp_path}\n")
            parent.stdin.flush()
            pid, saves_here, duration, begun_at = 0, 0, 0.0, 0.0
            for line in parent.stdout:
                word, number = line.split()
                if word == "pid":
                    pid = int(number)
                elif word == "begins":
                    begun_at = time.perf_counter()
                    if saves_here:
                        # Within the time that the save before took.
                        time.sleep(chance.uniform(0, duration))
                        os.kill(pid, signal.SIGKILL)
                        break
                elif word == "saved":
                    saves_here += 1
                    saved = int(number)
                    duration = time.perf_counter() - begun_at
            lines = [line.split() for line in iter(parent.stdout.readline, f"dead {pid}\n")]
            # Whatever it had said to be saved is there, or something newer.
            saved = max([saved, *(int(number) for word, number in lines if word == "saved")])
            begun = max([saved + 1, *(int(number) for word, number in lines if word == "begins")])
            temporary = [path.name for path in (tmp_path / "checkpoints").iterdir() if not path.name.isdigit()]
            in_the_middle += bool(temporary)
            model = load_model(tmp_path, which="last")
            assert saved <= model.info["step"] <= begun
            # Nothing of it is from another step.
            for array in model.variables.values():
                np.testing.assert_array_equal(array, np.full((64, 1024), model.info["step"], np.float32))
            # The score is highest at step 2.
            assert load_model(tmp_path).info["step"] == min(model.info["step"], 2)
    finally:
        parent.stdin.close()
        parent.wait(timeout=30)
        parent.stdout.close()
    assert in_the_middle > 0, "no kill came in the middle of a save; the test shows nothing"
    # The next run clears away what was unfinished, and goes on.
    with RunCheckpoints(tmp_path) as checkpoints:
        save(checkpoints, saved + 10, -100.0)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {str(saved + 10), "2"}
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if "tmp" in path.name]
