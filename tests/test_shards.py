"""Shards: what goes in comes out, bit for bit; nothing is lost, seen twice or quietly wrong."""

from __future__ import annotations

import json
import multiprocessing as mp
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.utils.data

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.shards import schema
from distill.shards.reader import ShardReader, find_shards, read_meta
from distill.shards.schema import FIELDS, Sample, check_sample, from_members, to_members
from distill.shards.writer import write_shards
from tests.shard_support import make_sample, make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)

DOCS = Path(__file__).resolve().parent.parent / "docs" / "formats.md"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples in four shards."""
    out = tmp_path_factory.mktemp("labels")
    make_shards(out)
    return out


def reader(labels: Path, **options: Any) -> ShardReader:
    settings = {"seed": 0, "rank": 0, "world": 1, **options}
    return ShardReader(find_shards(str(labels)).urls, **settings)


def keys(samples: Any) -> list[str]:
    return [sample.key for sample in samples]


def test_a_sample_comes_back_bit_for_bit(labels: Path) -> None:
    found = next(iter(reader(labels, shuffle=False)))
    wanted = make_sample(found.key)
    assert found.meta == wanted.meta
    assert (found.frames, found.masks) == (wanted.frames, wanted.masks)
    for name in FIELDS:
        assert found.arrays[name].dtype == wanted.arrays[name].dtype
        assert found.arrays[name].tobytes() == wanted.arrays[name].tobytes(), name
    assert found.mask(2).max() == 2  # PNG: identities are exact
    assert found.image(0).shape == (64, 96, 3)


def test_manifest_counts_and_hashes_what_was_written(labels: Path) -> None:
    manifest = read_json(labels / "manifest.json")
    assert manifest["schema_version"] == schema.SCHEMA_VERSION
    assert manifest["totals"]["clips"] == manifest["totals"]["samples"] == 8
    assert manifest["totals"]["frames"] == 8 * 12
    assert manifest["totals"]["shards"] == len(list((labels / "shards").glob("*.tar"))) == 4
    assert manifest["licences"] == ["CC0-1.0"]
    row = manifest["clips"]["clip03"]
    assert row["weights"] == {"blazepose": {"sha256": "1", "licence": "Apache-2.0"}}
    assert row["config_hash"] == {"joint": "0123"}
    assert row["seconds"] == pytest.approx(11 / 25)
    assert find_shards(str(labels)).samples == 8


def test_packing_again_gives_the_same_bytes_and_leaves_no_stale_shard(labels: Path, tmp_path: Path) -> None:
    make_shards(tmp_path, samples=8, per_shard=1)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 8
    make_shards(tmp_path)
    for path in (labels / "shards").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "shards" / path.name).read_bytes()
    assert read_json(tmp_path / "manifest.json") == read_json(labels / "manifest.json")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        *(f"{k:06d}.tar" for k in range(4)), "index.jsonl",
    ]  # fmt: skip


def spoil(sample: Sample, case: str) -> Sample:
    """Break one rule."""
    arrays, meta = dict(sample.arrays), dict(sample.meta)
    if case == "nan":
        arrays["joints_cam"] = np.full_like(arrays["joints_cam"], np.nan)
    if case == "dtype":
        arrays["K"] = arrays["K"].astype(np.float64)
    if case == "missing":
        del arrays["stature"]
    if case == "unknown":
        arrays["extra"] = arrays["K"]
    if case == "frames disagree":
        arrays["timestamps"] = arrays["timestamps"][:-1]
    if case == "people disagree":
        arrays["betas"] = arrays["betas"][:1]
    if case == "axis":
        arrays["body_quat"] = arrays["body_quat"][:, :, :22]
    if case == "world":
        meta["world"] = "y_up"
    if case == "licence":
        del meta["licence"]
    frames = sample.frames[1:] if case == "picture lost" else sample.frames
    return replace(sample, key="a.b" if case == "key" else sample.key, arrays=arrays, meta=meta, frames=frames)


SPOILT = {
    "nan": "joints_cam is not finite", "dtype": "K is float64", "missing": "stature", "unknown": "extra",
    "frames disagree": "'T'", "people disagree": "'P'", "axis": "body_quat has shape", "world": "y_up",
    "licence": "licence", "picture lost": "11 frames and 12 masks", "key": "a.b",
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_broken_sample_is_not_written(case: str, tmp_path: Path) -> None:
    bad = spoil(make_sample("clip-000000"), case)
    with pytest.raises(ValueError, match=SPOILT[case]):
        write_shards(tmp_path, [bad], max_bytes=1, provenance={})
    assert not list((tmp_path / "shards").iterdir())


def test_no_more_than_max_frames() -> None:
    check_sample(make_sample("clip-000000", frames=schema.MAX_FRAMES))
    with pytest.raises(ValueError, match="33 frames"):
        check_sample(make_sample("clip-000000", frames=schema.MAX_FRAMES + 1))


def test_huge_picture_is_refused_before_it_is_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(ValueError, match="pixels"):
        make_sample("clip-000000").image(0)


def test_another_schema_version_stops_the_reader(tmp_path: Path) -> None:
    sample = make_sample("clip-000000")
    sample.meta["schema_version"] = 99
    write_shards(tmp_path, [sample], max_bytes=1, provenance={})
    with pytest.raises(FootfallError, match="schema version 99; expected version 1 to 2"):
        list(reader(tmp_path))
    manifest = read_json(tmp_path / "manifest.json")
    write_json(tmp_path / "manifest.json", {**manifest, "schema_version": 99})
    with pytest.raises(FootfallError, match="schema 99"):
        find_shards(str(tmp_path))


def test_a_truncated_shard_costs_its_tail_only(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "shards" / "000001.tar"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.75)])  # within its second sample
    damaged = reader(tmp_path, shuffle=False)
    assert keys(damaged) == [f"clip{k:02d}-000000" for k in (0, 1, 2, 4, 5, 6, 7)]
    assert damaged.skipped >= 1
    whole = reader(labels, shuffle=False)
    assert len(keys(whole)) == 8
    assert whole.skipped == 0


def test_a_damaged_member_costs_its_sample_only(labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(labels, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "shards" / "000002.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember("clip04-000000.safetensors").offset_data
    data = bytearray(path.read_bytes())
    data[offset : offset + 16] = b"\xff" * 16
    path.write_bytes(data)
    damaged = reader(tmp_path, shuffle=False)
    assert keys(damaged) == [f"clip{k:02d}-000000" for k in (0, 1, 2, 3, 5, 6, 7)]
    assert damaged.skipped == 1
    assert "clip04" in caplog.text


def test_no_pickle_is_read() -> None:
    raw = {name.split(".", 1)[1]: data for name, data in to_members(make_sample("clip-000000")).items()}
    raw["safetensors"] = b"\x80\x04\x95" + raw["safetensors"]
    with pytest.raises(ValueError, match="SafetensorError"):
        from_members({"__key__": "clip-000000", **raw})


def test_order_is_a_function_of_seed_and_epoch(labels: Path) -> None:
    first, again, other = reader(labels, seed=3), reader(labels, seed=3), reader(labels, seed=4)
    epochs = []
    for epoch in range(3):
        for each in (first, again, other):
            each.set_epoch(epoch)
        epochs.append(keys(first))
        assert epochs[-1] == keys(again)
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys(other) != epochs[2]
    assert all(sorted(order) == sorted(epochs[0]) for order in epochs)


def _read_part(labels: Path, rank: int, answers: mp.Queue[Any]) -> None:
    """One process with two reading workers of its own: 4 shards for 4 readers, then 2 shards for them."""
    for urls in (find_shards(str(labels)).urls, find_shards(str(labels)).urls[:2]):
        part = ShardReader(urls, seed=1, rank=rank, world=2)
        loader = torch.utils.data.DataLoader(part, batch_size=None, num_workers=2)
        answers.put((len(urls), keys(loader)))


def test_two_processes_see_disjoint_samples_and_together_all(labels: Path) -> None:
    context = mp.get_context("spawn")
    answers: mp.Queue[Any] = context.Queue()
    processes = [context.Process(target=_read_part, args=(labels, rank, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    parts = [answers.get(timeout=240) for _ in range(4)]
    for process in processes:
        process.join()
    for count, samples in ((4, 8), (2, 4)):
        seen = [key for n, part in parts for key in part if n == count]
        assert sorted(seen) == [f"clip{k:02d}-000000" for k in range(samples)]
        assert all(part for n, part in parts if n == count)  # nobody starves while there is enough


def test_folder_labels_file_and_glob_are_the_same_shards(labels: Path) -> None:
    whole = find_shards(str(labels))
    assert find_shards(str(labels / "shards")) == find_shards(str(labels / "shards" / "*.tar")) == whole
    one = find_shards(str(labels / "shards" / "000000.tar"))
    assert one.samples == 2
    assert read_meta(one.urls[0])["clip"] == "clip00"


def test_no_shards_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FootfallError, match=r"no \.tar file.*label some clips"):
        find_shards(str(tmp_path))


def test_shards_of_many_folders_are_counted_by_their_own_manifests(labels: Path, tmp_path: Path) -> None:
    """Folders of labels side by side, each with a shard 000000.tar."""
    shutil.copytree(labels, tmp_path / "a")
    make_shards(tmp_path / "b", samples=3, per_shard=1)
    assert find_shards(str(tmp_path / "?" / "shards" / "000000.tar")).samples == 2 + 1
    (tmp_path / "b" / "manifest.json").unlink()
    assert find_shards(str(tmp_path / "?" / "shards" / "000000.tar")).samples is None


def test_a_shard_that_was_cut_short_is_named_before_the_run(
    labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(labels, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "shards" / "000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    find_shards(str(tmp_path))
    assert "000001.tar has 5000 bytes" in caplog.text


def test_damage_is_counted_over_reading_processes(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path, dirs_exist_ok=True)
    for name in ("000000", "000002", "000003"):
        with tarfile.open(tmp_path / "shards" / f"{name}.tar") as tar:
            offset = next(member for member in tar if member.name.endswith(".json")).offset_data
        with (tmp_path / "shards" / f"{name}.tar").open("r+b") as stream:
            stream.seek(offset)
            stream.write(b"\xff" * 16)
    part = reader(tmp_path)
    for _ in range(2):
        assert len(list(torch.utils.data.DataLoader(part, batch_size=None, num_workers=2))) == 5
    assert part.skipped == 2 * 3


def test_every_field_says_what_it_is_and_the_page_says_the_same() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for name, rule in FIELDS.items():
        shape = ", ".join(map(str, rule.shape))
        assert f"| `{name}` | {rule.dtype} | [{shape}] | {rule.unit} | {rule.frame} |" in page, name
    for name in schema.META_FIELDS:
        assert f"`{name}`" in page, name


def test_meta_is_json_that_others_can_read(labels: Path) -> None:
    with tarfile.open(labels / "shards" / "000000.tar") as tar:
        names = tar.getnames()
        stored = tar.extractfile("clip00-000000.json")
        assert stored is not None
        assert json.loads(stored.read())["clip"] == "clip00"
    assert names[:4] == [f"clip00-000000.{end}" for end in ("json", "safetensors", "0000.jpg", "0000.png")]
