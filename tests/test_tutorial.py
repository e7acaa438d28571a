"""tutorial.ipynb: its outputs are committed, small and without traces of a machine, and every cell runs."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ldm.files import ROOT

TUTORIAL = ROOT / "tutorial.ipynb"
MOST_BYTES = 500_000


def test_every_cell_was_run_in_order_and_the_outputs_are_small_and_tell_of_no_machine() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.outputs for cell in cells)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert TUTORIAL.stat().st_size < MOST_BYTES
    text = re.sub(r'"image/(png|jpeg)": "[^"]*"', "", TUTORIAL.read_text("utf-8"))
    assert not re.search(r"/(home|root|tmp|Users|site-packages)\b", text)


@pytest.mark.slow
@pytest.mark.xdist_group("kernel")  # kernels share a history file
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "data" / "bottle", tmp_path / "data" / "bottle")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    errors = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"]
    assert not errors
    assert [path.name for path in sorted((tmp_path / "outputs" / "tutorial" / "water-bottle-1").glob("step-*"))]
    assert (tmp_path / "outputs" / "tutorial" / "txt2img-1" / "index.html").is_file()
