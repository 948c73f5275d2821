"""Documents: commands and Python examples work, links lead somewhere, figures are those that were measured.

The documents in `GUIDES` are followed as a reader would: their commands and examples run one after the other in one folder, on
little data and with small settings. Commands of the other documents run in an empty folder. There a command line that cannot be
followed has exit status 2, and one that finds no data has status 1.
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stempeg

from data_pipeline.synthetic.songs import synthesize
from jaxpu.cli.__main__ import COMMANDS, main
from jaxpu.cli.command import MISUSED
from jaxpu.config import BootstrapConfig, PatchCNNConfig, UNetConfig
from jaxpu.config_files import config_names, load_config

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", "docs/data.md", "docs/models.md", "docs/reports.md"]
DOCUMENTS = [str(path.relative_to(ROOT)) for folder in (".", "configs") for path in sorted((ROOT / folder).glob("*.md"))]
DOCUMENTS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("jaxpu", "make", "python", "git", "pip", "mkdir", "unzip")
JOINING = re.compile(r" --(?:cluster|processes|process) \S+")
"""Options with which a command waits for other processes; tests/training/test_distributed.py runs such commands."""

SMALL_DATA = ["--data.validation-share", "0.5", "--data.patch.clip-samples", "8192"]
SMALL_RUN = ["--train.num-steps", "2", "--train.eval-every", "2", "--train.eval-batches", "1", "--train.batch-size", "8"]
SMALL_NETWORK: dict[type, list[str]] = {
    PatchCNNConfig: ["--model.channels", "2", "--model.blocks", "0", "--model.dilations", "1", "1", "1", "1"],
    UNetConfig: ["--model.channels", "2", "2", "--model.convolutions", "1"],
}
SMALL_SONGS = ["--seconds", "5"]
SMALL = {
    "demo": [*SMALL_DATA, *SMALL_RUN, *SMALL_SONGS, "--songs", "4", "--test-songs", "1"],
    "prepare": [*SMALL_DATA, "--workers", "1"],
    "train": [*SMALL_DATA, *SMALL_RUN],
    "sweep": [*SMALL_DATA, *SMALL_RUN, "--seeds", "1"],
    "evaluate": ["--workers", "1"],
    "synthesize": [*SMALL_SONGS, "--train", "8", "--test", "1"],
}
"""Options added to a command; the last of equal options counts."""


def commands(document: str) -> list[str]:
    """Lines that a document tells the reader to type: in code blocks without a language, and in tables of examples."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = "".join(body for language, body in BLOCK.findall(text) if not language).splitlines()
    lines += [line for line in re.findall(r"^    (\S.*)$", BLOCK.sub("", text), re.MULTILINE) if line.split()[0] in PROGRAMS]
    lines += re.findall(r"^\|.*\| `(jaxpu [^`]+)` \|$", text, re.MULTILINE)
    return [re.sub(r" +", " ", re.sub(r"\s+# .*", "", line)).strip() for line in lines if line]


