"""Withdrawal: everything made of a source goes, nothing else does, however often it is cut off, and it stays away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import FootfallError
from distill.feature_cache import FeatureCache
from distill.feature_search import find_entries, network_sizes
from distill.files import read_json, write_json
from distill.shards.labels import read_labels
from distill.shards.reader import ShardReader, find_shards
from distill.shards.schema import Sample
from distill.shards.tombstones import read_tombstones
from distill.shards.verify import verify
from teacher.cli import main
from teacher.config import LabelConfig
from teacher.forget import ForgetConfig, forget, plan_forget
from teacher.locks import hold
from teacher.pack import PackConfig, pack
from teacher.sources import prepare
from teacher.workspace import ClipFolder, ClipSource
from tests.labels_support import contents, cut_off_at, finish, make_clip
from tests.remote_support import serve
from tests.student_support import one_thread  # noqa: F401 (a fixture)

CONFIG = PackConfig(chunk_frames=10, shard_mb=0.3)
"""Two samples a clip; a shard holds parts of two clips."""
NONE = ForgetConfig(runs=[])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three sources: anna (a0 and its second shot), bert (b0, b1), and c0, which nobody named."""
    out = tmp_path_factory.mktemp("made")
    video = "aa" * 32
    make_clip(out, "a0", "accept", source_id="anna", sha256=video, end_s=2.0)
    make_clip(out, "a0-shot001", "accept", source_id="anna", sha256=video, start_s=2.0)
    make_clip(out, "b0", "accept", source_id="bert", consent="signed 2026-03-01")
    make_clip(out, "b1", "accept", source_id="bert", depth=False)
    make_clip(out, "c0", "weight", source="https://c.org/video")
    make_clip(out, "a9", "reject", source_id="anna")
    clip = ClipFolder(out / "clips" / "a0")
    clip.begin("gaussians")
    (clip.stage_dir("gaussians") / "scene.npz").write_bytes(b"Gaussians of anna")
    verdict = {"decision": "kept", "reasons": [], "before": {}, "after": {}, "lpips": None}
    write_json(clip.stage_dir("gaussians") / "verdict.json", verdict)
    finish(clip, "gaussians")
    pack(out, CONFIG)
    return out


@pytest.fixture
def labels(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "labels"))


def samples(out: Path) -> list[Sample]:
    return list(ShardReader(find_shards(str(out)).urls, seed=0, rank=0, world=1, shuffle=False))


def sources(out: Path) -> set[str]:
    return {sample.meta["source_id"] for sample in samples(out)}


def traces(out: Path, word: bytes) -> list[str]:
    """Files that hold a word."""
    return [name for name, data in contents(out).items() if word in data and name != "forgotten.json"]


def test_provenance_is_in_every_sample(made: Path) -> None:
    meta = {sample.meta["clip"]: sample.meta for sample in samples(made)}
    assert set(meta) == {"a0", "a0-shot001", "b0", "b1", "c0"}
    assert meta["b0"]["consent"] == "signed 2026-03-01"
    assert meta["c0"]["source_id"] == meta["c0"]["source_sha256"]  # the video alone
    assert meta["a0"]["blurred"] is False
    assert read_json(made / "manifest.json")["clips"]["b0"]["consent"] == "signed 2026-03-01"


def test_the_question_changes_nothing(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(labels)
    assert main(["forget", "anna", str(labels), "dry_run=true", "runs=[]"]) == 0
    said = capsys.readouterr().out
    plan = plan_forget("anna", str(labels), NONE)
    holding = {row.shard for row in read_labels(labels).all_rows if row.source_id == "anna"}  # type: ignore[union-attr]
    assert set(plan.packed.shards) == holding
    assert all(name in said for name in holding)
    assert set(plan.workspaces) == {"a0", "a0-shot001", "a9"}
    assert "Gaussians: a0" in said and "nothing was changed" in said
    assert contents(labels) == before


def test_exactly_its_shards_go(labels: Path) -> None:
    before = read_json(labels / "manifest.json")
    plan = plan_forget("anna", str(labels), NONE)
    kept = {s.key: (s.meta, s.frames) for s in samples(labels) if s.meta["source_id"] != "anna"}
    untouched = {s["name"] for s in before["shards"]} - set(plan.packed.shards)
    assert untouched and any(plan.packed.shards.values())  # some shards are not concerned, one is shared
    data = {name: (labels / "shards" / name).read_bytes() for name in untouched}
    assert main(["forget", "anna", str(labels), "runs=[]"]) == 0
    assert {s.key: (s.meta, s.frames) for s in samples(labels)} == kept
    assert {name: (labels / "shards" / name).read_bytes() for name in untouched} == data
    assert not {path.name for path in (labels / "shards").iterdir()} & set(plan.packed.shards)
    assert sorted(path.name for path in (labels / "clips").iterdir()) == ["b0", "b1", "c0"]
    assert traces(labels, b"anna") == []
    assert list((labels / "gaussians").glob("*")) == []
    assert verify(str(labels)).findings == []
    assert main(["verify", str(labels)]) == 0


def test_it_stays_away(labels: Path, tmp_path: Path) -> None:
    """Under its name, under another name with the same file, and by packing again."""
    forget("anna", labels, NONE)
    make_clip(labels, "a0", "accept", source_id="anna", sha256="aa" * 32)
    make_clip(labels, "renamed", "accept", source_id="somebody", sha256="aa" * 32)
    pack(labels, CONFIG)
    assert sources(labels) == {"bert", ClipFolder(labels / "clips" / "c0").source.sha256}
    pack(labels, PackConfig(chunk_frames=10, append=False))
    assert "anna" not in sources(labels) and "somebody" not in sources(labels)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"no video, and never opened")
    source = ClipSource(id="again", path=str(video), sha256="", source_id="anna")
    assert prepare(source, labels / "clips", LabelConfig()) == []
    assert not (labels / "clips" / "again" / "clip.json").exists()


