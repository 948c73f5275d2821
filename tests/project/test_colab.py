"""The notebooks run from top to bottom, with small parameters."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import soundfile

from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18, Musdb18HQ
from jaxpu.cli.demo_pipeline import example_songs

COLAB = Path(__file__).parents[2] / "colab"


BADGE = re.compile(
    r"\[!\[Open in Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
    r"\(https://colab\.research\.google\.com/github/(.+)/blob/main/colab/(.+)\)"
)


@pytest.fixture(autouse=True)
def as_in_colab(monkeypatch: pytest.MonkeyPatch, shared_compilations: dict[str, str]) -> None:
    """One device, and figures below their cells; but compiled quickly, for a few steps."""
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("MPLBACKEND")
    for name, value in shared_compilations.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def one_core() -> Iterator[None]:
    """A few small songs are sooner done than worker processes start; those of a notebook are in `test_quickstart`."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def run(name: str, where: Path, **parameters: Any) -> list[dict[str, Any]]:
    """What the notebook displays, by MIME type, when it runs in the folder `where`."""
    written = where / name
    papermill.execute_notebook(COLAB / name, written, parameters, cwd=where, progress_bar=False)
    cells = nbformat.read(written, as_version=4).cells
    return [output.data for cell in cells for output in cell.get("outputs", []) if output.output_type == "display_data"]


@pytest.mark.parametrize("path", sorted(COLAB.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_has_no_outputs_one_cell_of_parameters_a_badge_and_no_definitions(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in notebook["cells"]) == 1
    assert "find_spec" in "".join(notebook["cells"][1]["source"])
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not re.search(r"^\s*(def|class|async def) ", "\n".join(code), re.MULTILINE)
    (badge,) = BADGE.findall("".join(notebook["cells"][0]["source"]))
    assert badge == ("REPOSITORY", path.name)
    assert f"%pip install -q git+https://github.com/{badge[0]}\n" in code[0] + "\n"


def test_songs_that_cannot_be_downloaded_are_synthesized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"num_train": 1, "num_test": 1, "seconds": 4.0, "sample_rate": 8000}
    source = example_songs("musdb", tmp_path, **settings, url="http://127.0.0.1:9/set.zip")
    assert source == Musdb18HQ(tmp_path / "synthetic")
    assert re.search(r"set\.zip: cannot be downloaded to .* songs are synthesized\.\n$", capsys.readouterr().out)
    assert len(list((tmp_path / "synthetic").glob("*/*/mixture.wav"))) == 2
    for split in ("train", "test"):
        (tmp_path / "musdb" / split).mkdir(parents=True)
    assert example_songs("musdb", tmp_path, **settings) == Musdb18(tmp_path / "musdb")
    with pytest.raises(ValueError, match=r"songs is 'musbd'; it must be 'synthetic' or 'musdb'"):
        example_songs("musbd", tmp_path, **settings)  # type: ignore[arg-type]


@pytest.mark.timeout(600)
def test_quickstart(tmp_path: Path) -> None:
    small = {"num_train": 6, "num_test": 1, "seconds": 4.0, "sample_rate": 8000, "baseline_steps": 2, "num_steps": 4}
    shown = run("quickstart.ipynb", tmp_path, folder="out", **small)
    curves, pictures, players = (
        [number for number, data in enumerate(shown) if text in str(data)] for text in ("data:image/webp", "image/png", "<audio")
    )
    assert (len(curves), len(pictures), len(players)) == (2, 1, 4)
    assert max(curves) < min(pictures) < min(players)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_core")
def test_your_recordings(tmp_path: Path) -> None:
    corpus = synthesize(tmp_path / "corpus", num_train=8, num_test=1, seconds=6.0, num_workers=1, progress=False)
    songs = sorted((corpus / "train").iterdir())
    for folder, chosen, name in (("songs", songs[:4], "mixture"), ("instrumentals", songs[4:], "other")):
        (tmp_path / folder).mkdir()
        for song in chosen:
            (tmp_path / folder / f"{song.name}.wav").symlink_to(song / f"{name}.wav")
    settings = {"with_target": "songs", "without_target": "instrumentals", "to_separate": "songs", "target": "voice"}
    shown = run("your_recordings.ipynb", tmp_path, folder="out", num_steps=4, num_players=2, **settings)
    assert sum("<audio" in data.get("text/html", "") for data in shown) == 6
    separated = sorted((tmp_path / "out" / "separated").glob("*/*.flac"))
    assert [path.name for path in separated] == ["accompaniment.flac", "voice.flac"] * 4
    assert soundfile.info(separated[0]).frames == 6 * 16_000
    assert (tmp_path / "out" / "separated.zip").exists()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_core")
def test_reproduce_baseline(tmp_path: Path) -> None:
    settings = {
        "folder": "out",
        "num_songs": 4,
        "seconds": 4.0,
        "num_steps": 2,
        "batch_size": 2,
        "names": ["aligned", "supervised"],
    }
    shown = run("reproduce_baseline.ipynb", tmp_path, **settings)
    assert sum("<audio" in data.get("text/html", "") for data in shown) == 1
    assert "supervised" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
