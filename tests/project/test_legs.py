"""The whole way of a user in fresh processes, small enough for every Python and every set of versions that jaxpu supports.

Train, kill, resume, separate, and the first cells of a notebook.  What the commands print is jaxpu's alone.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import soundfile

pytestmark = pytest.mark.leg

COLAB = Path(__file__).parents[2] / "colab"

RATE, SECONDS = 8000, 3
DATA = "--data.patch.sample-rate 8000 --data.patch.clip-samples 4000 --data.patch.n-fft 256 --data.patch.win-length 256"
DATA += " --data.patch.hop-length 128 --data.activity-on off"
NETWORK = "--model.channels 2 2 --model.convolutions 1"
STEPS, EVAL_EVERY = 60, 20
TRAINING = f"--train.num-steps {STEPS} --train.eval-every {EVAL_EVERY} --train.batch-size 4 --objective.remix-steps 30"

EXPECTED = re.compile(r"(prepare|train|separate): +\d+%[ |]|Compiling the training step, about 30 s the first time\.$")
"""A line of standard error while nothing is wrong."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sets of recordings: tones over noise, and noise."""
    root = tmp_path_factory.mktemp("user")
    times = np.arange(SECONDS * RATE) / RATE
    for index in range(4):
        generator = np.random.default_rng(index)
        noise = generator.normal(0, 0.1, times.size)
        tone = 0.2 * np.sin(2 * np.pi * 220 * (2 + index) * times) * (times > 1)
        for name, samples in (("songs", noise + tone), ("instrumentals", generator.permutation(noise))):
            (root / name).mkdir(exist_ok=True)
            soundfile.write(root / name / f"{index}.wav", samples, RATE)
    return root


def start(folder: Path, command: str) -> subprocess.Popen[str]:
    """Start `jaxpu` as a user does, with none of the variables that the tests set; but compile quickly, for a few steps."""
    ours = re.compile("XLA_|JAX_|TF_|MPLBACKEND|PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if not ours.match(name)}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpu", *command.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Standard output and standard error of a command that must succeed and print nothing but its own lines."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    foreign = [line for line in err.splitlines() if not EXPECTED.match(line)]
    assert not foreign
    return out, err


@pytest.mark.timeout(600)
def test_train_kill_resume_separate(folder: Path) -> None:
    out, _ = finish(start(folder, f"prepare recordings --with songs --without instrumentals {DATA} --workers 1"))
    assert "Preparing 8 tracks" in out

    train = f"train recordings {DATA} {NETWORK} {TRAINING}"
    killed = start(folder, train)
    checkpoints = folder / "runs" / "recordings" / "checkpoints"
    while not (checkpoints / str(EVAL_EVERY)).exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    assert max(steps) < STEPS, "it was killed too late to show anything"

    out, err = finish(start(folder, train))
    assert f"step {STEPS}, all steps done" in out
    resumed_at = re.search(rf"train: +\d+% \| (\d+)/{STEPS}", err)
    assert resumed_at is not None
    assert int(resumed_at[1]) >= EVAL_EVERY
    assert {path.name for path in checkpoints.iterdir()} == {str(STEPS)}

    finish(start(folder, "separate runs/recordings songs/0.wav -o separated --subtype FLOAT"))
    mixture, _ = soundfile.read(folder / "songs" / "0.wav", dtype="float32")
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted((folder / "separated" / "0").iterdir())]
    assert len(parts) == 2
    assert all(np.std(part) > 1e-4 for part in parts)
    np.testing.assert_allclose(sum(parts), mixture, atol=1e-6)


@pytest.mark.timeout(300)
def test_first_cells_of_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "MPLBACKEND", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    last = next(index for index, cell in enumerate(notebook.cells) if "example_songs(" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    nbformat.write(notebook, tmp_path / "first.ipynb")
    small = {"folder": "out", "num_train": 1, "num_test": 1, "seconds": 4.0, "sample_rate": 8000}
    papermill.execute_notebook(tmp_path / "first.ipynb", tmp_path / "run.ipynb", small, cwd=tmp_path, progress_bar=False)
    assert len(list((tmp_path / "out" / "songs").rglob("mixture.wav"))) == 2
