"""What is shipped, what the base install needs, and that our `datasets/` is nobody's package."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = (
    "cv2", "pycolmap", "ai_edge_litert", "moderngl", "embreex", "trimesh", "imageio_ffmpeg", "smplx", "gsplat",
    "onnx", "onnxscript", "onnxruntime", "deepspeed", "transformers", "tensorboard", "matplotlib", "viser", "ray",
    "pxr", "rerun", "mkdocs", "aiohttp",
)  # fmt: skip
"""Top-level modules that only extras bring."""

WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""Makes the optional packages look not installed."""


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, outside the repository."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths inside a wheel built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_our_two_packages_and_nothing_else(wheel_files: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_files}
    assert {name for name in top if not name.endswith(".dist-info")} == {"distill", "teacher"}
    assert len(top) == 3


def test_wheel_holds_every_tracked_file_of_the_packages(wheel_files: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "distill", "teacher"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    tracked = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    assert {"distill/body/data/anny24.npz", "distill/body/data/NOTICE", "distill/py.typed"} <= tracked
    assert tracked <= wheel_files
    assert not [name for name in wheel_files if name.endswith(".pyc")]


def test_wheel_carries_the_licence(wheel_files: set[str]) -> None:
    names = {Path(name).name for name in wheel_files if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= names


def test_datasets_is_no_package() -> None:
    assert (ROOT / "datasets").is_dir()
    assert not list((ROOT / "datasets").rglob("__init__.py"))
    spec = importlib.util.find_spec("datasets")  # None, a namespace without origin, or Hugging Face's
    origin = spec.origin if spec is not None else None
    assert origin is None or not Path(origin).is_relative_to(ROOT / "datasets")


def test_student_imports_without_extras(tmp_path: Path) -> None:
    done = run_python(WITHOUT_EXTRAS + "from distill import Student, load_body_model; Student", tmp_path)
    assert done.returncode == 0, done.stderr


def test_label_names_the_missing_extra(tmp_path: Path) -> None:
    code = "from teacher import label\nlabel(['clip.mp4'], 'out')"
    done = run_python(WITHOUT_EXTRAS + code, tmp_path)
    assert done.returncode == 1
    assert "FootfallError: package cv2: got not installed" in done.stderr
    assert "pip install 'footfall[teacher]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["distill", "teacher", "teacher.cli"])
def test_public_faces_import_no_torch(package: str, tmp_path: Path) -> None:
    done = run_python(f"import sys, {package}\nassert 'torch' not in sys.modules", tmp_path)
    assert done.returncode == 0, done.stderr


def test_public_faces_know_their_names_only() -> None:
    import distill
    import teacher

    for face in (distill, teacher):
        assert all(getattr(face, name) is not None for name in face.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = face.nonsense


def test_version_is_the_one_of_the_project() -> None:
    import distill

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert distill.__version__ == project["version"]


def test_every_requirement_is_pinned_in_the_tested_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [
        extras[name]
        for name in (
            "people",
            "teacher",
            "synthetic",
            "smplx",
            "gaussians",
            "export",
            "convert",
            "view",
            "rerun",
            "docs",
            "demo",
            "dev",
        )
    ]
    wanted = {name_of(line) for lines in (project["dependencies"], *tested) for line in lines} - {"footfall"}
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in pinned)
    assert wanted <= {name_of(line) for line in pinned}
    assert not [line for line in pinned if line.startswith(("nvidia", "triton"))]


def name_of(requirement: str) -> str:
    """Distribution name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~; ]", requirement)[0]).lower()
