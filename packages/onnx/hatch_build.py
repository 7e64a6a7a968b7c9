"""Which files of `distill` the wheel footfall-onnx holds: those that its runner imports, found by reading them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent.parent.parent
START: Final = ("distill/runner/__main__.py", "distill/runner/__init__.py")
DATA: Final = ("distill/fuser/uncertainty.json", "distill/py.typed")
"""Files beside the modules."""


def needed_files() -> list[str]:
    """Modules of ours that the runner imports, however deep; also in functions, but for those that import torch."""
    wanted, found = list(START), set(DATA)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        for module in _imports(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            parts = module.split(".")
            above = ["/".join([*parts[:k], "__init__.py"]) for k in range(1, len(parts) + 1)]
            wanted += [file for file in ("/".join(parts) + ".py", *above) if (ROOT / file).is_file()]
    return sorted(found)


def _imports(tree: ast.Module) -> set[str]:
    """Full names from `distill` that a module imports."""
    found: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for_torch = isinstance(node, ast.FunctionDef) and "import torch" in ast.unparse(node)
        if typing_only or for_torch:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        nodes += ast.iter_child_nodes(node)
    return {name for name in found if name.split(".")[0] == "distill"}


class FilesOfTheRunner(BuildHookInterface):
    """Adds them to the wheel, and the licence."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        licences = {str(ROOT / name): f"distill/{name}" for name in ("LICENSE", "NOTICE")}
        build_data["force_include"] |= {str(ROOT / name): name for name in needed_files()} | licences
