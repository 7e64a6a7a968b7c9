"""The wheel `footfall-onnx`: all that the runner needs and nothing that needs PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "packages" / "onnx" / "pyproject.toml"

ALONE = """
import sys

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {"torch", "teacher", "roma", "timm", "omegaconf", "yaml", "safetensors", "rich"}:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Without)
"""
"""Makes PyTorch, the teacher and what comes with them look not installed."""


def test_its_files_import_what_it_brings(unpacked: Path) -> None:
    files = sorted((unpacked / "distill").rglob("*.py"))
    names = {str(path.relative_to(unpacked)) for path in files}
    assert {"distill/runner/__main__.py", "distill/fuser/smoother.py", "distill/results.py"} <= names
    assert not {"distill/stream.py", "distill/models/student.py", "distill/trainer.py"} & names
    assert len(names) < 70
    outside = {name for path in files for name in early_imports(path)} - sys.stdlib_module_names
    assert outside == {"distill", "numpy", "scipy", "PIL"}  # the others in functions: decord, onnxruntime


def early_imports(path: Path) -> set[str]:
    """Top-level packages that a file imports when it is imported."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    plain = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    plain |= {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain}


def test_it_is_of_the_same_version_and_asks_for_no_more() -> None:
    whole, alone = (tomllib.loads(path.read_text())["project"] for path in (ROOT / "pyproject.toml", PROJECT))
    assert alone["version"] == whole["version"]
    assert alone["scripts"]["footfall-onnx"] == whole["scripts"]["footfall-onnx"]
    known = {*whole["dependencies"], *whole["optional-dependencies"]["onnx"]}
    assert set(alone["dependencies"]) <= known
    assert not [line for line in alone["dependencies"] if line.startswith("torch")]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, away from the checkout."""
    out = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(PROJECT.parent)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("footfall_onnx-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_it_starts_without_pytorch_and_says_what_is_wrong(unpacked: Path, tmp_path: Path) -> None:
    code = ALONE + (
        f"sys.path.insert(0, {str(unpacked)!r})\n"
        "import distill.runner.__main__ as runner\n"
        f"assert runner.__file__.startswith({str(unpacked)!r}), runner.__file__\n"
        "code = runner.main(['clip.mp4', '--graphs', 'nowhere', '--out', 'out'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("footfall-onnx: nowhere/export.json: got")
    assert len(done.stderr.strip().splitlines()) == 1
