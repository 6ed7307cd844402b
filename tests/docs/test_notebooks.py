"""Every notebook runs top to bottom in a clean kernel, shows its figures, needs no torch, and is stripped in git."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'rl-scaling[dev]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'rl-scaling[dev]'")

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"
NOTEBOOKS = sorted(ANALYSIS.glob("*.ipynb"))
FIGURES = {"1": 1, "2": 1, "3": 1, "4": 2, "5": 1, "6": 1}  # at least so many each
NO_TORCH = "import sys; assert not {'torch', 'trl', 'transformers', 'wandb', 'hydra'} & set(sys.modules)"


def test_all_six_are_there():
    assert [path.name[0] for path in NOTEBOOKS] == list(FIGURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stripped(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_top_to_bottom(path):
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(NO_TORCH))
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ANALYSIS)}}).execute()
    data = [o.get("data", {}) for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("application/vnd.plotly.v1+json" in d for d in data) >= FIGURES[path.name[0]]
    told = "".join(o.text for c in book.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream")
    assert "Error" not in told and "Traceback" not in told
