"""Inputs of `footfall label`: everything wrong is said before anything runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from teacher.manifest import MAX_LISTED, ManifestError, fingerprint, read_inputs


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


def test_every_bad_row_is_listed_by_its_number(tmp_path: Path, video: Path) -> None:
    good = {"path": video.name}
    bad = [{**good, "fps": -1}, "{no json", {**good, "id": "good"}, {"path": "gone.mp4", "id": "x"}]
    with pytest.raises(ManifestError) as caught:
        read_inputs([write_jsonl(tmp_path, {**good, "id": "good"}, *bad)])
    assert [row.split(":")[0] for row in caught.value.rows] == ["row 2", "row 3", "row 4", "row 5"]
    lines = str(caught.value).splitlines()
    assert "4 rows with errors" in lines[0] and "nothing was started" in lines[0]
    assert ["fps -1" in lines[1], "no JSON" in lines[2], "twice" in lines[3], "gone.mp4" in lines[4]] == [True] * 4


def test_the_list_of_bad_rows_is_bounded(tmp_path: Path, video: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_inputs([write_jsonl(tmp_path, *[{"path": video.name, "fps": "x" * 5000}] * 50)])
    assert len(caught.value.rows) == 50
    assert len(str(caught.value).splitlines()) == 1 + MAX_LISTED + 1
    assert len(str(caught.value)) < 20_000


def test_a_file_url_is_a_path_and_a_web_address_is_only_recorded(tmp_path: Path, video: Path) -> None:
    web = "https://example.org/watch?v=1"
    rows = [{"path": video.as_uri(), "id": "a"}, {"url": video.as_uri(), "id": "b"},
            {"path": video.name, "url": web, "id": "c"}]  # fmt: skip
    a, b, c = read_inputs([write_jsonl(tmp_path, *rows)])
    assert a.path == b.path == c.path == str(video.resolve())
    assert (c.source, c.source_id) == (web, web)
    for row in ({"url": web}, {"path": web}):
        with pytest.raises(FootfallError, match="your own tool"):
            read_inputs([write_jsonl(tmp_path, row)])


def test_hashes_are_checked_before_anything_runs(tmp_path: Path, video: Path) -> None:
    right = fingerprint(video)
    (clip,) = read_inputs([write_jsonl(tmp_path, {"path": video.name, "sha256": right.upper()})])
    assert clip.sha256 == right
    for wrong, message in (("0" * 64, "a file with SHA-256"), ("abc", "64 hexadecimal digits")):
        with pytest.raises(FootfallError, match=message):
            read_inputs([write_jsonl(tmp_path, {"path": video.name, "sha256": wrong})])


def test_windows_hints_and_notes_are_read_from_both_kinds(tmp_path: Path, video: Path) -> None:
    row = {"path": video.name, "id": "x", "start_s": 2.5, "end_s": 9.0, "camera": "moving", "people": 2,
           "consent": "signed", "source_id": "channel 7"}  # fmt: skip
    (clip,) = read_inputs([write_jsonl(tmp_path, row)])
    assert (clip.start_s, clip.end_s, clip.camera, clip.people) == (2.5, 9.0, "moving", 2)
    assert (clip.consent, clip.source_id) == ("signed", "channel 7")
    table = tmp_path / "m.csv"
    table.write_text(",".join(row) + "\n" + ",".join(str(value) for value in row.values()) + "\n")
    assert read_inputs([table]) == [clip]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"camera": "shaking"}, "camera 'shaking'"),
        ({"camera": "known"}, "intrinsics and world_from_cam both"),
        ({"people": 0}, "people 0"),
        ({"people": 2.5}, "people 2.5"),
        ({"start_s": -1}, "start_s -1"),
        ({"start_s": 5, "end_s": 5}, "end_s 5"),
        ({"licence": "x" * 5000}, "licence of 5000 characters"),
        ({"consent": ["a"]}, "consent"),
        ({"id": "a" * 200}, "at most 128"),
        ({"fps": 10**400}, "fps"),
        ({"world_from_cam": []}, "world_from_cam"),
        ({"path": "a\0b.mp4"}, "path"),
        ({"path": "x" * 2000 + ".mp4"}, "no such file"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, video: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(FootfallError) as caught:
        read_inputs([write_jsonl(tmp_path, {"path": video.name, **row})])
    assert message in str(caught.value) and "row 1" in str(caught.value)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"fps": ' + "9" * 5000 + "}", '{"path": "\\ud800.mp4"}', "null"])
def test_hostile_json_is_a_row_with_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(FootfallError, match="row 1"):
        read_inputs([write_jsonl(tmp_path, line)])


def test_line_separators_within_texts_do_not_end_a_row(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        json.dumps({"path": video.name, "consent": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert read_inputs([path])[0].consent == "a\u2028b"
    table = tmp_path / "m.csv"
    table.write_text(f'path,consent\n{video.name},"two\nlines"\n')
    assert read_inputs([table])[0].consent == "two\nlines"


def test_huge_manifests_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher.manifest.MAX_MANIFEST_BYTES", 10)
    with pytest.raises(FootfallError, match="split it"):
        read_inputs([write_jsonl(tmp_path, {"path": "a.mp4"})])


def test_fingerprint_of_image_folder_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"a")
    before = fingerprint(tmp_path)
    (tmp_path / "0.jpg").write_bytes(b"b")
    changed = fingerprint(tmp_path)
    (tmp_path / "0.jpg").rename(tmp_path / "1.jpg")
    assert len({before, changed, fingerprint(tmp_path)}) == 3
