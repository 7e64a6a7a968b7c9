"""Shards from afar: HTTP(S), S3 and the Hub, against servers of this machine, with lines that break."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import FootfallError
from distill.files import read_json, write_json
from distill.shards import remote
from distill.shards.reader import ShardReader, find_shards
from tests.remote_support import COMMIT, serve
from tests.shard_support import make_shards

KEYS = [f"clip{k:02d}-000000" for k in range(4)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels/ with two shards of two samples."""
    folder = tmp_path_factory.mktemp("root")
    make_shards(folder / "labels", samples=4)
    return folder


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy between a test and its server, and no long waits."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    yield
    remote.s3_client.cache_clear()


def read(spec: str, **options: Any) -> tuple[list[str], ShardReader]:
    reader = ShardReader(find_shards(spec).urls, seed=0, rank=0, world=1, shuffle=False, **options)
    return [sample.key for sample in reader], reader


def test_http_by_braces_and_by_folder(root: Path) -> None:
    with serve(root) as (address, _):
        for spec in ("labels", "labels/", "labels/shards", "labels/shards/{000000..000001}.tar"):
            keys, reader = read(f"{address}/{spec}")
            assert (keys, reader.skipped) == (KEYS, 0)
            assert find_shards(f"{address}/{spec}").samples == 4
        assert find_shards(f"{address}/labels/shards/000001.tar").samples == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_line_is_taken_up_where_it_stopped(root: Path, ranges: bool) -> None:
    size = (root / "labels" / "shards" / "000000.tar").stat().st_size
    cut = size // 3 if ranges else size // 2
    with serve(root, cut_after=cut, cuts=2, ranges=ranges) as (address, seen):
        keys, reader = read(f"{address}/labels")
    assert (keys, reader.skipped) == (KEYS, 0)
    resumed = [headers["Range"] for _, _, headers in seen.asked if "Range" in headers]
    assert len(resumed) == 2
    assert int(resumed[0].removeprefix("bytes=").rstrip("-")) > 0


