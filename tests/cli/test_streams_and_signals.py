"""The program as the system treats it: stopped at any moment, with closed streams, and with names that are no text."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.artifacts.checkpoints import RunCheckpoints
from jaxpu.config import Config, PatchCNNConfig, SupervisedConfig
from jaxpu.core.network import variable_shapes

RATE = 8000
LATIN1 = os.fsdecode(b"caf\xe9")
JAXPU = [sys.executable, "-m", "jaxpu"]
PATCH = PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, level="reference")
SETTINGS = [
    *("--data.patch.n-fft", "256", "--data.patch.win-length", "256", "--data.patch.hop-length", "128"),
    *("--data.patch.sample-rate", "8000", "--data.patch.clip-samples", "4000", "--data.activity-on", "off"),
]


def write(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(os.fsencode(path), samples, RATE, format="WAV")
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network was not trained."""
    config = Config(
        data=DataConfig(patch=PATCH), model=PatchCNNConfig(channels=2, growth=1, blocks=1), objective=SupervisedConfig()
    )
    variables = jax.tree.map(lambda shape: jnp.full(shape.shape, 0.1, shape.dtype), variable_shapes(config))
    path = tmp_path_factory.mktemp("run") / "run"
    with RunCheckpoints(path) as checkpoints:
        checkpoints.save(1, state={"step": np.zeros(())}, variables=variables, score=0.0, config=config, info={})
    return path


def start(*args: object, cwd: Path, through: str = "", signals: str = "default", **options: object) -> "subprocess.Popen[str]":
    """Start jaxpu in a process group of its own, with SIGINT and SIGHUP set to `default` or `ignore`.

    The background of a shell, in which tests may run, ignores SIGINT, and so do its children.  `through` is the end of a line of
    the shell.
    """
    words = ["env", f"--{signals}-signal=INT,HUP", *JAXPU, *map(str, args)]
    line = ["bash", "-c", f"exec {shlex.join(words)} {through}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "surrogateescape", **options}
    return subprocess.Popen(line, cwd=cwd, start_new_session=True, **pipes)  # type: ignore[call-overload]


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err, err
    assert "Exception ignored" not in err, err
    return process.returncode, out, err


# --- Signals ---


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 0.7, 1.2, 2.0, 3.0, 5.0])
def test_ctrl_c_at_any_early_moment_ends_at_once(run_dir: Path, tmp_path: Path, after_s: float) -> None:
    write(tmp_path / "song.wav", 3600)
    process = start("separate", run_dir, "song.wav", "-o", "out", cwd=tmp_path)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    sent = time.monotonic()
    status, _, err = finish(process)
    assert status == 130
    assert err.splitlines()[-1] == "jaxpu: interrupted."
    assert time.monotonic() - sent < 20
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["song.wav"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_separation_that_is_asked_to_stop_leaves_no_files(run_dir: Path, tmp_path: Path, number: signal.Signals) -> None:
    write(tmp_path / "song.wav", 3600)
    process = start("separate", run_dir, "song.wav", "-o", "out", cwd=tmp_path)
    until(lambda: any((tmp_path / "out").rglob(".partial-*")))
    os.kill(process.pid, number)
    os.kill(process.pid, number)  # Some send it twice.
    status, _, err = finish(process)
    assert (status, err.splitlines()[-1]) == (130, "jaxpu: interrupted.")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["synthesize", "prepare"])
def test_workers_that_are_asked_to_stop_leave_no_files(tmp_path: Path, command: str) -> None:
    if command == "synthesize":
        args = ["synthesize", "corpus", "--train", 4, "--test", 0, "--seconds", 900]
    else:
        for name in ("with/1", "with/2", "without/1", "without/2"):
            write(tmp_path / f"{name}.wav", 7200)
        args = ["prepare", "recordings", "--with", "with", "--without", "without", "-o", "data", *SETTINGS]
    process = start(*args, "--workers", 2, cwd=tmp_path) if command == "prepare" else start(*args, cwd=tmp_path)
    place = tmp_path / ("corpus" if command == "synthesize" else "data/unfinished/tracks")
    until(lambda: len(children(process.pid)) >= 3 and place.is_dir() and (command == "synthesize" or any(place.iterdir())))
    os.kill(process.pid, signal.SIGTERM)
    sent = time.monotonic()
    status, _, err = finish(process)
    assert (status, err.splitlines()[-1]) == (130, "jaxpu: interrupted.")
    assert time.monotonic() - sent < 30
    assert not [path for path in place.rglob("*") if path.is_dir() and path.name not in ("train", "test")]
    assert not children(process.pid)


@pytest.mark.slow
def test_nohup_is_obeyed(run_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 20)
    process = start("separate", run_dir, "song.wav", "-o", "out", cwd=tmp_path, signals="ignore")
    time.sleep(2)
    os.kill(process.pid, signal.SIGHUP)
    assert finish(process)[0] == 0


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