@pytest.mark.parametrize("asked", ["bert", "https://c.org/video", "c0"])
def test_sources_by_their_names(asked: str, labels: Path) -> None:
    forget(asked, labels, NONE)
    left = {sample.meta["clip"] for sample in samples(labels)}
    assert left == {"a0", "a0-shot001", "b0", "b1", "c0"} - ({"b0", "b1"} if asked == "bert" else {"c0"})


def test_a_video_by_its_hash_and_the_last_source(labels: Path) -> None:
    forget("aa" * 32, labels, NONE)
    assert {sample.meta["clip"] for sample in samples(labels)} == {"b0", "b1", "c0"}
    forget("https://x.org", labels, NONE)  # of a9, b0 and b1
    assert {sample.meta["clip"] for sample in samples(labels)} == {"c0"}
    forget("c0", labels, NONE)
    assert read_json(labels / "manifest.json")["totals"]["samples"] == 0
    assert list((labels / "shards").glob("*.tar")) == []
    assert verify(str(labels)).findings == []


def test_cut_off_at_each_step_and_done_again(made: Path, tmp_path: Path) -> None:
    wanted = Path(shutil.copytree(made, tmp_path / "wanted"))
    forget("anna", wanted, NONE)
    step = 0
    while True:
        out = Path(shutil.copytree(made, tmp_path / f"at{step}"))
        killed = cut_off_at(step, lambda out=out: forget("anna", out, NONE))  # type: ignore[misc]
        if step == 0:
            with pytest.raises(FootfallError, match="no clip of that source"):
                plan_forget("nobody", str(out), NONE)
        assert {"bert"} < sources(out)  # what is left can be read at every moment
        forget("anna", out, NONE)
        assert contents(out).keys() == contents(wanted).keys(), step
        assert {n: d for n, d in contents(out).items() if n.endswith((".tar", ".jsonl"))} == {
            n: d for n, d in contents(wanted).items() if n.endswith((".tar", ".jsonl"))
        }, step
        assert read_json(out / "forgotten.json") == read_json(wanted / "forgotten.json")
        assert traces(out, b"anna") == [], step
        shutil.rmtree(out)
        if not killed:
            break
        step += 41 if step > 12 else 1  # first caches, shards, index, manifest; then files of workspaces, all alike
    assert step > 12
    assert "aa" * 32 in read_tombstones(wanted).stones[0].sha256


def test_feature_caches_and_runs_are_found(labels: Path, tmp_path: Path) -> None:
    """Entries of two networks for frames and pairs of anna and of bert; only hers go, of all backbones."""
    run = tmp_path / "runs" / "walk"
    (run / "log").mkdir(parents=True)
    cache = tmp_path / "cache"
    (run / "log" / "config.yaml").write_text(
        f"data: {{shards: {labels}, held_out_shards: '', feature_cache: {cache}}}\nsteps: 3\n"
    )
    (tmp_path / "runs" / "broken" / "log").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "log" / "config.yaml").write_text("data: [")
    names: dict[str, set[str]] = {"anna": set(), "bert": set()}
    for sample in samples(labels):
        for points, size, mirrored in ((True, (512, 336), False), (False, (518, 350), True)):
            store = FeatureCache(cache, 1.0, {"points": points})
            first, second = (store.frame_key(sample.frames[k], size, mirrored=mirrored) for k in (1, 4))
            for key in (first, second, store.pair_key(second, first)):
                store.write(key, {"features": torch.zeros(2)})
                names.setdefault(sample.meta["source_id"], set()).add(key)
    config = ForgetConfig(runs=[str(tmp_path / "runs")])
    plan = plan_forget("anna", str(labels), config)
    assert plan.runs == [str(run)]
    assert {path.stem for path in plan.caches[str(cache)]} == names["anna"]
    assert len(names["anna"]) > 6
    forget("anna", labels, config)
    left = {path.stem for path in cache.rglob("*.features")}
    assert left == set().union(*(keys for source, keys in names.items() if source != "anna"))
    assert find_entries(tmp_path / "none", [((96, 64), [b"x"])]) == []


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (96, 64), (1920, 1080)])
def test_every_size_of_a_backbone_is_asked_for(size: tuple[int, int]) -> None:
    from distill.models.backbones import Preprocessing

    for long_side, multiple in ((512, 16), (518, 14), (224, 14), (384, 32), (160, 8)):
        assert Preprocessing(long_side=long_side, multiple=multiple).network_size(size) in set(network_sizes(size))