def test_a_busy_server_is_asked_again_and_a_dead_one_given_up(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serve(root) as (address, seen):
        urls = find_shards(f"{address}/labels").urls
        seen.busy = 3
        reader = ShardReader(urls, seed=0, rank=0, world=1, shuffle=False)
        assert [sample.key for sample in reader] == KEYS
        seen.busy = remote.ATTEMPTS
        assert [sample.key for sample in reader] == KEYS[2:]  # one shard is lost, and counted
        assert reader.skipped == 1
        assert "000000.tar" in caplog.text


def test_what_is_not_there_is_an_error_at_once(root: Path) -> None:
    with serve(root) as (address, seen):
        with pytest.raises(FootfallError, match=r"none/manifest\.json: got HTTP 404"):
            find_shards(f"{address}/none")
        asked = len(seen.asked)
        with pytest.raises(FootfallError, match="HTTP 404"):
            read(f"{address}/labels/shards/000007.tar")
        assert len(seen.asked) == asked + 2  # the manifest, and once the shard
    with pytest.raises(FootfallError, match="ftp"):
        read("ftp://x.org/000000.tar")


def test_a_file_that_changes_in_between_is_not_mixed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "labels" / "shards" / "000000.tar"
    with serve(tmp_path, cut_after=20_000, cuts=1) as (address, _):
        stream = remote.open_url(f"{address}/labels/shards/000000.tar")
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(FootfallError, match="another file"):
            stream.read()


def test_passwords_and_signatures_are_not_shown(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(root, password="Basic bWU6c2VjcmV0") as (address, seen):  # me:secret
        keys, _ = read(f"{address}/labels/shards/000000.tar".replace("://", "://me:secret@") + "?sig=hidden")
        assert keys == KEYS[:2]
        assert not any("secret" in path for _, path, _ in seen.asked)
        seen.busy = 99
        keys, reader = read(f"{address}/labels/shards/000000.tar".replace("://", "://me:secret@") + "?sig=hidden")
        assert (keys, reader.skipped) == ([], 1)
        seen.busy = 0
        with pytest.raises(FootfallError) as caught:
            read(f"{address}/labels/shards/000000.tar".replace("://", "://me:wrong@") + "?sig=hidden")
    assert "HTTP 403" in str(caught.value)
    for secret in ("secret", "wrong", "hidden", "bWU6"):
        assert secret not in caplog.text + str(caught.value)


def test_https_checks_the_certificate(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate, both = (tmp_path / name for name in ("key.pem", "cert.pem", "both.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    with serve(root, both) as (address, _):
        with pytest.raises(FootfallError, match=r"CERTIFICATE_VERIFY_FAILED|after 5 tries"):
            find_shards(f"{address}/labels")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert read(f"{address}/labels")[0] == KEYS


@pytest.mark.parametrize("credentials", [True, False])
def test_s3(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: bool) -> None:
    pytest.importorskip("boto3", reason="needs the extra [s3]")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if credentials:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "bucket").symlink_to(root)
    with serve(tmp_path, cut_after=20_000, cuts=1) as (address, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        keys, reader = read("s3://bucket/labels")
        assert (keys, reader.skipped) == (KEYS, 0)
        assert find_shards("s3://bucket/labels").samples == 4
        assert any(headers.get("Range") for _, _, headers in seen.asked)  # the cut was mended
        signed = [headers.get("Authorization", "") for _, _, headers in seen.asked]
        assert all(("AWS4-HMAC-SHA256" in line) == credentials for line in signed)
        with pytest.raises(FootfallError, match="S3 NoSuchKey"):
            read("s3://bucket/labels/shards/000009.tar")


HUB = """
import json, sys
from distill.shards.reader import ShardReader, find_shards
answers = []
for spec in sys.argv[1:]:
    found = find_shards(spec)
    reader = ShardReader(found.urls, seed=0, rank=0, world=1, shuffle=False)
    answers.append([found.samples, [sample.key for sample in reader], reader.skipped])
print(json.dumps(answers))
"""


def test_hub_and_offline_with_a_warm_cache(root: Path, tmp_path: Path) -> None:
    """In processes of their own: the Hub's client reads its environment once."""
    (tmp_path / "served").symlink_to(root / "labels")

    def ask(address: str, cache: str, *specs: str, **more: str) -> Any:
        environment = {
            **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / cache), "HF_HUB_DISABLE_XET": "1", **more,
        }  # fmt: skip
        run = subprocess.run([sys.executable, "-c", HUB, *specs], env=environment, capture_output=True, text=True)
        return json.loads(run.stdout) if run.returncode == 0 else run.stderr

    whole, pinned = "hf://datasets/org/name", f"hf://datasets/org/name@{COMMIT}/shards/000001.tar"
    with serve(tmp_path / "served") as (address, seen):
        assert ask(address, "warm", whole, pinned) == [[4, KEYS, 0], [2, KEYS[2:], 0]]
        seen.asked.clear()
        assert ask(address, "warm", whole, pinned, HF_HUB_OFFLINE="1") == [[4, KEYS, 0], [2, KEYS[2:], 0]]
        assert seen.asked == []
    missing = ask(address, "cold", whole, HF_HUB_OFFLINE="1")
    assert "FootfallError" in missing
    assert "manifest.json" in missing


def test_a_manifest_of_another_schema_is_refused_from_afar(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "labels" / "manifest.json"
    write_json(path, {**read_json(path), "schema_version": 99})
    with serve(tmp_path) as (address, _):
        for spec in ("labels", "labels/shards/000000.tar"):
            with pytest.raises(FootfallError, match="schema 99"):
                find_shards(f"{address}/{spec}")
        path.write_text("<html>")
        with pytest.raises(FootfallError, match="JSON"):
            find_shards(f"{address}/labels")
