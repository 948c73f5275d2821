"""The notebooks run from top to bottom."""

from pathlib import Path

import nbclient
import nbformat
import pytest

COLAB = Path(__file__).parent.parent / "colab"
PARAMETERS = {
    "quickstart.ipynb": "folder = {folder!r}\nnum_train, num_test, seconds = 6, 1, 6.0\nnum_steps = 8\n",
}


@pytest.mark.parametrize("path", sorted(COLAB.glob("*.ipynb")), ids=lambda path: path.name)
@pytest.mark.timeout(600)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND")  # As in a notebook, where figures appear below the cell.
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed with outputs"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    tagged[0].source = PARAMETERS[path.name].format(folder=str(tmp_path / "out"))
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    displayed = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "display_data"]
    kinds = [kind for output in displayed for kind in output.data]
    assert kinds.count("image/png") == 2
    assert sum("<audio" in output.data.get("text/html", "") for output in displayed) == 4
