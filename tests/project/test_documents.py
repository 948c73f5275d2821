"""What the documents tell people to type works: every command and every Python example is run, on few data with small settings.

Two kinds are not run here: `make`, which is asked what it would run, for `.ci/run` runs it; and what `ELSEWHERE` names, with the
test that has it.
"""

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
from jaxpu.config import BootstrapConfig
from jaxpu.config_files import config_names, load_config

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("jaxpu", "make", "python", "git", "pip", "mkdir", "unzip")

ELSEWHERE = {
    "git clone REPOSITORY && cd jaxpu": "the repository has no public address yet; .ci/run begins with a checkout",
    "jaxpu train baseline --cluster node1:12345 --processes 2 --process 0": "test_distributed.py",
    "jaxpu train baseline --cluster node1:12345 --processes 2 --process 1": "test_distributed.py",
    'jaxpu prepare baseline --musdb18hq PATH --beam="--runner=FlinkRunner --flink_master=HOST:8081"': "test_beam.py",
    "python benchmarks/level_estimates.py CORPUS OTHER_CORPUS": "test_benchmarks.py",
}

SMALL_DATA = ["--data.validation-share", "0.5"]
SMALL_RUN = [
    *("--train.num-steps", "2", "--train.eval-every", "2", "--train.eval-batches", "1", "--train.batch-size", "8"),
    *("--model.channels", "2"),
]
SMALL_SONGS = ["--seconds", "5"]
SMALL = {
    "demo": [*SMALL_DATA, *SMALL_RUN, *SMALL_SONGS, "--songs", "4", "--test-songs", "1"],
    "prepare": [*SMALL_DATA, "--workers", "1"],
    "train": [*SMALL_DATA, *SMALL_RUN],
    "sweep": [*SMALL_DATA, *SMALL_RUN, "--seeds", "1"],
    "evaluate": ["--workers", "1"],
    "synthesize": [*SMALL_SONGS, "--train", "8", "--test", "1"],
    "estimate-prior": ["--steps", "2"],
    "python benchmarks/make_speech.py": ["--train", "2", "--test", "1"],
    "python benchmarks/convolutions.py": ["--clips", "2"],
}
"""What is added to a command; the last of equal options counts."""