def test_what_cannot_be_forgotten_is_an_error(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FootfallError, match=r"source ids begin with .*anna"):
        plan_forget("zoe", str(labels), NONE)
    with pytest.raises(FootfallError, match=r"no manifest\.json and no clips"):
        plan_forget("anna", str(tmp_path), NONE)
    with hold(labels) as mine:
        assert mine
        with pytest.raises(FootfallError, match="working on it"):
            forget("anna", labels, NONE)
    (labels / "forgotten.json").write_text('{"format": "x", "sources": []}')
    with pytest.raises(FootfallError, match="must not come back"):
        pack(labels, CONFIG)
    (labels / "forgotten.json").unlink()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(labels.parent) as (address, _):
        plan = plan_forget("bert", f"{address}/labels", ForgetConfig(dry_run=True))
        assert set(plan.packed.clips) == {"b0", "b1"}
        assert main(["forget", "bert", f"{address}/labels"]) == 2
        assert main(["forget", "bert", f"{address}/labels", "dry_run=true"]) == 0


def test_the_folder_is_here_unless_named(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labels)
    assert main(["forget", "c0"]) == 0
    assert "c0" not in {sample.meta["clip"] for sample in samples(labels)}


def sample_facts(out: Path) -> dict[str, Any]:
    return {sample.key: sample.meta for sample in samples(out)}


def test_packing_again_adds_changes_and_leaves_out(labels: Path) -> None:
    """New, changed, rejected, equal and tidied clips."""
    before = {row.key: (row.shard, row.sha256) for row in read_labels(labels).all_rows}  # type: ignore[union-attr]
    assert pack(labels, CONFIG)["totals"]["samples"] == len(before)
    assert {r.key: (r.shard, r.sha256) for r in read_labels(labels).all_rows} == before  # type: ignore[union-attr]
    make_clip(labels, "new", "accept")
    make_clip(labels, "twin", "accept", sha256="aa" * 32, start_s=2.0)  # what a0-shot001 shows
    shutil.rmtree(labels / "clips" / "c0")  # tidied away: its labels stay
    source = ClipFolder(labels / "clips" / "b0").source
    source.consent = "withdrawn in part"
    ClipFolder(labels / "clips" / "b0").write_source(source)
    verdict = labels / "clips" / "b1" / "quality" / "quality.json"
    write_json(verdict, {**read_json(verdict), "decision": "reject"})
    manifest = pack(labels, CONFIG)
    facts = sample_facts(labels)
    assert {meta["clip"] for meta in facts.values()} == {"a0", "a0-shot001", "b0", "c0", "new"}
    assert facts["b0-000000"]["consent"] == "withdrawn in part"
    assert manifest["duplicates"] == {"twin": "a0-shot001"}
    after = {row.key: (row.shard, row.sha256) for row in read_labels(labels).all_rows}  # type: ignore[union-attr]
    assert all(after[key][1] == before[key][1] for key in before if key.startswith(("a0", "c0")))
    assert verify(str(labels)).findings == []


def test_a_lost_shard_is_made_again_from_the_workspaces(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = read_json(labels / "manifest.json")["shards"][1]["name"]
    path = labels / "shards" / name
    data = path.read_bytes()
    (labels / "config.yaml").write_text("pack: {chunk_frames: 10, shard_mb: 0.3}\n")
    path.unlink()
    assert main(["verify", str(labels)]) == 1
    assert "missing" in capsys.readouterr().out
    assert main(["verify", str(labels), "repair=true"]) == 0
    assert f"{name}: restored, byte for byte" in capsys.readouterr().out
    assert path.read_bytes() == data
    (labels / "config.yaml").write_text("pack: {chunk_frames: 12, shard_mb: 0.3}\n")  # other chunks than those lost
    path.write_bytes(data[: len(data) // 3])
    assert main(["verify", str(labels), "repair=true"]) == 0
    assert "packed again from clips/" in capsys.readouterr().out
    assert {meta["clip"] for meta in sample_facts(labels).values()} == {"a0", "a0-shot001", "b0", "b1", "c0"}
    assert main(["verify", str(labels / "nothing")]) == 2
