"""The program as the system treats it: stopped at any moment, with closed streams, and with names that are no text."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.config import Config, PatchCNNConfig, SupervisedConfig
from jaxpu.core.network import variable_shapes
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.evaluation.html_report import write_report

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
    """A run whose network was not trained, large enough that an hour of sound takes it half a minute."""
    config = Config(
        data=DataConfig(patch=PATCH), model=PatchCNNConfig(channels=64, growth=1, blocks=1), objective=SupervisedConfig()
    )
    variables = jax.tree.map(lambda shape: jnp.full(shape.shape, 0.1, shape.dtype), variable_shapes(config))
    path = tmp_path_factory.mktemp("run") / "run"
    info = {"step": 1, "select_by": "last", "score": 0.0, "uses_stems": [], "data_fingerprint": "0"}
    with RunCheckpoints(path) as checkpoints:
        checkpoints.save(1, state={"step": np.zeros(())}, variables=variables, score=0.0, config=config, info=info)
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
@pytest.mark.parametrize("after_s", [0.3, 1.0, 2.5, 5.0])
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


SWALLOWS = """
import time
print("imports", flush=True)
try:
    time.sleep(1)
except BaseException:
    print("swallowed", flush=True)
"""
WORKS = """
def work():
    try:
        import swallows
        import time
        time.sleep(20)
    finally:
        print("cleans up", flush=True)
