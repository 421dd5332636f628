"""The notebook in examples/, executed as Jupyter does; it is stored without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "replay_a_curve.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(code) > 3
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of Jupyter's
def test_the_notebook_replays_its_curve_and_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "1000 readings, updates 1 to 1000" in told
    for name in ("plateau", "greedy", "open-ended", "adaptive"):
        assert f"{name}: 0 decisions" not in told
        assert f"{name}: " in told
    assert "cosine: 0 decisions, hypothetical from update 1" in told
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
