"""Packing: only what quality accepted, in metres, with everything that made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from distill.files import read_json
from distill.shards.reader import ShardReader, find_shards
from distill.shards.schema import Sample
from teacher.pack import PackConfig, pack
from teacher.workspace import ClipFolder, ClipSource
from tests.labels_support import FRAMES, make_clip
from tests.shard_support import make_sample
from tests.student_support import one_thread  # noqa: F401 (a fixture)

FAIR = f"fair_1-{hashlib.sha256(b'fair.1').hexdigest()[:6]}"
"""Stem of the keys of clip fair.1."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    make_clip(out, "good", "accept")
    make_clip(out, "fair.1", "weight", depth=False)
    make_clip(out, "bad", "reject")
    ClipFolder(out / "clips" / "unsolved").write_source(ClipSource(id="unsolved", path="/v.mp4", sha256="0"))
    pack(out, PackConfig(chunk_frames=8))
    return out


def samples_of(labels: Path) -> dict[str, Sample]:
    reader = ShardReader(find_shards(str(labels)).urls, seed=0, rank=0, world=1, shuffle=False)
    return {sample.key: sample for sample in reader}


def test_only_accepted_clips_in_full_chunks(labels: Path) -> None:
    assert list(samples_of(labels)) == [f"{name}-{start:06d}" for name in (FAIR, "good") for start in (0, 8, 12)]
    totals = read_json(labels / "manifest.json")["totals"]
    assert totals["clips"] == 2
    assert totals["frames"] == 2 * FRAMES  # overlapping chunks do not count twice
    assert totals["seconds"] == pytest.approx(2 * (FRAMES - 1) / 25)


def test_labels_of_a_chunk_are_those_of_its_frames(labels: Path) -> None:
    truth, chunk = make_sample("good-000000", frames=FRAMES), samples_of(labels)["good-000012"]
    assert chunk.frames == truth.frames[12:]
    assert chunk.masks == truth.masks[12:]
    for name in ("timestamps", "joints_cam", "box_xyxy", "contact_prob", "cam_from_body_trans"):
        np.testing.assert_array_equal(chunk.arrays[name], truth.arrays[name][12:])
    for name in ("world_from_cam_quat", "cam_from_body_quat", "body_quat"):  # two conversions in float32
        np.testing.assert_allclose(chunk.arrays[name], truth.arrays[name][12:], atol=1e-6)


def test_trust_and_validity_travel(labels: Path) -> None:
    chunk = samples_of(labels)["good-000000"]
    assert chunk.arrays["camera_valid"].tolist() == [True] * 5 + [False] + [True] * 2
    assert not chunk.arrays["present"][3, 1]
    assert chunk.arrays["present"].sum() == 15
    np.testing.assert_allclose(chunk.arrays["frame_weight"][0], [0.5, 0.5 + 0.5 / 39], rtol=1e-6)


def test_depth_is_in_metres_and_may_be_absent(labels: Path) -> None:
    samples = samples_of(labels)
    np.testing.assert_array_equal(samples["good-000000"].arrays["depth"], np.full((8, 4, 6), 3.0, np.float16))
    assert samples[f"{FAIR}-000000"].arrays["depth"].shape == (8, 0, 0)


def test_the_chain_from_sample_to_source(labels: Path) -> None:
    meta = samples_of(labels)[f"{FAIR}-000012"].meta
    assert (meta["clip"], meta["first_frame"], meta["licence"]) == ("fair.1", 12, "CC-BY-4.0")
    assert meta["weights"] == {"blazepose": {"sha256": "1", "licence": "Apache-2.0"}}
    assert meta["config_hash"]["joint"] == "hash-joint"
    assert meta["quality"] == {"decision": "weight", "weight": 0.75, "reasons": ["slip"]}
    manifest = read_json(labels / "manifest.json")
    assert manifest["licences"] == ["CC-BY-4.0"]
    assert manifest["clips"]["good"]["source"] == "https://x.org"


def test_packing_twice_gives_the_same_bytes(labels: Path) -> None:
    before = {path.name: path.read_bytes() for path in (labels / "shards").iterdir()}
    manifest = read_json(labels / "manifest.json")
    assert pack(labels, PackConfig(chunk_frames=8)) == manifest
    assert {path.name: path.read_bytes() for path in (labels / "shards").iterdir()} == before


@pytest.mark.parametrize("setting", [{"chunk_frames": 33}, {"chunk_frames": 7}, {"shard_mb": 0.0}])
def test_bad_packing_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="chunk_frames"):
        PackConfig(**setting)  # type: ignore[arg-type]
