"""The notebooks run from top to bottom offline, on a small budget, and are committed small and whole."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = [
    "01_caption_and_fine_tune.ipynb",
    "02_conditioning_modes.ipynb",
    "03_attention_maps.ipynb",
    "04_your_own_data.ipynb",
]
LARGEST = 300_000  # bytes, outputs included


def test_the_notebooks_are_those_that_the_reader_is_sent_to():
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name, monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTIONER_NOTEBOOK_STEPS", "3")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_small_whole_and_without_errors(name):
    assert os.path.getsize(FOLDER / name) < LARGEST
    cells = nbformat.read(FOLDER / name, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert not any("/tmp/" in str(cell.outputs) for cell in code)
    assert 2 * (len(cells) - len(code)) >= len(code)  # text that teaches, not only code
