"""Files that are whole or not there, results that read back as written, configs that are strict."""

import importlib
import importlib.util
import pickle
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from distill import files, untrusted
from distill.config import config_hash, config_to_dict, load_config, save_config
from distill.errors import FootfallError, is_installed, require
from distill.geometry.rotations import matrix_from_rotvec
from distill.results import Cameras, Motion, Result, load_result, read_ply, save_result, write_ply
from tests.conftest import TOLERANCES

ROOT = Path(__file__).resolve().parent.parent

# Files


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_arrays_read_back_as_written(tmp_path: Path) -> None:
    arrays = {
        "half": np.linspace(0, 1, 7).astype(np.float16),
        "flags": np.array([[True, False]]),
        "empty": np.zeros((0, 3), np.float32),
        "wide": np.arange(3, dtype=np.int64),
    }
    meta = {"unit": "m", "nested": {"list": [1, None, "ä"]}}
    files.save_arrays(tmp_path / "a.npz", arrays, meta)
    read, read_meta = files.load_arrays(tmp_path / "a.npz")
    assert read_meta == meta
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_writer_refuses_what_others_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object arrays"):
        files.save_arrays(tmp_path / "a.npz", {"x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def damaged(kind: str, path: Path) -> None:
    """Put a damaged .npz at `path`."""
    files.save_arrays(path, {"x": np.random.default_rng(0).random((200, 30))}, {"a": 1})
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 2]
    elif kind == "flipped":
        data[len(data) // 3 : len(data) // 3 + 64] = bytes(64)
    elif kind == "empty":
        data = bytearray()
    elif kind == "text":
        data = bytearray(b"not a zip file")
    elif kind == "object array":
        np.savez(path, x=np.array([{"a": 1}], dtype=object))
        return
    elif kind == "pickle":
        data = bytearray(pickle.dumps({"x": 1}))
    elif kind == "missing":
        path.unlink()
        return
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "text", "object array", "pickle", "missing"])
def test_damaged_arrays_are_one_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    damaged(kind, path)
    with pytest.raises(FootfallError, match=r"a\.npz: got .* expected arrays"):
        files.load_arrays(path)


def test_any_damage_is_the_same_kind_of_error(tmp_path: Path) -> None:
    """One wrong byte anywhere, or an end anywhere: the arrays, or the one error that users see."""
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    written = rng.random((40, 30))
    files.save_arrays(path, {"x": written}, {"a": 1})
    whole = path.read_bytes()
    refused = 0
    for trial in range(600):
        data, place = bytearray(whole), int(rng.integers(len(whole)))
        data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data[:place] if trial % 3 == 0 else data)
        try:
            arrays, _ = files.load_arrays(path)
        except FootfallError:
            refused += 1
        else:
            np.testing.assert_array_equal(arrays["x"], written)
    assert refused > 550


