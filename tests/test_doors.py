"""Who may import whom, what may not be imported early, and what no file of ours does. Read from the source."""

import ast
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted([*(ROOT / "distill").rglob("*.py"), *(ROOT / "teacher").rglob("*.py")])
RECIPES = sorted((ROOT / "datasets").rglob("*.py"))
SCRIPTS = [ROOT / "train_student.py", *sorted((ROOT / ".ci").glob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OURS = [*PACKAGES, *RECIPES, *SCRIPTS]
HEAVY = {
    "cv2", "pycolmap", "ai_edge_litert", "moderngl", "embreex", "trimesh", "imageio_ffmpeg", "smplx", "gsplat",
    "timm", "torchvision", "onnx", "onnxscript", "onnxruntime", "deepspeed", "transformers", "tensorboard",
    "matplotlib", "viser", "ray", "pxr", "bpy", "aiohttp",
}  # fmt: skip
"""Optional or slow to import: only inside functions."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST) -> list[str]:
    """Full names that an import statement reaches for; empty for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        return [node.module]
    return []


def all_imports(tree: ast.Module) -> set[str]:
    """Top-level packages imported anywhere in a file, also by `require("x")` and `import_module("x")`."""
    found = {full for node in ast.walk(tree) for full in imported(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("require", "import_module") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return {full.split(".")[0] for full in found}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not the bodies of functions, nor `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def called(node: ast.Call) -> str:
    """Last part of the name of a called function: "load" of `torch.load(...)`."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def offenders(paths: list[Path], find: Callable[[ast.Module], Collection[object]]) -> dict[str, Collection[object]]:
    """File -> what `find` found in it, for the files where it found something."""
    found = {str(path.relative_to(ROOT)): find(parse(path)) for path in paths}
    return {path: what for path, what in found.items() if what}


def test_there_are_files_to_look_at() -> None:
    assert len(PACKAGES) > 80
    assert RECIPES
    assert len(TESTS) > 10


def test_distill_never_imports_teacher() -> None:
    distill = sorted((ROOT / "distill").rglob("*.py"))
    assert offenders(distill, lambda tree: {"teacher"} & all_imports(tree)) == {}


def test_nothing_imports_recipes_or_the_launch_script() -> None:
    outside = {"datasets", "train_student", "tests", "configs"}
    assert offenders(PACKAGES, lambda tree: outside & all_imports(tree)) == {}


def test_no_heavy_package_at_import() -> None:
    def early(tree: ast.Module) -> set[str]:
        return HEAVY & {full.split(".")[0] for node in at_import(tree) for full in imported(node)}

    assert offenders([*PACKAGES, ROOT / "train_student.py"], early) == {}


def test_files_and_functions_stay_small() -> None:
    def long_functions(tree: ast.Module) -> list[str]:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        return [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno >= 80]

    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in [*OURS, *TESTS]}
    assert {name: count for name, count in lines.items() if count >= 600} == {}
    assert offenders(OURS, long_functions) == {}


def test_no_pickle() -> None:
    """Two exceptions, for files whose makers ship nothing else: both unpickle a short list of names (`unpickle`)."""
    restricted = {ROOT / "distill" / "body" / "licensed.py", ROOT / "teacher" / "readers" / "pickled.py"}
    paths = [path for path in OURS if path not in restricted]
    kinds = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert offenders(paths, lambda tree: kinds & all_imports(tree)) == {}


def test_nothing_runs_what_a_file_holds() -> None:
    """No eval or exec, no shell, torch.load with weights_only=True alone, numpy without pickle."""
    assert offenders(OURS, unsafe_calls) == {}


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Calls that may run what they are given, as "line: function"."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {word.arg: is_true(word.value) for word in call.keywords}
        text = ast.unparse(call.func)
        unsafe = (
            text in ("eval", "exec", "os.system", "os.popen")
            or (text == "torch.load" and not keywords.get("weights_only"))
            or (text in ("np.load", "numpy.load") and keywords.get("allow_pickle"))
            or (text.startswith("subprocess.") and keywords.get("shell"))
        )
        if unsafe:
            found.append(f"{call.lineno}: {text}")
    return found


def is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize(
    "line",
    ["eval(text)", "torch.load(path)", "np.load(p, allow_pickle=True)", "subprocess.run(c, shell=True)", "exec(code)"],
)
def test_unsafe_calls_are_seen(line: str) -> None:
    assert unsafe_calls(ast.parse(line))


def test_imports_are_seen_wherever_they_hide() -> None:
    tree = ast.parse("def f():\n    from teacher.x import y\n    require('cv2', extra='people')\n    import a.b")
    assert all_imports(tree) == {"teacher", "cv2", "a"}
    early = [full for node in at_import(tree) for full in imported(node)]
    assert early == []
