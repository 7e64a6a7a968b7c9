"""Inputs of `footfall label`: everything wrong is said before anything runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from teacher.manifest import fingerprint, read_inputs


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(b"contents are not looked at here")
    return path


def write_jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_video_becomes_clip_with_safe_id(video: Path) -> None:
    (clip,) = read_inputs([video])
    assert clip.id == "a-clip"
    assert clip.path == str(video.resolve())


def test_folder_lists_its_videos_in_order(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mov", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [clip.id for clip in read_inputs([tmp_path])] == ["a", "b"]


def test_folder_of_images_is_one_clip(tmp_path: Path) -> None:
    folder = tmp_path / "take1"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"x")
    assert [clip.id for clip in read_inputs([folder])] == ["take1"]


def test_jsonl_and_csv_agree(tmp_path: Path, video: Path) -> None:
    pose = np.eye(4).tolist()
    lens = {"fx": 500.0, "fy": 501.0, "cx": 320.0, "cy": 240.0, "distortion": [0.1, 0.0, 0.0, 0.0]}
    row = {"path": video.name, "id": "x", "licence": "CC0", "source": "here", "fps": 30.0, "intrinsics": lens,
           "world_from_cam": pose}  # fmt: skip
    from_jsonl = read_inputs([write_jsonl(tmp_path, row)])
    table = tmp_path / "m.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row))
        writer.writeheader()
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    assert read_inputs([table]) == from_jsonl
    assert from_jsonl[0].intrinsics == lens


REFLECTION = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "missing.mp4"}, "no such file"),
        ({"pth": "a clip.mp4"}, "did you mean 'path'"),
        ({"path": "a clip.mp4", "id": "../escape"}, "id '../escape'"),
        ({"path": "a clip.mp4", "fps": -1}, "fps -1"),
        ({"path": "a clip.mp4", "fps": True}, "fps True"),
        ({"path": "a clip.mp4", "intrinsics": {"fx": 1}}, "intrinsics"),
        ({"path": "a clip.mp4", "intrinsics": {"fx": -5, "fy": 5, "cx": 1, "cy": 1}}, "intrinsics"),
        ({"path": "a clip.mp4", "world_from_cam": [[1, 0], [0, 1]]}, "world_from_cam"),
        ({"path": "a clip.mp4", "world_from_cam": REFLECTION}, "world_from_cam"),
        ({"path": "a clip.mp4", "world_from_cam": [["x"]]}, "world_from_cam"),
        ({}, "no path"),
        ([1, 2], "list"),
        ("{not json", "row 2"),
    ],
)
def test_malformed_row_names_itself(tmp_path: Path, video: Path, row: object, message: str) -> None:
    manifest = write_jsonl(tmp_path, {"path": video.name, "id": "good"}, row)
    with pytest.raises(FootfallError, match="row 2") as caught:
        read_inputs([manifest])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_with_a_missing_cell_names_its_row(tmp_path: Path, video: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text(f"path,id\n{video.name},one\n{video.name}\n")
    with pytest.raises(FootfallError, match="row 3"):
        read_inputs([table])


def test_equal_ids_are_refused(tmp_path: Path, video: Path) -> None:
    manifest = write_jsonl(tmp_path, {"path": video.name}, {"path": video.name})
    with pytest.raises(FootfallError, match="twice"):
        read_inputs([manifest])


@pytest.mark.parametrize("name", ["gone.mp4", "gone.jsonl"])
def test_missing_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootfallError, match="no such file"):
        read_inputs([tmp_path / name])


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    with pytest.raises(FootfallError, match=r"'\.txt'"):
        read_inputs([path])


def test_binary_manifest_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(FootfallError, match="UTF-8"):
        read_inputs([path])


def test_fingerprint_of_image_folder_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"a")
    before = fingerprint(tmp_path)
    (tmp_path / "0.jpg").write_bytes(b"b")
    changed = fingerprint(tmp_path)
    (tmp_path / "0.jpg").rename(tmp_path / "1.jpg")
    assert len({before, changed, fingerprint(tmp_path)}) == 3