def test_archive_that_would_fill_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save_arrays(tmp_path / "a.npz", {"x": np.zeros(100_000)})
    monkeypatch.setattr(untrusted, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(FootfallError, match="bytes unpacked"):
        files.load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00"])
def test_damaged_json_is_one_clear_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(FootfallError, match="expected a JSON file"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(FootfallError, match="expected a JSON file"):
        files.read_json(tmp_path / "missing.json")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert files.sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Errors


def test_error_is_one_line_with_its_four_parts() -> None:
    error = FootfallError("file", got="a\nb", expected="c", do="d")
    assert str(error) == "file: got a b; expected c; d"
    assert (error.what, error.got, error.expected, error.do) == ("file", "a\nb", "c", "d")


def test_require_names_the_extra() -> None:
    assert require("pickle", extra="teacher") is pickle
    assert is_installed("pickle")
    assert not is_installed("no_such_package_of_ours")
    with pytest.raises(FootfallError, match=r"pip install 'footfall\[teacher\]'"):
        require("no_such_package_of_ours.part", extra="teacher")


def test_require_does_not_hide_a_broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there, but lacks something itself, is not "not installed"."""
    (tmp_path / "half_there_for_test.py").write_text("import no_such_package_of_ours")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_of_ours"):
        require("half_there_for_test", extra="teacher")


# Results


def random_rotations(rng: np.random.Generator, *batch: int) -> np.ndarray:
    return matrix_from_rotvec(torch.from_numpy(rng.normal(size=(*batch, 3)))).numpy()


def make_result(frames: int = 5, people: int = 2) -> Result:
    rng = np.random.default_rng(3)

    def rigid(*batch: int) -> np.ndarray:
        made = np.tile(np.eye(4), (*batch, 1, 1))
        made[..., :3, :3] = random_rotations(rng, *batch)
        made[..., :3, 3] = rng.normal(size=(*batch, 3))
        return made

    return Result(
        cameras=Cameras(
            K=np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), size=(640, 480),
            timestamps=np.cumsum(rng.random(frames)), world_from_cam=rigid(frames), valid=rng.random(frames) > 0.5,
        ),
        motion=Motion(
            ids=np.arange(people) + 4, present=rng.random((frames, people)) > 0.3, body_model="anny",
            betas=rng.normal(size=(people, 10)), body_rot=random_rotations(rng, frames, people, 23),
            cam_from_body=rigid(frames, people), joints_cam=rng.normal(size=(frames, people, 24, 3)),
            contact_prob=rng.random((frames, people, 6)), stature=1.5 + 0.4 * rng.random(people),
            confidence=rng.random((frames, people)),
        ),
        scene_points=rng.normal(size=(30, 3)), scene_rgb=rng.integers(0, 256, (30, 3)).astype(np.uint8),
        meta={"world": "z_up_ground", "note": "made up"},
    )  # fmt: skip


def assert_same(read: Result, written: Result) -> None:
    tolerance = TOLERANCES[torch.float32]
    for part in ("cameras", "motion"):
        for name, value in vars(getattr(written, part)).items():
            got = getattr(getattr(read, part), name)
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(got, value, **tolerance, err_msg=name)
            else:
                assert got == value
    np.testing.assert_allclose(read.scene_points, written.scene_points, **tolerance)
    np.testing.assert_array_equal(read.scene_rgb, written.scene_rgb)
    assert read.meta == written.meta


@pytest.mark.parametrize("people", [0, 1, 2])
def test_result_reads_back_as_written(people: int, tmp_path: Path) -> None:
    written = make_result(people=people)
    save_result(tmp_path / "r", written)
    assert_same(load_result(tmp_path / "r"), written)


def test_stated_deviations_read_back_and_have_one_value_a_frame(tmp_path: Path) -> None:
    written = make_result()
    frames, people = written.motion.present.shape
    written.cameras.sigma_m = np.linspace(0, 1, frames)
    written.motion.sigma_m = np.linspace(0, 2, frames * people).reshape(frames, people)
    save_result(tmp_path / "r", written)
    assert_same(load_result(tmp_path / "r"), written)
    written.cameras.sigma_m = np.zeros(frames - 1)
    with pytest.raises(ValueError, match=r"cameras\.sigma_m has shape"):
        save_result(tmp_path / "s", written)


def test_world_is_the_camera_applied_to_the_body(tmp_path: Path) -> None:
    result = make_result()
    frame, person = 3, 1
    expected = result.cameras.world_from_cam[frame] @ result.motion.cam_from_body[frame, person]
    np.testing.assert_allclose(result.world_from_body[frame, person], expected)
    joint = np.append(result.motion.joints_cam[frame, person, 7], 1.0)
    np.testing.assert_allclose(
        result.joints_world[frame, person, 7], (result.cameras.world_from_cam[frame] @ joint)[:3]
    )
    save_result(tmp_path, result)
    stored, _ = files.load_arrays(tmp_path / "motion.npz")
    np.testing.assert_allclose(stored["joints_world"], result.joints_world, **TOLERANCES[torch.float32])
    np.testing.assert_allclose(
        stored["world_from_body_trans"], result.world_from_body[..., :3, 3], **TOLERANCES[torch.float32]
    )


def break_result(kind: str, folder: Path) -> None:
    if kind == "truncated motion":
        data = (folder / "motion.npz").read_bytes()
        (folder / "motion.npz").write_bytes(data[: len(data) // 2])
    elif kind == "no meta":
        (folder / "meta.json").unlink()
    elif kind == "other format":
        files.write_json(folder / "meta.json", {"format": "footfall-result/999", "world": "first_camera"})
    elif kind == "meta is a list":
        files.write_json(folder / "meta.json", [])
    elif kind == "array gone":
        arrays, meta = files.load_arrays(folder / "motion.npz")
        del arrays["stature"]
        files.save_arrays(folder / "motion.npz", arrays, meta)
    elif kind == "frames disagree":
        arrays, meta = files.load_arrays(folder / "cameras.npz")
        files.save_arrays(folder / "cameras.npz", {**arrays, "valid": arrays["valid"][:-1]}, meta)
    elif kind == "truncated scene":
        data = (folder / "scene.ply").read_bytes()
        (folder / "scene.ply").write_bytes(data[:-7])


@pytest.mark.parametrize(
    "kind",
    [
        "truncated motion",
        "no meta",
        "other format",
        "meta is a list",
        "array gone",
        "frames disagree",
        "truncated scene",
    ],
)
def test_damaged_result_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    save_result(tmp_path, make_result())
    break_result(kind, tmp_path)
    with pytest.raises(FootfallError, match="expected"):
        load_result(tmp_path)


def test_result_that_is_wrong_is_not_written(tmp_path: Path) -> None:
    result = make_result()
    broken = {
        "not finite": replace(result, scene_points=np.full((30, 3), np.nan), scene_rgb=np.zeros((30, 3), np.uint8)),
        "world": replace(result, meta={"world": "up"}),
        "valid has shape": replace(result, cameras=replace(result.cameras, valid=np.ones(2, bool))),
    }
    broken["not finite"].motion = replace(result.motion, stature=np.array([np.nan, 1.7]))
    for reason, wrong in broken.items():
        with pytest.raises(ValueError, match=reason):
            save_result(tmp_path / "r", wrong)
    assert not (tmp_path / "r").exists()


def test_ply_is_what_other_programs_read(tmp_path: Path) -> None:
    """Header and byte layout, by hand; then `trimesh`, which is another's reader."""
    points = np.array([[0.0, 1.0, 2.0], [-1.5, 0.25, 3.0]], np.float32)
    colours = np.array([[1, 2, 3], [250, 128, 0]], np.uint8)
    write_ply(tmp_path / "s.ply", points, colours)
    head, body = (tmp_path / "s.ply").read_bytes().split(b"end_header\n")
    assert b"element vertex 2" in head
    assert body[:15] == points[0].tobytes() + bytes([1, 2, 3])
    read_points, read_colours = read_ply(tmp_path / "s.ply")
    np.testing.assert_array_equal(read_points, points)
    np.testing.assert_array_equal(read_colours, colours)
    import trimesh

    cloud = trimesh.load(tmp_path / "s.ply")
    np.testing.assert_array_equal(cloud.vertices, points)
    np.testing.assert_array_equal(cloud.colors[:, :3], colours)


# Configs


@dataclass(kw_only=True)
class Inner:
    kind: Literal["slow", "fast"] = "slow"
    size: tuple[int, int] = (4, 3)


@dataclass(kw_only=True)
class Outer:
    steps: int = 10
    rate: float = 0.1
    name: str = "x"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}, expected at least 1")


def test_config_order_is_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 20\nrate: 1e-4\ninner: {kind: fast}\n")
    config = load_config(Outer, tmp_path / "c.yaml", ["steps=30", "inner.size=[8,6]", "limit=2"])
    assert (config.steps, config.rate, config.name, config.limit) == (30, 1e-4, "x", 2.0)
    assert isinstance(config.inner, Inner)
    assert (config.inner.kind, tuple(config.inner.size)) == ("fast", (8, 6))
    assert load_config(Outer) == Outer()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("stepz=3", "Did you mean: 'steps'"),
        ("inner.knd=fast", "Did you mean: 'kind'"),
        ("steps=many", "many"),
        ("steps=0", "at least 1"),
        ("inner.kind=medium", "medium"),
        ("steps", "no '='"),
    ],
)
def test_config_refuses(override: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(FootfallError, match="expected") as caught:
        load_config(Outer, None, [override])
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["steps: [", "- 1\n- 2\n", "stepz: 3\n", "steps: {a: 1}\n", "\x00"])
def test_config_file_that_is_wrong_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(FootfallError, match=r"c\.yaml"):
        load_config(Outer, path)
    with pytest.raises(FootfallError, match="no such file"):
        load_config(Outer, tmp_path / "missing.yaml")