def examples(document: str, language: str) -> list[str]:
    """The code blocks of a language in a document."""
    return [body for found, body in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")) if found == language]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def status(line: str) -> int:
    """Run a line of `jaxpu` with small settings in the current folder, in this process; return its exit status."""
    command, *rest = shlex.split(line)[1:]
    small = SMALL.get(command, [])
    if command in ("train", "demo", "sweep"):
        config = load_config(rest[0] if command != "demo" else "demo")
        steps = ["--objective.remix-steps", "1"] if isinstance(config.objective, BootstrapConfig) else []
        small = [*small, *SMALL_NETWORK[type(config.model)], *steps]
    try:
        return main([command, *rest, *small])
    except SystemExit as stop:
        return int(stop.code or 0)


def shell(line: str) -> None:
    """Run a line in a shell in the current folder, which is also the home; it must succeed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(Path.cwd()),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def check_make(line: str) -> None:
    """Ask `make` what it would run; `.ci/run` runs it."""
    # These tests may run under make themselves, whose settings a second one would take over.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    would_run = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert would_run.returncode == 0, would_run.stderr


def check_python(line: str) -> None:
    """Find the program of `python FILE ...`, and its options in its source; the tests of benchmarks run it."""
    _, program, *arguments = shlex.split(line)
    source = (ROOT / program).read_text(encoding="utf-8")
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option}"' in source, line


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has followed the README: recordings under the names that it uses, data and runs."""
    folder = tmp_path_factory.mktemp("reader")
    songs = sorted((synthesize(folder / "corpus", num_train=8, num_test=1, seconds=5.0, num_workers=1) / "train").iterdir())
    for name, chosen, file in (("songs", songs[:4], "mixture.wav"), ("instrumentals", songs[4:], "other.wav")):
        (folder / name).mkdir()
        for song in chosen:
            shutil.copy(song / file, folder / name / f"{song.name}.wav")
    (folder / "labels").mkdir()
    for song in songs[:4]:
        mixture, rate = soundfile.read(song / "mixture.wav")
        mixture[3 * rate :] -= soundfile.read(song / "vocals.wav")[0][3 * rate :]
        soundfile.write(folder / "songs" / f"{song.name}.wav", mixture, rate)
        (folder / "labels" / f"{song.name}.txt").write_text("3.000000\t5.000000\t\n")
    samples, sample_rate = soundfile.read(songs[0] / "mixture.wav")
    for name in ("song.wav", "song.mp3"):
        soundfile.write(folder / name, samples, sample_rate)
    np.save(folder / "mixture.npy", samples.T.astype(np.float32).reshape(-1, len(samples)))
    for split, number in (("train", 4), ("test", 1)):
        (folder / "PATH" / split).mkdir(parents=True)
        for index in range(number):
            (folder / "PATH" / split / f"{split} {index}.stem.mp4").symlink_to(stempeg.example_stem_path())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        follow("README.md")
    return folder


def follow(document: str, capsys: pytest.CaptureFixture[str] | None = None) -> None:
    """Do what a document says, in the current folder."""
    for line in commands(document):
        if line.startswith("make "):
            check_make(line)
        elif line.startswith("jaxpu ") and ">" not in line:
            assert status(line) == 0, line
        else:
            shell(line)
        if line.endswith("--json") and capsys is not None:
            assert json.loads(capsys.readouterr().out) == json.loads(examples(document, "json")[0])
        elif capsys is not None:
            capsys.readouterr()
    for example in examples(document, "python"):
        exec(example, {})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", GUIDES)
def test_a_reader_can_follow(
    document: str, readers_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(readers_folder)
    if document != "README.md":
        follow(document, capsys)
    separated = readers_folder / "separated" / "song"
    assert sorted(path.name for path in separated.iterdir()) == ["accompaniment.wav", "vocals.wav"]
    assert (readers_folder / "runs" / "baseline" / "evaluation" / "report.html").exists()


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document not in GUIDES])
def test_commands_can_be_followed(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not examples(document, "python"), "a Python example belongs in a document of GUIDES, whose examples run"
    for line in dict.fromkeys(commands(document)):
        if line.startswith("make "):
            check_make(line)
        elif line.startswith("python "):
            check_python(line)
        elif line.startswith(("jaxpu demo", "jaxpu synthesize")):  # They need no data, so they would run.
            check_options(*line.removeprefix("jaxpu ").split(" ", 1))
        elif line.startswith("jaxpu "):
            assert status(re.sub(r" >+ \S+$", "", JOINING.sub("", line))) != MISUSED, line


def test_a_command_that_cannot_be_followed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("jaxpu train recordings", "jaxpu separate runs/recordings song.mp3 -o separated"):
        assert status(line) == 1
        assert status(f"{line} --no-such-option 1") == MISUSED
    assert status("jaxpu prepare recordings --with songs/") == MISUSED


@functools.cache
def help_of(command: str, config: str) -> str:
    """The options of a command, as `--help` lists them."""
    words = [command, *([config] if command in ("prepare", "train", "sweep") else []), "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main(words)
    return printed.getvalue()


def check_options(command: str, rest: str = "") -> None:
    """Find a command's options in its help."""
    assert command in COMMANDS
    named = [word for word in rest.split()[:1] if word in config_names()]
    for option in re.findall(r"(?<!\S)--?[a-z][a-z.-]*", rest):
        listed = help_of(command, named[0] if named else "demo")
        assert re.search(rf"{option}[ ,]", listed) or option == "--help", f"jaxpu {command} {rest}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_mentions_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "REPOSITORY" not in text, "there is no public address yet"
    for command, rest in re.findall(r"`jaxpu ([a-z][a-z-]*)([^`]*)`", text):
        check_options(command, rest)
    for target in re.findall(r"`make ([a-z0-9.-]+)", text):
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for link, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
        linked = (ROOT / document).parent / link if link else ROOT / document
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked), f"{link}#{anchor}"


def test_the_readme_takes_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_config_has_one_row_in_their_readme() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.py\) \|", (ROOT / "configs" / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [(name, name) for name in config_names()]


def measured_improvements() -> dict[str, float]:
    """SI-SDR improvement by config, from the tables of docs/results.md whose first cells end with the config's name."""
    improvements, column = {}, 0
    for line in (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if "SI-SDR improvement" in cells:
            column = cells.index("SI-SDR improvement")
        if row := re.match(r"\| .*\(`(\w+)`\) \|", line):
            improvements[row[1]] = float(cells[column])
    return improvements


def test_scores_in_configs_and_readme_are_the_measured_ones() -> None:
    improvements = measured_improvements()
    assert {"demo", "recordings"} <= set(improvements) <= set(config_names())
    for name in config_names():
        (said,) = re.findall(r"Expected score: (?:([+-][0-9.]+) dB)?", (ROOT / "configs" / f"{name}.py").read_text())
        assert said == (f"{improvements[name]:+.1f}" if name in improvements else ""), name
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"SI-SDR improvement of about {improvements['demo']:.1f} dB" in readme


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_docstrings_become_pages(tmp_path: Path) -> None:
    """As `make docs` has it; a docstring or an annotation that pdoc cannot read is a warning."""
    command = (sys.executable, "-W", "error::UserWarning:pdoc", "-m", "pdoc", "--docformat", "google")
    done = subprocess.run([*command, "-o", tmp_path, "jaxpu", "data_pipeline"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # pdoc does not find the fields that a TypedDict inherits.
    warnings = [line for line in done.stderr.splitlines() if "Warn" in line and "Cannot determine where" not in line]
    assert not warnings
    for package in ("jaxpu", "data_pipeline"):
        for path in (ROOT / package).rglob("[!_]*.py"):
            assert (tmp_path / path.relative_to(ROOT).with_suffix(".html")).exists()


def test_the_tests_that_reliability_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    missing = {name for name in named if not any(f"def {name}(" in source for source in sources)}
    assert len(named) > 50
    assert not missing
