"""Labels on disk: an index that tells the truth, appending, damage found and mended, older schemas rewritten."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.shards.labels import Labels, read_labels
from distill.shards.manifest import check_manifest
from distill.shards.reader import ShardReader, find_shards
from distill.shards.repair import migrate, repair
from distill.shards.rows import INDEX_NAME, read_index
from distill.shards.schema import FIELDS, Sample, to_members
from distill.shards.statistics import write_statistics
from distill.shards.tarred import end_of, find_places, from_piece, to_piece
from distill.shards.tombstones import Tombstone, add_tombstone
from distill.shards.verify import VerifyConfig, verify
from distill.shards.writer import append_shards, write_shards
from tests.labels_support import contents, cut_off_at
from tests.remote_support import serve
from tests.shard_support import make_sample, make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)

GOLDEN = Path(__file__).resolve().parent / "data" / "shards-v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of six clips in three shards."""
    out = tmp_path_factory.mktemp("made")
    make_shards(out, samples=6, frames=8)
    return out


@pytest.fixture
def labels(made: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return Path(shutil.copytree(made, tmp_path / "labels"))


def keys(out: Path) -> list[str]:
    """Of all samples that training reads."""
    return [sample.key for sample in ShardReader(find_shards(str(out)).urls, seed=0, rank=0, world=1, shuffle=False)]


def load(out: Path) -> Labels:
    found = read_labels(out)
    assert found is not None
    return found


def clip(number: int) -> Sample:
    return make_sample(f"clip{number:02d}-000000", frames=8)


def test_each_row_finds_its_sample_by_bytes(made: Path) -> None:
    rows = load(made).all_rows
    assert len(rows) == 6
    for row in rows:
        with (made / "shards" / row.shard).open("rb") as stream:
            stream.seek(row.offset)
            piece = stream.read(row.bytes)
        assert hashlib.sha256(piece).hexdigest() == row.sha256
        sample = from_piece(piece)
        assert (sample.key, sample.meta["clip"], sample.meta["source_id"]) == (row.key, row.clip, row.source_id)
        assert row.weights == ["blazepose"]
        assert row.stature_m == [1.7, 1.7]
    manifest = read_json(made / "manifest.json")
    index = (made / "shards" / INDEX_NAME).read_bytes()
    assert manifest["index"]["sha256"] == hashlib.sha256(index).hexdigest()


def test_speeds_of_a_hand_made_motion() -> None:
    """A camera that moves 0.2 m a frame and does not turn, and a person who keeps their place in its picture."""
    sample = make_sample("clip-000000", frames=5)
    arrays = dict(sample.arrays)
    arrays["timestamps"] = np.arange(5) * 0.5
    arrays["world_from_cam_quat"] = np.tile(np.float32([1, 0, 0, 0]), (5, 1))
    arrays["world_from_cam_trans"] = np.arange(5, dtype=np.float32)[:, None] * np.float32([0.2, 0, 0])
    arrays["joints_cam"] = np.repeat(arrays["joints_cam"][:1], 5, axis=0)
    from distill.shards.rows import make_row

    row = make_row(replace(sample, arrays=arrays), shard="000000.tar", offset=0, piece=b"x")
    assert (row.camera_mps, row.camera_dps) == (0.4, 0.0)
    assert row.speed_mps == pytest.approx(0.4)
    half = np.sin(np.radians([0, 15, 30, 45, 60]) / 2), np.cos(np.radians([0, 15, 30, 45, 60]) / 2)
    turning = np.stack((half[1], np.zeros(5), half[0], np.zeros(5)), -1).astype(np.float32)
    row = make_row(replace(sample, arrays={**arrays, "world_from_cam_quat": turning}), shard="", offset=0, piece=b"")
    assert row.camera_dps == pytest.approx(30, abs=0.01)


def test_pieces_are_what_tarfile_writes(tmp_path: Path) -> None:
    """Of the shards that an older release wrote with Python's own writer, to the byte."""
    for path in (GOLDEN / "shards").glob("*.tar"):
        data = path.read_bytes()
        places = list(find_places(path))
        length = sum(place.bytes for place in places)
        assert [place.offset for place in places] == [0, *np.cumsum([p.bytes for p in places])[:-1].tolist()]
        assert data[length:] == end_of(length)
    members = to_members(clip(0))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    piece = to_piece(clip(0))
    assert stream.getvalue() == piece + end_of(len(piece))


def test_long_names_are_stored_and_found(tmp_path: Path) -> None:
    sample = replace(clip(0), key="k" * 150)
    write_shards(tmp_path, [sample, clip(1)], max_bytes=1 << 30, provenance={})
    assert keys(tmp_path) == [sample.key, "clip01-000000"]
    assert [place.key for place in find_places(tmp_path / "shards" / "000000.tar")] == keys(tmp_path)
    assert verify(str(tmp_path)).findings == []


def test_appending_leaves_old_shards_alone(labels: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (labels / "shards").glob("*.tar")}
    manifest = append_shards(load(labels), keep=lambda row: True, samples=[clip(7), clip(8)], max_bytes=1)
    assert [shard["name"] for shard in manifest["shards"]] == [f"{k:06d}.tar" for k in range(5)]
    for name, (data, changed) in before.items():
        assert ((labels / "shards" / name).read_bytes(), (labels / "shards" / name).stat().st_mtime_ns) == (
            data,
            changed,
        )
    assert keys(labels) == [f"clip{k:02d}-000000" for k in (0, 1, 2, 3, 4, 5, 7, 8)]
    assert manifest["teacher_commit"] == "abc"  # what was said of the packing stays
    assert manifest["totals"]["clips"] == 8
    assert verify(str(labels)).findings == []
    again = append_shards(load(labels), keep=lambda row: True)
    assert again == manifest


def test_taking_out_moves_the_others_byte_for_byte(labels: Path) -> None:
    pieces = {row.key: row.sha256 for row in load(labels).all_rows}
    untouched = (labels / "shards" / "000002.tar").read_bytes()
    manifest = append_shards(load(labels), keep=lambda row: row.clip not in ("clip00", "clip02", "clip03"))
    assert [shard["name"] for shard in manifest["shards"]] == ["000003.tar", "000002.tar"]
    assert set(manifest["replaced"]) == {"000000.tar", "000001.tar"}
    assert {row.key: row.sha256 for row in load(labels).all_rows} == {
        key: digest for key, digest in pieces.items() if key[:6] in ("clip01", "clip04", "clip05")
    }
    assert (labels / "shards" / "000002.tar").read_bytes() == untouched
    assert sorted(path.name for path in (labels / "shards").iterdir()) == ["000002.tar", "000003.tar", INDEX_NAME]
    assert verify(str(labels)).findings == []


def test_cut_off_at_each_step_appending_is_done_or_not(made: Path, tmp_path: Path) -> None:
    """Two shards are added and one sample is taken out; killed at every change of the disk, and done again."""

    def change(out: Path) -> None:
        append_shards(load(out), keep=lambda row: row.clip != "clip02", samples=[clip(7), clip(8)], max_bytes=1)

    wanted = Path(shutil.copytree(made, tmp_path / "wanted"))
    before = keys(wanted)
    change(wanted)
    after, step = keys(wanted), 0
    while True:
        out = Path(shutil.copytree(made, tmp_path / f"at{step}"))
        killed = cut_off_at(step, lambda out=out: change(out))  # type: ignore[misc]
        assert keys(out) in (before, after), step  # readers see that before or that after
        change(out) if keys(out) == before else repair(out, lambda name: [])
        assert contents(out) == contents(wanted), step
        shutil.rmtree(out)
        if not killed:
            break
        step += 1
    assert step >= 6  # two new shards, one moved, index, manifest, one deleted


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {}


def damage(what: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Register a damage and a part of what verify says of it."""

    def register(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        DAMAGES[function.__name__] = (function, what)
        return function

    return register


@damage("clip01-000000: another SHA-256 than in the index")
def flip_a_byte_of_a_frame(out: Path) -> None:
    path, row = out / "shards" / "000000.tar", load(out).rows["000000.tar"][1]
    data = bytearray(path.read_bytes())
    data[row.offset + row.bytes - 700] ^= 1
    path.write_bytes(data)


@damage("cut short")
def truncate(out: Path) -> None:
    path = out / "shards" / "000001.tar"
    path.write_bytes(path.read_bytes()[:-60_000])


@damage("missing")
def lose_a_shard(out: Path) -> None:
    (out / "shards" / "000001.tar").unlink()


@damage("left by a process that was stopped")
def leave_a_part(out: Path) -> None:
    (out / "shards" / ".000007-abc.tar").write_bytes(b"x" * 1000)


@damage("not in the manifest")
def leave_a_shard(out: Path) -> None:
    shutil.copy(out / "shards" / "000001.tar", out / "shards" / "000009.tar")


@damage("missing")
def lose_the_index(out: Path) -> None:
    (out / "shards" / INDEX_NAME).unlink()


@damage("not the one that the manifest names")
def change_a_row(out: Path) -> None:
    path = out / "shards" / INDEX_NAME
    path.write_text(path.read_text().replace('"licence": "CC0-1.0"', '"licence": "MIT"', 1))


@damage("required keyword-only arguments")
def spoil_the_index(out: Path) -> None:
    (out / "shards" / INDEX_NAME).write_text('{"key": 3}\n')


@damage("cannot be read")
def spoil_the_manifest(out: Path) -> None:
    (out / "manifest.json").write_text("{")


@damage("totals are")
def miscount(out: Path) -> None:
    manifest = read_json(out / "manifest.json")
    manifest["totals"]["frames"] += 1
    write_json(out / "manifest.json", manifest)


@damage("another licence of clip clip03")
def rewrite_a_licence(out: Path) -> None:
    manifest = read_json(out / "manifest.json")
    manifest["clips"]["clip03"]["licence"] = "MIT"
    write_json(out / "manifest.json", manifest)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_mended(name: str, labels: Path, made: Path) -> None:
    spoil, words = DAMAGES[name]
    spoil(labels)
    report = verify(str(labels))
    assert report.findings
    assert any(words in finding.what for finding in report.findings), report.findings
    done = repair(labels, lambda clip_id: [make_sample(f"{clip_id}-000000", frames=8)])
    assert done.done
    assert done.lost == set()
    assert verify(str(labels), VerifyConfig(decode=True)).findings == []
    assert keys(labels) == keys(made)
    if name != "spoil_the_manifest":  # which alone knew who packed
        assert contents(labels) == contents(made)
    assert repair(labels, lambda clip_id: []).done == []


def test_without_workspaces_what_is_whole_is_saved(labels: Path) -> None:
    flip_a_byte_of_a_frame(labels)
    lose_a_shard(labels)
    done = repair(labels, lambda name: [])
    assert done.lost == {"clip01", "clip02", "clip03"}
    assert keys(labels) == ["clip00-000000", "clip04-000000", "clip05-000000"]
    assert verify(str(labels)).findings == []


def test_another_label_of_the_workspace_is_not_taken_for_the_lost_one(labels: Path) -> None:
    lose_a_shard(labels)
    other = make_sample("clip02-000000", frames=9)
    assert repair(labels, lambda name: [other]).lost == {"clip02", "clip03"}


def test_a_copied_shard_that_no_manifest_names_is_taken_in(labels: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "other", [clip(8)], max_bytes=1, provenance={})
    shutil.copy(tmp_path / "other" / "shards" / "000000.tar", labels / "shards" / "000009.tar")
    done = repair(labels, lambda name: [])
    assert done.done[0] == "shards/000009.tar: taken in (1 samples that were nowhere else)"
    assert keys(labels)[-1] == "clip08-000000"
    assert verify(str(labels)).findings == []


def test_a_withdrawn_source_is_named_and_taken_out(labels: Path) -> None:
    add_tombstone(labels, Tombstone(asked="clip04"))
    (finding,) = verify(str(labels)).findings
    assert finding.what == "clip04-000000: its source was withdrawn: run footfall forget clip04 again"
    repair(labels, lambda name: [])
    assert keys(labels) == [f"clip{k:02d}-000000" for k in (0, 1, 2, 3, 5)]


def test_the_same_part_of_a_video_under_two_ids_is_a_finding(tmp_path: Path) -> None:
    twin = clip(1)
    twin.meta["source_sha256"] = clip(0).meta["source_sha256"]
    write_shards(tmp_path, [clip(0), twin], max_bytes=1, provenance={})
    (finding,) = verify(str(tmp_path)).findings
    assert finding.what == "clip01-000000: the same part of the same video as in clip clip00"
    repair(tmp_path, lambda name: [])
    assert keys(tmp_path) == ["clip00-000000"]


def test_a_remote_copy_is_checked_and_not_changed(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(labels.parent) as (address, seen):
        report = verify(f"{address}/labels")
        assert (report.findings, report.samples) == ([], 6)
        flip_a_byte_of_a_frame(labels)
        lose_a_shard(labels)
        found = {finding.where: finding.what for finding in verify(f"{address}/labels").findings}
        assert "another SHA-256" in found["000000.tar"]
        assert found["000001.tar"] == "HTTP 404"
        with pytest.raises(FootfallError, match="HTTP 404"):
            verify(f"{address}/nowhere")
    assert {method for method, _, _ in seen.asked} == {"GET"}


def test_an_older_schema_is_read_and_rewritten(tmp_path: Path) -> None:
    """Golden shards of schema 1, written by the release that had it."""
    out = Path(shutil.copytree(GOLDEN, tmp_path / "labels"))
    report = verify(str(out))
    assert (report.findings, report.older, report.samples) == ([], 3, 3)
    old = list(ShardReader(find_shards(str(out)).urls, seed=0, rank=0, world=1, shuffle=False))
    assert [sample.meta["schema_version"] for sample in old] == [2, 2, 2]
    assert old[0].meta["source_id"] == hashlib.sha256(b"clip00").hexdigest()
    assert (old[0].meta["consent"], old[0].meta["blurred"]) == ("", False)
    assert migrate(out) == 3
    report = verify(str(out))
    assert (report.findings, report.older, report.samples) == ([], 0, 3)
    new = list(ShardReader(find_shards(str(out)).urls, seed=0, rank=0, world=1, shuffle=False))
    for before, after in zip(old, new, strict=True):
        assert (before.key, before.meta, before.frames, before.masks) == (
            after.key,
            after.meta,
            after.frames,
            after.masks,
        )
        assert all(before.arrays[name].tobytes() == after.arrays[name].tobytes() for name in FIELDS)
    assert migrate(out) == 0
    with pytest.raises(FootfallError, match="no manifest"):
        migrate(tmp_path)


@pytest.mark.parametrize("name", ["../000000.tar", "/etc/x.tar", "a/b.tar", "x", ".tar", 3])
def test_a_manifest_cannot_lead_out_of_its_folder(name: Any, made: Path) -> None:
    manifest = read_json(made / "manifest.json")
    manifest["shards"][0]["name"] = name
    with pytest.raises(FootfallError, match="manifest"):
        check_manifest(manifest, "x")


@pytest.mark.parametrize(
    "change", [{"offset": -1}, {"bytes": 0}, {"frames": "8"}, {"blurred": 1}, {"new": 1}, {"key": None}]
)
def test_rows_that_are_none_are_refused(change: dict[str, Any], made: Path) -> None:
    row = {**asdict(load(made).all_rows[0]), **change}
    with pytest.raises(FootfallError, match="line 1"):
        list(read_index(io.BytesIO(json.dumps(row).encode()).readline, "x"))


def test_the_page_shows_numbers_and_pictures(labels: Path) -> None:
    page = write_statistics(labels, read_json(labels / "manifest.json")).read_text()
    for words in (
        "6 clips of 6 sources",
        "12 people",
        "speed of the camera: mean",
        "CC0-1.0",
        "blazepose",
        "clip03: drawn",
    ):
        assert words in page, words
    assert len(list((labels / "statistics").glob("*.jpg"))) == 6
    append_shards(load(labels), keep=lambda row: row.clip in ("clip00", "clip01"))
    write_statistics(labels, read_json(labels / "manifest.json"))
    assert len(list((labels / "statistics").glob("*.jpg"))) == 2
