"""Run docs/quickstart.ipynb from top to bottom and write it with its outputs.

    .venv/bin/python .ci/notebook.py

Outputs are kept in the file, so that it can be read without running it: pictures are small, and what only says how
this machine is (warnings, progress) is taken out. A test runs the notebook again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "quickstart.ipynb"
TIMEOUT_S = 900
"""Of one cell."""


def execute(folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs, run in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=kernel).execute()
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without standard error, lines of progress, times and the interpreter's version."""
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = str(output.text).splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.lstrip().startswith("run "))
        kept = [
            output for output in cell.get("outputs", []) if output.get("name") != "stderr" and output.get("text") != ""
        ]
        if cell.cell_type == "code":
            cell.outputs = kept
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def main() -> int:
    """Run and write."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(clean(execute(Path(folder))), NOTEBOOK)
    print(f"written to {NOTEBOOK}, {NOTEBOOK.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
