"""The documentation as a site: it builds without a warning, and holds what the hooks add."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("material")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci" / "site_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors, navigation and every docstring of the reference."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert {"index.html", "faq.html", "gallery.html", "quickstart.html", "api/distill.geometry.html"} <= pages
    first = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="teacher.html"' in first and 'src="pictures/demo.jpg"' in first
    reference = (tmp_path / "api" / "distill.html").read_text(encoding="utf-8")
    assert "FootfallError" in reference and "The one error that users see" in reference
    assert "data:image/jpeg;base64," in (tmp_path / "quickstart.html").read_text(encoding="utf-8")
    assert "world_from_cam" in (tmp_path / "source" / "teacher" / "stagefiles.py.html").read_text(encoding="utf-8")
    outside = [page for page in pages if "https://fonts.g" in (tmp_path / page).read_text(encoding="utf-8")]
    assert outside == []  # a reader fetches nothing from elsewhere


def test_every_page_is_in_the_navigation() -> None:
    from mkdocs.config import load_config

    nav = str(load_config(str(ROOT / "mkdocs.yml")).nav)
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"'{path.name}'" not in nav] == []


def test_links_out_of_the_documentation(hooks: ModuleType) -> None:
    assert hooks.repository_path("../LICENSE", "faq.md") == "LICENSE"
    assert hooks.repository_path("teacher.md", "faq.md") is None
    assert hooks.repository_path("docs/faq.md", "index.md") == "docs/faq.md"  # of the README
    assert hooks.repository_path("../../../etc/passwd", "faq.md") is None
    text = "[a](../LICENSE) [b](faq.md) [c](https://x.org/d.py) [d](../tests) [e](../README.md#how-it-works)"
    assert hooks.sources_in(text, "faq.md") == {"LICENSE", "README.md"}


def test_notebook_as_a_page(hooks: ModuleType) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["print(1)\n", "x"], "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
            {"output_type": "display_data", "data": {"image/jpeg": "QUJD\n", "text/plain": ["<Image>"]}},
            {"output_type": "execute_result", "data": {"text/plain": ["7"]}},
        ]},
    ]  # fmt: skip
    shown = hooks.notebook_page({"cells": cells})
    picture = "![output of the cell](data:image/jpeg;base64,QUJD)"
    assert shown == (f"# Title\n\n```python\nprint(1)\nx\n```\n\n```text\n1\n```\n\n{picture}\n\n```text\n7\n```\n")


def test_text_with_fences_is_fenced_by_more(hooks: ModuleType) -> None:
    assert hooks.source_text("README.md").splitlines()[2] == "````markdown"


def test_reference_has_every_package_but_the_command_line(hooks: ModuleType) -> None:
    packages = hooks.packages()
    assert packages["distill.geometry"][0] == "distill.geometry"
    assert "distill.geometry.conventions" in packages["distill.geometry"]
    assert "distill.errors" in packages["distill"] and "teacher.pipeline" in packages["teacher"]
    modules = [module for inside in packages.values() for module in inside]
    assert not [module for module in modules if module.split(".")[1:2] in (["cli"], ["commands"])]