def commands(document: str) -> list[str]:
    """The lines that a document has people type: in blocks of code without a language, and in the tables of examples."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = "".join(body for language, body in BLOCK.findall(text) if not language).splitlines()
    lines += [line for line in re.findall(r"^    (\S.*)$", BLOCK.sub("", text), re.MULTILINE) if line.split()[0] in PROGRAMS]
    lines += re.findall(r"^\|.*\| `(jaxpu [^`]+)` \|$", text, re.MULTILINE)
    return [re.sub(r" +", " ", re.sub(r"\s+# .*", "", line)).strip() for line in lines if line]


def examples(document: str, language: str) -> list[str]:
    """The blocks of a language in a document."""
    return [body for found, body in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")) if found == language]


def anchors(path: Path) -> set[str]:
    """What links to the headings of a document end with, as GitHub has it."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(line: str) -> None:
    """Runs a line in the current folder."""
    words = shlex.split(line)
    if line in ELSEWHERE:
        return
    if words[0] == "make":
        # These tests may run under make themselves, whose settings a second one would take over.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        would_run = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert would_run.returncode == 0, would_run.stderr
        if words[1] == "demo":
            assert would_run.stdout.endswith(".venv/bin/jaxpu demo \n")
            run("jaxpu demo")
        return
    small = next((added for name, added in SMALL.items() if line.startswith((f"jaxpu {name}", name))), [])
    if words[0] == "jaxpu" and ">" not in line:
        if words[1] in ("train", "demo", "sweep"):
            config = load_config(words[2] if len(words) > 2 and words[1] != "demo" else "demo")
            small = [*small, *(["--objective.remix-steps", "1"] if isinstance(config.objective, BootstrapConfig) else [])]
        assert main([*words[1:], *small]) == 0, line
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(Path.cwd()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", f"{line} {shlex.join(small)}"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory, shared_compilations: dict[str, str]) -> Path:
    """What somebody has who has done all that the README says: recordings under the names that it uses, data and runs."""
    folder = tmp_path_factory.mktemp("reader")
    songs = sorted((synthesize(folder / "corpus", num_train=8, num_test=1, seconds=5.0, num_workers=1) / "train").iterdir())
    for name, chosen, file in (("songs", songs[:4], "mixture.wav"), ("instrumentals", songs[4:], "other.wav")):
        (folder / name).mkdir()
        for song in chosen:
            shutil.copy(song / file, folder / name / f"{song.name}.wav")
    samples, sample_rate = soundfile.read(songs[0] / "mixture.wav")
    for name in ("song.wav", "song.mp3"):
        soundfile.write(folder / name, samples, sample_rate)
    np.save(folder / "mixture.npy", samples.T.astype(np.float32).reshape(-1, len(samples)))
    for split, number in (("train", 4), ("test", 1)):
        (folder / "PATH" / split).mkdir(parents=True)
        for index in range(number):
            (folder / "PATH" / split / f"{split} {index}.stem.mp4").symlink_to(stempeg.example_stem_path())
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in commands("README.md"):
            run(line)
        for example in examples("README.md", "python"):
            exec(example, {})
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_examples_of(
    document: str, readers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if document == "README.md":
        separated = readers_folder / "separated" / "song"
        assert sorted(path.name for path in separated.iterdir()) == ["accompaniment.wav", "vocals.wav"]
        assert (readers_folder / "compare.html").exists()
        return
    folder = shutil.copytree(readers_folder, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(folder)
    if document == "docs/results.md":
        # It has other settings than the README in the same places.
        for name in ("runs", "data", "corpus"):
            shutil.rmtree(name)
    for line in commands(document):
        capsys.readouterr()
        run(line)
        if line.endswith("--json"):
            said = json.loads(capsys.readouterr().out)
            assert said == json.loads(examples(document, "json")[0])
    for example in examples(document, "python"):
        exec(example, {})


def test_what_is_run_elsewhere_is_in_a_document() -> None:
    assert set(ELSEWHERE) <= {line for document in DOCUMENTS for line in commands(document)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_and_files_that_a_document_mentions_exist(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for command, rest in re.findall(r"`jaxpu ([a-z][a-z-]*)([^`]*)`", text):
        assert command in COMMANDS
        named = [word for word in rest.split()[:1] if word in config_names()]
        with pytest.raises(SystemExit):
            main([command, *(named or ["demo"] if command in ("prepare", "train", "sweep") else []), "--help"])
        listed = capsys.readouterr().out
        for option in re.findall(r"(?<=\s)--?[a-z][a-z.-]*", rest):
            assert re.search(rf"{option}[ ,]", listed) or option == "--help", f"`jaxpu {command}{rest}`"
    for target in re.findall(r"`make ([a-z0-9.-]+)", text):
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for link, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
        linked = (ROOT / document).parent / link if link else ROOT / document
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked), f"{link}#{anchor}"


def test_configs_say_the_scores_of_the_results() -> None:
    improvements, column = {}, 0
    for line in (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if "SI-SDR improvement" in cells:
            column = cells.index("SI-SDR improvement")
        if row := re.match(r"\| .*\(`(\w+)`\) \|", line):
            improvements[row[1]] = float(cells[column])
    assert set(improvements) <= set(config_names())
    for name in config_names():
        (said,) = re.findall(r"Score to expect: (?:([+-][0-9.]+) dB)?", (ROOT / "configs" / f"{name}.py").read_text())
        assert said == (f"{improvements[name]:+.1f}" if name in improvements else ""), name


@pytest.mark.timeout(300)
def test_the_docstrings_become_pages(tmp_path: Path) -> None:
    """As `make docs` has it; a docstring or an annotation that pdoc cannot read is a warning."""
    command = (sys.executable, "-W", "error::UserWarning:pdoc", "-m", "pdoc", "--docformat", "google")
    done = subprocess.run([*command, "-o", tmp_path, "jaxpu", "data_pipeline"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr
    for package in ("jaxpu", "data_pipeline"):
        for path in (ROOT / package).rglob("[!_]*.py"):
            assert (tmp_path / path.relative_to(ROOT).with_suffix(".html")).exists()
    assert "complex64 (n, frames, bins), STFT of mixtures." in (tmp_path / "jaxpu" / "objectives.html").read_text()
