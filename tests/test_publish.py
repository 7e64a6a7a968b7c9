"""Labels to the Hub and to S3 and back: refused if they may not be shown, resumed, whole, and withdrawn again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.files import read_json
from distill.people.blur import blur_heads
from distill.people.heads import HEAD_WEIGHTS, encode_jpeg, heads_of_labels
from distill.people.weights import cache_dir, is_cached
from distill.shards import remote
from distill.shards.card import make_card
from distill.shards.labels import read_labels
from distill.shards.publish import PublishConfig, publish
from distill.shards.reader import ShardReader, find_shards
from distill.shards.rows import Row
from distill.shards.statistics import write_statistics
from distill.shards.verify import verify
from distill.shards.writer import append_shards, write_shards
from teacher.forget import ForgetConfig, forget
from tests.hub_support import WRITER, Client, Hub
from tests.s3_support import Store, serve_store
from tests.shard_support import make_sample, make_shards
from tests.student_support import one_thread  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards, with their page."""
    out = tmp_path_factory.mktemp("made")
    make_shards(out, samples=6, frames=4)
    write_statistics(out, read_json(out / "manifest.json"))
    return out


@pytest.fixture
def labels(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "labels"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket, and the environment that leads to it."""
    pytest.importorskip("boto3", reason="needs the extra [s3]")
    monkeypatch.setenv("FOOTFALL_CACHE", str(cache_dir()))  # the detectors' weights are looked for where they are
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    with serve_store() as (address, store):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        remote.s3_client.cache_clear()
        yield store
    remote.s3_client.cache_clear()


def keys(spec: str) -> list[str]:
    return [sample.key for sample in ShardReader(find_shards(spec).urls, seed=0, rank=0, world=1, shuffle=False)]


def take_out(labels: Path, clip: str) -> None:
    found = read_labels(labels)
    assert found is not None
    manifest = append_shards(found, keep=lambda row: row.clip != clip)
    write_statistics(labels, manifest)


def test_s3_there_and_back(bucket: Store, labels: Path) -> None:
    done = publish(labels, "s3://bucket/some/where")
    assert done.url == "s3://bucket/some/where"
    puts = [key.removeprefix("some/where/") for method, key in bucket.asked if method == "PUT"]
    assert puts[:3] == [f"shards/{k:06d}.tar" for k in range(3)]
    assert puts[-3:] == ["shards/index.jsonl", "README.md", "manifest.json"]  # the claim goes last
    assert {"statistics.html", "statistics/example-0.jpg"} < set(puts)
    for name in puts:
        if name != "README.md":
            assert bucket.objects[f"some/where/{name}"] == (labels / name).read_bytes()
    assert keys(done.url) == keys(str(labels))
    report = verify(done.url)
    assert (report.findings, report.samples) == ([], 6)
    again = publish(labels, "s3://bucket/some/where")
    assert (again.sent, again.kept, again.deleted) == (0, done.sent, 0)


def test_s3_a_push_that_broke_off_is_gone_on_with(bucket: Store, labels: Path) -> None:
    bucket.puts_left = 2
    with pytest.raises(FootfallError, match="SlowDown") as caught:
        publish(labels, "s3://bucket/x")
    assert "topsecret" not in str(caught.value)
    assert sorted(bucket.objects) == ["x/shards/000000.tar", "x/shards/000001.tar"]
    with pytest.raises(FootfallError, match="NoSuchKey"):
        find_shards("s3://bucket/x")  # no manifest: nothing is there yet
    bucket.puts_left = -1
    done = publish(labels, "s3://bucket/x")
    assert done.kept == 2
    assert keys("s3://bucket/x") == keys(str(labels))


def test_s3_a_withdrawn_source_leaves_the_bucket_too(bucket: Store, labels: Path) -> None:
    publish(labels, "s3://bucket/x")
    gone = bytes(bucket.objects["x/shards/000001.tar"])
    take_out(labels, "clip02")
    done = publish(labels, "s3://bucket/x")
    assert done.deleted == 2  # the shard, and the sixth picture of the page
    assert gone not in bucket.objects.values()
    assert keys("s3://bucket/x") == keys(str(labels))
    assert len(keys("s3://bucket/x")) == 5
    assert verify("s3://bucket/x").findings == []
    order = [(method, key) for method, key in bucket.asked if method in ("PUT", "DELETE")]
    assert order.index(("DELETE", "x/shards/000001.tar")) > order.index(("PUT", "x/manifest.json"))


def test_other_labels_are_not_overwritten_unless_said(bucket: Store, labels: Path, tmp_path: Path) -> None:
    publish(labels, "s3://bucket/x")
    other = tmp_path / "other"
    write_shards(other, [make_sample("new-000000", frames=4)], max_bytes=1, provenance={})
    with pytest.raises(FootfallError, match="3 shards that never were in this folder"):
        publish(other, "s3://bucket/x")
    assert keys("s3://bucket/x") == keys(str(labels))
    publish(other, "s3://bucket/x", PublishConfig(delete=True))
    assert keys("s3://bucket/x") == ["new-000000"]
    bucket.read_only = True
    with pytest.raises(FootfallError, match="AccessDenied"):
        publish(labels, "s3://bucket/y")


def test_what_may_not_be_shown_stays(bucket: Store, tmp_path: Path, labels: Path) -> None:
    def with_meta(**meta: object) -> Path:
        sample = make_sample("clip00-000000", frames=4)
        sample.meta.update(meta)
        write_shards(tmp_path / "one", [sample], max_bytes=1, provenance={})
        return tmp_path / "one"

    with pytest.raises(FootfallError, match="1 clips without a licence"):
        publish(with_meta(licence="unknown"), "s3://bucket/x")
    with pytest.raises(FootfallError, match="hf://datasets/ORG/NAME or s3://"):
        publish(labels, "https://example.org/x")
    (labels / "shards" / "000001.tar").unlink()
    with pytest.raises(FootfallError, match=r"000001\.tar: missing.*repair=true"):
        publish(labels, "s3://bucket/x")
    old = Path(__file__).parent / "data" / "shards-v1"
    with pytest.raises(FootfallError, match="migrate=true"):
        publish(old, "s3://bucket/x")
    assert bucket.objects == {}
    publish(
        with_meta(blurred=False, licence=""), "s3://bucket/x", PublishConfig(clear_faces=True, unknown_licences=True)
    )
    assert keys("s3://bucket/x") == ["clip00-000000"]


def test_faces_are_blurred_in_what_is_uploaded(bucket: Store, tmp_path: Path) -> None:
    """Of a folder with one clear clip and one blurred at ingest: a copy goes up, the folder stays as it is."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra [people]")
    if not all(map(is_cached, HEAD_WEIGHTS)):
        pytest.skip("needs the detectors' weights, which `footfall doctor` fetches")
    out = tmp_path / "clear"
    samples = [make_sample("c-000000", frames=4), make_sample("c-000002", frames=4), make_sample("d-000000", frames=4)]
    clear = samples[:2]
    for sample in clear:
        sample.meta["blurred"] = False
        noise = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
        sample.frames = [encode_jpeg(image) for image in noise]
    clear[1].frames[:2] = clear[0].frames[2:]  # samples of a clip may overlap
    for name in ("K", "joints_cam", "present"):
        head = clear[0].arrays[name]
        clear[1].arrays[name] = head if name == "K" else np.concatenate((head[2:], head[:2]))
    write_shards(out, samples, max_bytes=1, provenance={})
    before = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}

    done = publish(out, "s3://bucket/x")
    pushed = {sample.key: sample for sample in ShardReader(find_shards(done.url).urls, seed=0, rank=0, world=1)}
    assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()} == before
    assert pushed.keys() == {sample.key for sample in samples} and all(s.meta["blurred"] for s in pushed.values())
    assert pushed["d-000000"].frames == samples[2].frames
    assert pushed["c-000000"].frames[2:] == pushed["c-000002"].frames[:2]
    seen, left = [], []
    for sample in clear:
        after, arrays = pushed[sample.key], sample.arrays
        assert all(np.array_equal(value, after.arrays[name]) for name, value in arrays.items())
        assert after.masks == sample.masks
        for k, heads in enumerate(heads_of_labels(arrays["K"], arrays["joints_cam"], arrays["present"])):
            was, now = sample.image(k).astype(int), after.image(k).astype(int)
            covered = np.abs(blur_heads(sample.image(k), heads).astype(int) - was).max(-1) > 20
            seen.append(np.abs(was - now)[covered].ravel())
            left.append(np.abs(blur_heads(after.image(k), heads).astype(int) - now)[covered].ravel())
    assert len(np.concatenate(seen)) > 200  # there was something to be seen
    assert np.concatenate(left).mean() < 6 < 20 < np.concatenate(seen).mean()  # six numbers and JPEG are left of it
    manifest = read_json(out / "blurred" / "manifest.json")
    assert manifest["labelled_clear"] == ["c"] and "| clips with blurred faces | 2 |" in make_card(manifest)

    stamps = [path.stat().st_mtime_ns for path in sorted((out / "blurred" / "shards").glob("*.tar"))]
    again = publish(out, "s3://bucket/x")
    assert (again.sent, again.deleted) == (0, 0)
    assert [path.stat().st_mtime_ns for path in sorted((out / "blurred" / "shards").glob("*.tar"))] == stamps
    forget("c", out, ForgetConfig(runs=[]))
    assert [row.clip for row in rows_of(out / "blurred")] == ["d"]  # who withdraws leaves the copy, too
    publish(out, "s3://bucket/x")
    assert keys("s3://bucket/x") == ["d-000000"]