def test_saved_config_loads_again(tmp_path: Path) -> None:
    config = Outer(steps=7, rate=3e-5, limit=None, inner=Inner(kind="fast"))
    save_config(tmp_path / "c.yaml", config)
    again = load_config(Outer, tmp_path / "c.yaml")
    assert config_to_dict(again) == config_to_dict(config)
    assert config_hash(again) == config_hash(config)


def test_config_hash_changes_with_every_value_and_only_then() -> None:
    base: Any = Outer()
    others = [Outer(steps=11), Outer(rate=0.2), Outer(limit=1.0), Outer(inner=Inner(kind="fast"))]
    assert len({config_hash(config) for config in [base, *others]}) == 5
    assert config_hash(Outer()) == config_hash(base) == "a1177be84e25cc73"  # folders in use hold it


@pytest.mark.parametrize("schema", ["teacher.config:LabelConfig", "distill.train_config:TrainConfig"])
def test_the_real_configs_save_and_load(schema: str, tmp_path: Path) -> None:
    module, name = schema.split(":")
    config = getattr(importlib.import_module(module), name)()
    save_config(tmp_path / "c.yaml", config)
    assert config_hash(load_config(type(config), tmp_path / "c.yaml")) == config_hash(config)


@pytest.mark.parametrize("name", ["base", "debug", "demo"])
def test_student_recipes_load(name: str) -> None:
    from distill.train_config import TrainConfig

    path = ROOT / "configs" / "student" / f"{name}.yaml"
    assert load_config(TrainConfig, path) != TrainConfig()


def test_page_of_settings_is_current_and_complete() -> None:
    """`docs/configuration.md` is what the code says now, and every field says what it means."""
    path = ROOT / ".ci" / "configuration_page.py"
    spec = importlib.util.spec_from_file_location("configuration_page", path)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    made = page.make_page()
    assert [line for line in made.splitlines() if line.endswith("|  |")] == []
    assert page.PAGE.read_text(encoding="utf-8") == made, f"run: .venv/bin/python {path.relative_to(ROOT)}"


def test_no_choice_is_a_word_that_yaml_takes_for_a_truth_value() -> None:
    """`key=off` on a command line arrives as False."""
    root = Path(__file__).resolve().parent.parent
    words = re.compile(r'Literal\[[^\]]*"(on|off|yes|no|true|false|y|n)"', re.IGNORECASE)
    sources = [path for room in ("distill", "teacher") for path in (root / room).rglob("*.py")]
    assert len(sources) > 100
    assert [path.name for path in sources if words.search(path.read_text(encoding="utf-8"))] == []