"""
PROGRAM = """
import signal
from jaxpu.cli import entry
signal.signal(signal.SIGINT, entry._stop)
import {module}
{call}
"""


@pytest.mark.parametrize(
    ("module", "call", "printed"),
    [("swallows", "", ""), ("works", "works.work()", "cleans up\n")],
    ids=["before work", "in work"],
)
def test_an_import_does_not_swallow_ctrl_c(tmp_path: Path, module: str, call: str, printed: str) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    (tmp_path / "works.py").write_text(WORKS)
    program = PROGRAM.format(module=module, call=call)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "imports\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=15)
    assert out == printed
    assert process.returncode == 130 if not call else err.endswith("KeyboardInterrupt\n")


@pytest.mark.slow
def test_ctrl_c_is_no_damage_of_a_checkpoint_that_is_being_read(run_dir: Path) -> None:
    call = f"print('reads', flush=True)\nwhile True: checkpoints.load_model({str(run_dir)!r})"
    program = PROGRAM.format(module="jaxpu.artifacts.checkpoints as checkpoints", call=call)
    for after_s in (0.2, 0.5, 0.8):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", program], **pipes)  # type: ignore[call-overload]
        assert process.stdout.readline() == "reads\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err.endswith("KeyboardInterrupt\n")
        assert "a checkpoint cannot be read" not in err


@pytest.mark.slow
def test_a_separation_that_is_asked_to_stop_leaves_no_files(run_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 3600)
    process = start("separate", run_dir, "song.wav", "-o", "out", cwd=tmp_path)
    until(lambda: any((tmp_path / "out").rglob(".partial-*")))
    for _ in range(2):  # As a terminal that is closed.
        os.kill(process.pid, signal.SIGHUP)
    status, _, err = finish(process)
    assert (status, err.splitlines()[-1]) == (130, "jaxpu: interrupted.")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
@pytest.mark.usefixtures("all_processors")
@pytest.mark.parametrize("command", ["synthesize", "prepare"])
def test_workers_that_are_asked_to_stop_leave_no_files(tmp_path: Path, command: str) -> None:
    if command == "synthesize":
        args = ["synthesize", "corpus", "--train", 4, "--test", 0, "--seconds", 900]
    else:
        song = write(tmp_path / "with/1.wav", 600)
        for name in ("with/2.wav", "without/1.wav", "without/2.wav"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            os.link(song, tmp_path / name)
        args = ["prepare", "recordings", "--with", "with", "--without", "without", "-o", "data", *SETTINGS, "--workers", 2]
    process = start(*args, cwd=tmp_path)
    place = tmp_path / ("corpus" if command == "synthesize" else "data/unfinished/tracks")
    until(lambda: len(children(process.pid)) >= 3 and place.is_dir() and (command == "synthesize" or any(place.iterdir())))
    os.kill(process.pid, signal.SIGTERM)
    sent = time.monotonic()
    status, _, err = finish(process)
    assert status == 130
    assert err.splitlines()[-1] == f"jaxpu: interrupted. Next: jaxpu {shlex.join(map(str, args))}"
    assert time.monotonic() - sent < 30
    assert not [path for path in place.rglob("*") if path.is_dir() and path.name not in ("train", "test")]
    assert not children(process.pid)


@pytest.mark.slow
@pytest.mark.usefixtures("all_processors")
def test_a_worker_that_is_killed_ends_synthesize_with_one_line(tmp_path: Path) -> None:
    process = start("synthesize", "corpus", "--train", 4, "--test", 0, "--seconds", 900, cwd=tmp_path)

    def workers() -> list[int]:  # Without Python's resource tracker.
        lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(process.pid)}
        return [child for child, line in lines.items() if b"spawn_main" in line]

    until(lambda: len(workers()) >= 2)
    os.kill(workers()[0], signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 1
    assert err.splitlines()[-1].startswith("jaxpu: A worker process died: it was killed")


@pytest.mark.slow
@pytest.mark.usefixtures("all_processors")
def test_nohup_is_obeyed_by_workers_too(tmp_path: Path) -> None:
    args = ["synthesize", "corpus", "--train", 2, "--test", 0, "--seconds", 15]
    process = start(*args, cwd=tmp_path, signals="ignore")
    until(lambda: len(children(process.pid)) >= 3)
    os.killpg(process.pid, signal.SIGHUP)
    assert finish(process)[0] == 0
    assert len(list(tmp_path.rglob("vocals.wav"))) == 2


# --- Streams ---


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(tmp_path: Path, closed: str) -> None:
    assert finish(start("completion", "bash", cwd=tmp_path, through=closed))[0] == 0
    assert finish(start("info", "nothing", cwd=tmp_path, through=closed))[0] == 2


def test_a_full_standard_output_is_named(tmp_path: Path) -> None:
    status, _, err = finish(start("info", "recordings", cwd=tmp_path, through="> /dev/full"))
    assert (status, err.count("\n")) == (1, 1)
    assert "standard output: No space left" in err


def test_a_full_disk_is_named_with_a_remedy(tmp_path: Path) -> None:
    command = shlex.join([*JAXPU, "synthesize", "corpus", "--train", "1", "--test", "0", "--seconds", "5"])
    limited = subprocess.Popen(
        ["bash", "-c", f"ulimit -f 20; {command}"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    status, _, err = finish(limited)
    assert status == 1
    assert err.endswith("File too large. Free some space, or choose another folder.\n")


# --- Memory ---


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    ("command", "given", "found"),
    [
        ("train", None, "glibc.malloc.hugetlb=1"),
        ("sweep", "glibc.malloc.arena_max=4", "glibc.malloc.arena_max=4:glibc.malloc.hugetlb=1"),
        ("train", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("info", None, None),
    ],
)
@pytest.mark.parametrize("program", [JAXPU, [str(Path(sys.executable).with_name("jaxpu"))]], ids=["module", "script"])
def test_training_gets_huge_pages(tmp_path: Path, program: list[str], command: str, given: str | None, found: str | None) -> None:
    """A config is a Python file, which can tell its environment."""
    (tmp_path / "my config.py").write_text(
        "import os, sys\nfrom jaxpu.config import Config\nconfig = Config()\n"
        "print('tunables', os.environ.get('GLIBC_TUNABLES'), os.getpid(), file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    process = subprocess.Popen(
        [*program, command, "my config.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, _, err = finish(process)
    assert f"tunables {found} {process.pid}\n" in err


# --- Names ---


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_recordings_are_separated_whatever_their_names(run_dir: Path, tmp_path: Path, encoding: str) -> None:
    songs = [write(tmp_path / "songs" / f"{name}.wav") for name in (LATIN1, "Привет", 'a "b"\n')]
    bad = tmp_path / "songs" / f"{LATIN1} too.wav"
    bad.write_text("no sound")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    process = start("separate", run_dir, "songs", bad, "-o", "out", cwd=tmp_path, env=environment)
    status, out, err = finish(process)
    assert status == 1
    assert f"{LATIN1} too.wav".encode("ascii", "backslashreplace").decode() in err
    assert r"caf\udce9/vocals.wav" in out
    assert ("Привет/vocals.wav" if encoding == "utf-8" else r"\u041f\u0440\u0438\u0432\u0435\u0442/vocals.wav") in out
    for song in songs:
        assert {path.name for path in (tmp_path / "out" / "songs" / song.stem).iterdir()} == {"vocals.wav", "accompaniment.wav"}


@pytest.mark.slow
def test_songs_are_scored_whatever_their_names(run_dir: Path, tmp_path: Path) -> None:
    corpus = synthesize(
        tmp_path / "corpus", num_train=0, num_test=1, seconds=4.0, sample_rate=RATE, num_workers=1, progress=False
    )
    next((corpus / "test").iterdir()).rename(corpus / "test" / f"{LATIN1} <b>")
    options = EvaluationOptions(num_workers=1, num_excerpts=1, baselines=False, progress=False)
    table = evaluate(load_model(run_dir), Musdb18HQ(corpus), run_dir / "evaluation", options)
    assert list(json.loads(table.path.read_text())["excerpts"]) == [f"{LATIN1} <b>"]
    assert "caf? &lt;b&gt;" in write_report(run_dir, run_dir / "evaluation").read_text(encoding="utf-8")


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
