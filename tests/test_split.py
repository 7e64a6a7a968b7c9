"""Training and validation by source: no siblings on both sides, and the sides never move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.data_config import DataConfig
from distill.errors import FootfallError
from distill.shards.reader import ShardReader, find_shards
from distill.shards.schema import Sample
from distill.shards.sources import ShardSet
from distill.shards.split import families, find_sides, is_held_out, split_shards
from distill.shards.writer import write_shards
from tests.shard_support import make_sample
from tests.student_support import one_thread  # noqa: F401 (a fixture)

COUNT = 24


def make(number: int, **meta: Any) -> Sample:
    sample = make_sample(f"clip{number:02d}-000000", frames=4, people=1, size=(32, 32))
    sample.meta.update(meta)
    return sample


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 12 sources, two of each; clip 0 and clip 23 are parts of one video; three samples a shard."""
    out = tmp_path_factory.mktemp("labels")
    samples = [make(number, source_id=f"person{number // 2}") for number in range(COUNT)]
    samples[-1].meta["source_sha256"] = samples[0].meta["source_sha256"]
    size = sum(map(len, [*samples[0].frames, *samples[0].masks]))
    write_shards(out, samples, max_bytes=size * 12, provenance={})
    return out


def clips(found: ShardSet) -> set[str]:
    reader = ShardReader(found.urls, seed=0, rank=0, world=1, wanted=found.wanted)
    return {sample.meta["clip"] for sample in reader}


def test_families_join_by_video_and_by_source() -> None:
    rows = {
        ("a", "x"): {"source_id": "p", "source_sha256": "1"},
        ("a", "x-shot001"): {"source_id": "", "source_sha256": "1"},
        ("b", "y"): {"source_id": "q", "source_sha256": "1"},
        ("b", "z"): {"source_id": "q", "source_sha256": "2"},
        ("b", "x"): {"source_id": "r", "source_sha256": "3"},
        ("b", "bare"): {},
    }
    found = families(rows)
    assert len({found[clip] for clip in list(rows)[:4]}) == 1
    assert len(set(found.values())) == 3
    assert families(dict(reversed(rows.items()))) == found


def test_shares_are_kept_and_nested() -> None:
    names = [f"source_id:{k}" for k in range(4000)]
    held = {share: {name for name in names if is_held_out(name, share)} for share in (0.0, 0.05, 0.3, 1.0)}
    assert len(held[0.05]) / len(names) == pytest.approx(0.05, abs=0.015)
    assert not held[0.0]
    assert held[0.05] < held[0.3] < held[1.0] == set(names)


def test_no_sibling_is_on_both_sides(labels: Path) -> None:
    whole = find_shards(str(labels))
    for share in (0.35, 0.5, 0.7):
        train, val = (split_shards(whole, share, side) for side in ("train", "val"))  # type: ignore[arg-type]
        sides = [clips(side) for side in (train, val)]
        assert sides[0] | sides[1] == {f"clip{k:02d}" for k in range(COUNT)}
        assert not sides[0] & sides[1]
        people = [{int(name[4:]) // 2 for name in side} for side in sides]
        assert not people[0] & people[1]
        assert ("clip00" in sides[0]) == ("clip23" in sides[0]) == ("clip22" in sides[0])  # one video, two sources
        assert (train.samples, val.samples) == (len(sides[0]), len(sides[1]))
        assert len(whole.urls) > 3


def test_sides_do_not_depend_on_what_else_is_there(labels: Path, tmp_path: Path) -> None:
    held = {f"clip{k:02d}" for k in range(2, 22) if is_held_out(f"source_id:person{k // 2}", 0.4)}
    middle = {f"clip{k:02d}" for k in range(2, 22)}
    assert clips(split_shards(find_shards(str(labels)), 0.4, "val")) & middle == held
    one_out, one_in = int(min(held)[4:]), int(min(middle - held)[4:])
    few = [make(number, source_id=f"person{number // 2}") for number in (one_in, one_out)]
    write_shards(tmp_path, few, max_bytes=1, provenance={})
    assert clips(split_shards(find_shards(str(tmp_path)), 0.4, "val")) == {f"clip{one_out:02d}"}


def test_equal_clip_names_in_two_folders_are_two_clips(tmp_path: Path) -> None:
    sources = sorted((f"person{k}" for k in range(20)), key=lambda name: is_held_out(f"source_id:{name}", 0.5))
    for folder, source in (("a", sources[0]), ("b", sources[-1])):  # one on each side
        write_shards(tmp_path / folder, [make(1, source_id=source, source_sha256=source)], max_bytes=1, provenance={})
    found = find_shards(str(tmp_path / "*" / "shards" / "*.tar"))
    train, val = (split_shards(found, 0.5, side) for side in ("train", "val"))  # type: ignore[arg-type]
    assert [Path(url).parts[-3] for url in (*train.urls, *val.urls)] == ["a", "b"]


def test_settings_of_training_choose_the_sides(labels: Path, tmp_path: Path) -> None:
    train, val = find_sides(DataConfig(shards=str(labels), val_share=0.4))
    assert val is not None
    assert clips(train) == clips(split_shards(find_shards(str(labels)), 0.4, "train"))
    assert clips(val) == clips(split_shards(find_shards(str(labels)), 0.4, "val"))
    whole, nothing = find_sides(DataConfig(shards=str(labels)))
    assert (whole.wanted, nothing) == (None, None)
    other = tmp_path / "other"
    write_shards(other, [make(1)], max_bytes=1, provenance={})
    train, val = find_sides(DataConfig(shards=str(labels), held_out_shards=str(other), val_share=0.4))
    assert val is not None
    assert clips(val) == {"clip01"}
    assert len(clips(train)) < COUNT
    with pytest.raises(ValueError, match="val_share"):
        DataConfig(val_share=1.0)


def test_what_cannot_be_split_is_an_error(labels: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.tar"
    bare.write_bytes((labels / "shards" / "000000.tar").read_bytes())
    with pytest.raises(FootfallError, match="no manifest beside"):
        split_shards(find_shards(str(bare)), 0.5, "val")
    with pytest.raises(FootfallError, match="no source on the side 'val' of 11"):
        split_shards(find_shards(str(labels)), 1e-9, "val")
