"""The curves below a notebook cell, in a real kernel: they appear while it runs, and never stop it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from jaxpu.monitoring.notebook_curves import live_curves

CELL = """
import json, pathlib, time
from jaxpu.monitoring.notebook_curves import live_curves

folder = pathlib.Path({folder!r})

def log(**values):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(values) + "\\n")

with live_curves(folder, every_s=0.05):
    {body}
    while not (folder / "go on").exists():
        time.sleep(0.05)
    log(kind="evaluate", step=40, loss=0.4, si_sdr_improvement=3.0)
print("trained")
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    manager, client = start_new_kernel()
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(kernel: Any, folder: Path, body: str) -> list[tuple[str, str]]:
    """The outputs of the cell, by kind; the cell continues as soon as it has updated its display."""
    found = []

    def note(message: dict[str, Any]) -> None:
        content, kind = message["content"], message["msg_type"]
        if kind in ("display_data", "update_display_data"):
            found.append((kind, content["data"]["text/html"]))
        if kind == "update_display_data":
            (folder / "go on").touch()
        if kind == "stream" and content["name"] == "stdout":
            found.append((kind, content["text"]))

    reply = kernel.execute_interactive(CELL.format(folder=str(folder), body=body), output_hook=note, timeout=120)
    assert reply["content"]["status"] == "ok", reply["content"]
    return found


@pytest.mark.slow
def test_curves_change_while_the_cell_runs_and_at_its_end(kernel: Any, tmp_path: Path) -> None:
    first, drawn, last, printed = outputs(kernel, tmp_path, 'log(kind="train", step=20, loss=0.7)')
    assert first[0] == "display_data"
    assert drawn[0] == last[0] == "update_display_data"
    assert "<img" not in first[1]
    assert drawn[1].count("data:image/webp") == 1
    assert last[1].count("data:image/webp") == 2
    assert 'alt="SI-SDR improvement in dB, by step"' in last[1]
    assert printed == ("stream", "trained\n")


@pytest.mark.slow
def test_an_error_in_drawing_is_reported_and_training_continues(kernel: Any, tmp_path: Path) -> None:
    *_, said, printed = outputs(kernel, tmp_path, "log(loss=0.7)")
    assert said == ("update_display_data", "<p>The curves cannot be drawn (LogError). Training continues.</p>")
    assert printed == ("stream", "trained\n")


def test_nothing_is_drawn_where_there_is_no_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 20, "loss": 0.7}\n')
    with pytest.raises(ValueError, match="of the training"), live_curves(tmp_path, every_s=0.0):
        raise ValueError("of the training")
    assert capsys.readouterr() == ("", "")
