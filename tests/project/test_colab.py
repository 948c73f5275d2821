"""The notebooks: one runs from top to bottom with small parameters, and the cells of all compile and import what exists."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
import soundfile
from IPython.core.inputtransformer2 import TransformerManager

COLAB = Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@pytest.fixture(autouse=True)
def as_in_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, and figures below their cells; but compiled quickly, for a few steps."""
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("MPLBACKEND")


def run(name: str, where: Path, **parameters: Any) -> list[dict[str, Any]]:
    """Outputs that the notebook displays, by MIME type, when it runs in the folder `where`."""
    written = where / name
    papermill.execute_notebook(COLAB / name, written, parameters, cwd=where, progress_bar=False)
    cells = nbformat.read(written, as_version=4).cells
    return [output.data for cell in cells for output in cell.get("outputs", []) if output.output_type == "display_data"]


def code_cells(path: Path) -> list[str]:
    """The code of a notebook as IPython runs it: plain Python."""
    cells = nbformat.read(path, as_version=4).cells
    return [TransformerManager().transform_cell(cell.source) for cell in cells if cell.cell_type == "code"]


@every_notebook
def test_notebook_has_no_outputs_one_cell_of_parameters_and_no_definitions(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in notebook["cells"]) == 1
    assert not re.search(r"^\s*(def|class|async def) ", "\n".join(code_cells(path)), re.MULTILINE)


@every_notebook
def test_cells_compile_and_their_imports_exist(path: Path) -> None:
    imported = set()
    for code in code_cells(path):
        for node in ast.walk(ast.parse(code, path.name)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imported |= {(node.module, alias.name) for alias in node.names}
    ours = {(module, name) for module, name in imported if module.split(".")[0] in ("jaxpu", "data_pipeline")}
    assert {("jaxpu", "load_config"), ("jaxpu", "load_model")} <= ours
    for module, name in ours:
        assert hasattr(importlib.import_module(module), name), f"{path.name}: from {module} import {name}"


@every_notebook
@pytest.mark.parametrize("address", ["", "git+https://host.invalid/owner/name", "/content/jaxpu-0.1.0-py3-none-any.whl"])
def test_install_cell_installs_from_the_one_variable(path: Path, address: str) -> None:
    """In a Python without jaxpu and with nothing but the standard library."""
    install = code_cells(path)[0]
    assert install.count('repository = ""') == 1
    assert "://" not in install
    code = """class Shell:
    def run_line_magic(self, name, line):
        print(name, line.format(**globals()))
get_ipython = Shell
"""
    code += install.replace('repository = ""', f"repository = {address!r}")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    if address:
        assert (done.returncode, done.stdout) == (0, f"pip install -q {address}\n")
    else:
        assert done.returncode == 1
        assert "ValueError: repository is empty" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart(tmp_path: Path) -> None:
    small = {"num_train": 6, "num_test": 1, "seconds": 4.0, "sample_rate": 8000, "baseline_steps": 2, "num_steps": 4}
    soundfile.write(tmp_path / "song.mp3", 0.1 * np.random.default_rng(0).standard_normal((3 * 44_100, 2)), 44_100)
    shown = run("quickstart.ipynb", tmp_path, folder="out", song="song.mp3", **small)
    curves, pictures, players = (
        [number for number, data in enumerate(shown) if text in str(data)] for text in ("data:image/webp", "image/png", "<audio")
    )
    of_starter, players = players[:2], players[2:]
    assert (len(curves), len(pictures), len(players)) == (2, 1, 4)
    assert max(of_starter) < min(curves) <= max(curves) < min(pictures) < min(players)