def rows_of(out: Path) -> list[Row]:
    found = read_labels(out)
    assert found is not None
    return found.all_rows


def test_the_card_names_licences_sources_and_counts(made: Path) -> None:
    manifest = read_json(made / "manifest.json")
    card = make_card(manifest)
    assert "license: cc0-1.0" in card
    assert "| CC0-1.0 | 6 | 0.000 |" in card
    assert "| blazepose | Apache-2.0 | 6 |" in card
    assert "| clips with blurred faces | 6 |" in card
    assert make_card(manifest) == card
    manifest["clips"]["clip00"]["source"] = "a | b\n# <script>"
    manifest["licences"] = ["CC0-1.0", "odd"]
    card = make_card(manifest)
    assert "license: other" in card
    assert "a \\| b # &lt;script>" in card


def test_the_hub_there_and_back(labels: Path, tmp_path: Path) -> None:
    """One commit shows everything; a second push sends what changed; reading takes the manifest that was pushed."""
    with Hub() as hub:
        owner = Client(hub.url, tmp_path / "home", token=WRITER)
        hub.fail_commits = True
        code, _, err = owner.run("push", str(labels), "hf://datasets/org/walks")
        assert code == 2 and "Traceback" not in err
        hub.fail_commits = False
        uploads = [line for line in hub.log if line.startswith("PUT")]
        assert len(uploads) == 3
        code, out, err = owner.run("push", str(labels), "hf://datasets/org/walks")
        assert code == 0, err
        assert [line for line in hub.log if line.startswith("PUT")] == uploads  # the bytes were there already
        repo = hub.repos["org/walks"]
        assert repo.private and len(repo.commits) == 2
        tree = repo.commits[-1][1]
        assert "Labels: cameras, bodies and scene" in tree["README.md"].decode()
        names = ["manifest.json", "statistics.html", "shards/index.jsonl", *(f"shards/{k:06d}.tar" for k in range(3))]
        assert {name: tree[name] for name in names} == {name: (labels / name).read_bytes() for name in names}
        code, out, err = owner.run("verify", "hf://datasets/org/walks")
        assert code == 0, out + err
        assert "6 of 6 samples whole: all is well" in out

        take_out(labels, "clip02")
        code, out, err = owner.run("push", str(labels), "hf://datasets/org/walks")
        assert code == 0, err
        tree = repo.commits[-1][1]
        assert sorted(name for name in tree if name.endswith(".tar")) == [f"shards/{k:06d}.tar" for k in (0, 2, 3)]
        code, out, err = owner.run("push", str(labels), "org/walks")
        assert code == 2 and "hf://datasets/ORG/NAME" in err
        code, out, err = owner.run("push", str(labels), "hf://datasets/org/walks@main")
        assert code == 2
        assert WRITER not in owner.said
        owner.close()
