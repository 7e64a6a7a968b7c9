"""The notebook of the documentation: what is committed was run, is small, and runs again."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_committed_notebook_was_run_from_top_to_bottom_and_is_small() -> None:
    cells = code_cells(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"stream", "display_data", "execute_result"}  # no error
    assert NOTEBOOK.stat().st_size < 400_000
    assert not re.search(r"/(tmp|root|home|work)/", NOTEBOOK.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_notebook_runs_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells, in a kernel of its own whose sockets reach this machine only; pictures and numbers come out."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    blocked = "import socket\nreal = socket.socket.connect\ndef connect(self, address):\n"
    blocked += "    assert not isinstance(address, tuple) or address[0] in ('127.0.0.1', '::1', 'localhost'), address\n"
    blocked += "    return real(self, address)\nsocket.socket.connect = connect\n"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(blocked)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hooks"))
    spec = importlib.util.spec_from_file_location("notebook", ROOT / ".ci" / "notebook.py")
    assert spec is not None and spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    cells = code_cells(runner.clean(runner.execute(tmp_path)))
    pictures = [output for cell in cells for output in cell["outputs"] if "image/jpeg" in output.get("data", {})]
    assert len(pictures) == 3
    scores = cells[-1]["outputs"][-1]["data"]["text/plain"]
    assert float(re.search(r"'pa_mpjpe_mm': ([0-9.]+)", scores)[1]) < 150  # type: ignore[index]
    assert (tmp_path / "footfall-quickstart" / "converted" / "result.glb").stat().st_size > 1e6
