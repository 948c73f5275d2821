"""Several processes: two with two simulated devices each do what one does with eight.  Searches by several workers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import soundfile

from data_pipeline.config import STEMS
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.cli.train import TrainArguments
from jaxpu.config import ConfigError
from jaxpu.config.cluster import Cluster
from jaxpu.config_files import load_config
from jaxpu.core.step import TrainState, init_state
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.training.loop import train

ROOT = Path(__file__).parents[2]
RATE = 8000
# Steps are small: one process and two round differently, and on some processors large steps enlarge that without end.
CONFIG = """
    from data_pipeline.config import DataConfig, PatchSpec
    from jaxpu.config import Config, PatchCNNConfig, PUConfig, TrainConfig

    config = Config(
        data=DataConfig(
            patch=PatchSpec(sample_rate=8000, clip_samples=512, n_fft=64, win_length=64, hop_length=32),
            activity_on="off",
            validation_share=0.3,
        ),
        model=PatchCNNConfig(channels=4, blocks=0, features="log", dropout_rate=0.1),
        objective=PUConfig(class_prior="estimate"),
        train=TrainConfig(num_steps=32, batch_size=8, learning_rate=0.001, eval_every=8, eval_batches=2),
    )
"""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_processors")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of eight songs of a second, three of them to test on, its prepared data and a config."""
    folder = tmp_path_factory.mktemp("workplace")
    time_s = np.arange(RATE) / RATE
    for song in range(8):
        rng = np.random.default_rng(song)
        path = folder / "corpus" / ("test" if song > 4 else "train") / f"Song {song}"
        path.mkdir(parents=True)
        playing = np.sin(2 * np.pi * (1 + song / 4) * time_s) > -0.3
        stems = {name: 0.03 * rng.standard_normal(len(time_s)) for name in STEMS[1:]}
        stems["vocals"] = 0.2 * playing * np.sin(2 * np.pi * (500 + 50 * song) * time_s)
        for name, samples in {**stems, "mixture": sum(stems.values())}.items():
            soundfile.write(path / f"{name}.wav", samples, RATE)
    (folder / "config.py").write_text(textwrap.dedent(CONFIG))
    config = load_config(folder / "config.py")
    prepare(Musdb18HQ(folder / "corpus"), config.data, folder / "data", num_workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """The result of one process with eight devices."""
    train(load_config(workplace / "config.py"), workplace / "data", workplace / "alone", progress=False)
    return workplace / "alone"


def start(
    workplace: Path, *arguments: str | Path, output: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A Python process with two devices, that writes what it says into a file."""
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONUNBUFFERED": "1"}
    with (workplace / output).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **two, **(environment or {})}, stdout=file, stderr=file
        )


def free_port(lowest: int = 20_000) -> int:
    for port in range(lowest, 65_536):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                return port
    raise AssertionError("There is no free port.")


def wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Their exit statuses."""
    try:
        return [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for_step(run_dir: Path, step: int, processes: list[subprocess.Popen[bytes]]) -> None:
    while all(process.poll() is None for process in processes):
        if any(line["step"] >= step for line in read_log(run_dir)):
            return
        time.sleep(0.005)


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """Complete lines of metrics.jsonl, without timings."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in row.items() if name not in ("clips_per_s", "data_wait")} for row in rows]


def states(run_dir: Path) -> tuple[TrainState, TrainState]:
    """At the start and at the end."""
    begin = init_state(load_model(run_dir).config)
    with RunCheckpoints(run_dir) as checkpoints:
        end, _ = checkpoints.restore(begin)
    return jax.device_get((begin, end))


TOGETHER = """
    import dataclasses, os, signal, sys
    from pathlib import Path

    import jax

    from data_pipeline.tracks import Musdb18HQ
    from jaxpu import parallel
    from jaxpu.artifacts.checkpoints import load_model
    from jaxpu.config.cluster import Cluster
    from jaxpu.config import ConfigError
    from jaxpu.config_files import load_config
    from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
    from jaxpu.training.loop import train

    folder, address, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = load_config(folder / "config.py")
    with parallel.joined(Cluster(address, 2, process)):
        print(parallel.describe())
        for _ in range(2):
            result = train(config, folder / "data", folder / "interrupted", progress=False)
            print(f"step {result['step']}: {result['stopped']}")
        train(config, folder / "data", folder / "straight", progress=False)
        other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=process))
        try:
            train(other, folder / "data", folder / "other", progress=False)
        except ConfigError as error:
            print(error)
        model = load_model(folder / "straight")
        table = evaluate(model, Musdb18HQ(folder / "corpus"), folder / "scores", EvaluationOptions(num_workers=1, progress=False))
        print(len(table.tracks["model"]), "songs")
        # Both have the last print of the other before one dies.
        parallel.gather(None)
        if process == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        parallel.gather(None)
"""


@pytest.mark.timeout(1200)
def test_two_processes_do_what_one_does(workplace: Path, alone: Path) -> None:
    interrupted = workplace / "interrupted"
    # SLURM's variables, as srun sets them; jax.distributed makes the port from the job's number.
    slurm = {
        "SLURM_JOB_ID": str(free_port(lowest=61_440) - 61_440),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    command = [workplace / "config.py", "--prepared", workplace / "data", "--run", interrupted, "--cluster", "auto"]
    processes = [
        start(
            workplace,
            *("-m", "jaxpu.cli.__main__", "train", *command),
            output=f"slurm{process}",
            environment=slurm | {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)},
        )
        for process in range(2)
    ]
    wait_for_step(interrupted, 8, processes)
    for process in processes:
        process.kill()
    said = (workplace / "slurm0").read_text()
    assert wait(processes) == [-signal.SIGKILL] * 2, said + (workplace / "slurm1").read_text()
    assert "Class prior: 0." in said
    killed_at = max(line["step"] for line in read_log(interrupted))
    assert "Class prior" not in (workplace / "slurm1").read_text()

    address = f"localhost:{free_port()}"
    processes = [
        start(
            workplace,
            *("-c", textwrap.dedent(TOGETHER), workplace, address, str(process)),
            output=f"bare{process}",
        )
        for process in range(2)
    ]
    wait_for_step(interrupted, killed_at + 1, processes)
    processes[1].terminate()
    statuses = wait(processes)
    said = [(workplace / f"bare{process}").read_text() for process in range(2)]
    assert statuses[1] == -signal.SIGKILL, said[1]
    assert statuses[0] > 0, said[0]  # It does not wait for ever for one that died.
    # One of them was asked to stop, and both did, after the same step; then the same command went on.
    (stopped_at,) = {re.findall(r"^step (\d+): stopped on request", words, re.MULTILINE)[0] for words in said}
    assert killed_at < int(stopped_at) < 32
    for words in said:
        assert "4 x cpu (cpu), 2 process(es)" in words
        assert "step 32: all steps done" in words
        assert "The processes were started with different configs or data." in words
        assert "3 songs" in words

    # Killed, stopped and resumed, to the bit what two processes do in one go.
    straight = workplace / "straight"
    jax.tree.map(np.testing.assert_array_equal, states(interrupted)[1], states(straight)[1])
    evaluations = [line for line in read_log(straight) if line["kind"] == "evaluate"]
    assert [line["step"] for line in evaluations] == [8, 16, 24, 32]
    assert [line for line in read_log(interrupted) if line["kind"] == "evaluate" and line["step"] % 8 == 0] == evaluations
    # One process with more devices adds in another order.
    (begin, theirs), (_, ours) = states(straight), states(alone)
    assert int(theirs.step) == int(ours.step) == 32
    difference, moved = (optax.tree.norm(jax.tree.map(np.subtract, ours.params, other.params)) for other in (theirs, begin))
    assert difference < 1e-5 * moved
    for line, expected in zip(read_log(straight), read_log(alone), strict=True):
        assert (line.pop("kind"), line["step"]) == (expected.pop("kind"), expected["step"])
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name in ("config.json", "estimates.json"):
        assert (straight / name).read_bytes() == (alone / name).read_bytes()
    assert len(list((straight / "tensorboard").iterdir())) == 1  # By process 0 alone.

    corpus = Musdb18HQ(workplace / "corpus")
    options = EvaluationOptions(num_workers=1, progress=False)
    expected = evaluate(load_model(straight), corpus, workplace / "scores-alone", options)
    assert json.loads((workplace / "scores" / "scores.json").read_text()) == json.loads(expected.path.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("node1", 2, 0), r"^--cluster is 'node1'; it must be auto, or HOST:PORT of process 0, such as node1:12345\.$"),
        (("node1:12345", 2, None), r"^--cluster node1:12345 needs --processes, how many there are \(here 2\), and --process"),
        (("node1:12345", 2, 2), r"from 0 \(here 2\)\.$"),
        (("auto", 2, 0), r"^--processes is 2 and --process 0, but --cluster is auto"),
        ((None, 2, None), r"--cluster is None"),
    ],
)
def test_a_cluster_that_does_not_fit_together_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cluster(*arguments)


ALONE = """
    import sys
    from jaxpu import parallel
    from jaxpu.config.cluster import Cluster
    from jaxpu.config import ConfigError

    try:
        with parallel.joined(Cluster("auto")):
            print("found a cluster")
    except ConfigError as error:
        print(error)
    with parallel.joined(Cluster(sys.argv[1], 2, 1), timeout_s=2):
        print("found the others")
"""


def test_a_process_that_finds_no_others_says_so_and_ends() -> None:
    address = f"localhost:{free_port()}"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(ALONE), address], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("--cluster is auto, but the environment describes no cluster")
    assert "found" not in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"jaxpu: the processes did not find each other within 2 s (process 1 of 2, process 0 at {address})")


def test_the_example_for_slurm_is_a_script_whose_command_parses(tmp_path: Path) -> None:
    script = ROOT / "docs" / "cluster" / "train.sbatch"
    # Bash runs it, with an srun that says what it was given.
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DATA": "/shared/my data"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    program = given.index("jaxpu")
    assert given[:program] == ["--kill-on-bad-exit=1"]
    assert given[program + 1 : program + 3] == ["train", "baseline"]
    import tyro

    arguments = tyro.cli(TrainArguments, args=given[program + 3 :], default=TrainArguments(load_config("baseline")))
    assert arguments.cluster == Cluster("auto")
    assert arguments.data == Path("/shared/my data")
    assert arguments.run == Path("runs/baseline")
    options = re.findall(r"^#SBATCH (--\S+)$", script.read_text(), re.MULTILINE)
    assert "--signal=TERM@180" in options
    assert "--ntasks-per-node=4" in options


BUSY = """
    import contextlib, dataclasses, sys
    from pathlib import Path

    from data_pipeline.errors import DataError, WriteError
    from data_pipeline.files import locked
    from jaxpu import parallel
    from jaxpu.config import PUConfig
    from jaxpu.config.cluster import Cluster
    from jaxpu.config_files import load_config
    from jaxpu.training.loop import train
    from jaxpu.training.run import TrainingError

    folder, address, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    busy = folder / "busy"
    busy.mkdir(exist_ok=True)
    with parallel.joined(Cluster(address, 2, process)), contextlib.ExitStack() as stack:
        if process == 0:
            stack.enter_context(locked(busy, DataError("locked twice")))
        parallel.gather(None)
        try:
            train(load_config(folder / "config.py"), folder / "data", busy, progress=False)
        except TrainingError as error:
            print("refused:", error)
        estimated = dataclasses.replace(load_config(folder / "config.py"), objective=PUConfig(class_prior="estimate"))
        (folder / "unwritable/estimates.json").mkdir(parents=True, exist_ok=True)
        try:
            train(estimated, folder / "data", folder / "unwritable", progress=False)
        except WriteError as error:
            print("not written:", error)
"""


def test_processes_that_train_together_are_refused_together(workplace: Path) -> None:
    """Process 0 finds the folder locked, and cannot write its estimates; the other must not wait for it for ever."""
    address = f"localhost:{free_port()}"
    processes = [
        start(
            workplace,
            *("-c", textwrap.dedent(BUSY), workplace, address, str(process)),
            output=f"busy{process}",
        )
        for process in range(2)
    ]
    statuses, said = wait(processes), [(workplace / f"busy{process}").read_text() for process in range(2)]
    assert statuses == [0, 0], said
    for words in said:
        assert f"refused: {workplace / 'busy'}: another process is training in this folder" in words
        assert f"not written: {workplace / 'unwritable'}" in words


def test_workers_of_a_search_share_its_study(workplace: Path) -> None:
    import optuna

    search, config_file = workplace / "search", workplace / "short.py"
    config_file.write_text((workplace / "config.py").read_text().replace("num_steps=32", "num_steps=10"))
    command = (ROOT / "docs" / "cluster" / "search.py", config_file, workplace / "data", search, "--trials", "1")
    workers = [start(workplace, *command, output=f"search{number}") for number in range(2)]
    statuses, said = wait(workers), [(workplace / f"search{number}").read_text() for number in range(2)]
    assert statuses == [0, 0], said

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(search / "journal.log")))
    study = optuna.load_study(study_name=None, storage=storage)
    trials = study.get_trials()
    assert [trial.number for trial in trials] == [0, 1]
    for trial in trials:
        run_dir = search / f"trial-{trial.number}"
        model = load_model(run_dir)
        assert model.config.train.learning_rate == trial.params["learning_rate"]
        assert model.config.train.gradient_clip == trial.params["gradient_clip"]
        assert trial.value == model.info["score"] == -read_log(run_dir)[-1]["loss"]
    best = max(trials, key=lambda trial: trial.value)
    assert any(f"Best so far: {best.value:.4g} in {search}/trial-{best.number}" in words for words in said)
    # A worker that is asked to stop counts no trial of fewer steps, and begins no other.
    config_file.write_text((workplace / "config.py").read_text().replace("num_steps=32", "num_steps=10000"))
    alone = workplace / "alone"
    worker = start(workplace, *command[:3], alone, "--trials", "3", output="search2")
    wait_for_step(alone / "trial-0", 1, [worker])
    worker.send_signal(signal.SIGTERM)
    assert wait([worker]) == [1]
    assert "No trial is complete yet." in (workplace / "search2").read_text()
    assert not (alone / "trial-1").exists()
    # They drew different values: neither worker did the other's trials again.
    assert len({trial.params["learning_rate"] for trial in trials}) == 2
