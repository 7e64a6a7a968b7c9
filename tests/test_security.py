"""Nothing in a file is run, nothing leaves its folder, sizes are bounded first, keys stay out of what is written."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config import load_config
from distill.errors import FootfallError, refuse_damage
from distill.files import load_arrays, read_json
from distill.models.torch_files import read_tensors
from distill.secrets import scrub
from distill.shards.members import tar_members
from distill.shards.reader import ShardReader
from distill.untrusted import open_picture, read_npz
from distill.video import Decoder
from teacher.manifest import read_inputs
from teacher.optimise.config import OptimiseConfig
from teacher.readers.pickled import load_pickled
from teacher.workspace import ClipFolder
from tests.fuzz_support import CANARY, Payload, bounded_memory
from tests.shard_support import make_shards


def npy_header(shape: tuple[int, ...]) -> bytes:
    """An .npy that claims a shape and holds nothing."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**20), (10**6, 10**6)])
def test_an_array_that_claims_more_than_it_holds(shape: tuple[int, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy_header(shape))
    (tmp_path / "a.npy").write_bytes(npy_header(shape))
    for read in (
        lambda: load_arrays(tmp_path / "a.npz"), lambda: load_pickled(tmp_path / "a.npy"),
    ):  # fmt: skip
        with bounded_memory(), pytest.raises(FootfallError, match="a header of shape"):
            read()


def test_a_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header((25_000_000,)) + bytes(200_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 300_000
    monkeypatch.setattr("distill.untrusted.MAX_ARRAY_BYTES", 100_000_000)
    with pytest.raises(ValueError, match="unpacked"):
        read_npz(tmp_path / "a.npz")


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, over no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_a_picture_that_claims_to_be_huge(tmp_path: Path) -> None:
    for size in ((60_000, 60_000), (15_000, 10_000)):
        (tmp_path / "0.png").write_bytes(png_of(*size))
        with pytest.raises(ValueError, match="pixels"):
            open_picture(tmp_path / "0.png")
        with bounded_memory():
            assert [frame for _, frame in Decoder(tmp_path, fps=25).frames(range(1))] == [None]


def test_deep_and_large_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("[" * 200_000, '{"a":' * 100_000, "9" * 10_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(FootfallError, match="expected a JSON file"):
            read_json(tmp_path / "a.json")
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(FootfallError):
            read_inputs([tmp_path / "m.jsonl"])
    monkeypatch.setattr("distill.untrusted.MAX_JSON_BYTES", 10)
    (tmp_path / "a.json").write_text("[" + "1," * 20 + "1]")
    with pytest.raises(FootfallError, match="more than 10"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",  # a billion laughs, begun
        "device: ${oc.env:HOME}\n", "threads: ${seed}\n",
        f"device: !!python/object/apply:os.system ['touch {CANARY}']\n",
        f"device: !!python/object/new:os.system ['touch {CANARY}']\n", "a: " + "[" * 5000, "? " * 5000,
    ],
)  # fmt: skip
def test_hostile_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with bounded_memory(), pytest.raises(FootfallError, match="config"):
        load_config(OptimiseConfig, tmp_path / "c.yaml")
    assert not CANARY.exists()


def test_no_setting_is_looked_up_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    with pytest.raises(FootfallError, match="looked up elsewhere"):
        load_config(OptimiseConfig, None, ["body_file=${oc.env:HF_TOKEN}"])


@pytest.mark.parametrize("name", ["a.pkl", "a.npy", "a.pt", "a.npz", "a.pth"])
def test_a_program_in_a_file_is_not_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    box = np.empty((), dtype=object)
    box[()] = Payload()
    if name == "a.npy":
        np.save(path, box, allow_pickle=True)
    elif name == "a.npz":
        np.savez(path, x=box)
    elif name in ("a.pt", "a.pth"):
        torch.save({"model": Payload()}, path)
    else:
        path.write_bytes(pickle.dumps({"x": [Payload()]}))
    read = {"a.npz": load_arrays, "a.pth": read_tensors}.get(name, load_pickled)
    with pytest.raises(FootfallError):
        read(path)  # type: ignore[operator]
    assert not CANARY.exists()


def test_members_of_a_shard_stay_in_memory(tmp_path: Path) -> None:
    """Names that climb out of a folder, links and devices: no file appears, whole samples come through."""
    make_shards(tmp_path, samples=1, per_shard=1, frames=8)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    with tarfile.open(shard, "a") as tar:
        for name in ("../escaped.json", "/tmp/footfall-escaped.json", "../../x.0000.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    reader = ShardReader([str(shard)], seed=0, rank=0, world=1, shuffle=False)
    assert len(list(reader)) == 1 and reader.skipped > 0
    assert sorted(tmp_path.parent.rglob("*")) == before
    assert not Path("/tmp/footfall-escaped.json").exists()


def test_a_shard_that_unfolds_or_claims_too_much_is_left_out(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=1, per_shard=1, frames=8)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    whole = shard.read_bytes()
    shard.write_bytes(gzip.compress(whole))
    reader = ShardReader([str(shard)], seed=0, rank=0, world=1, shuffle=False)
    assert list(reader) == [] and reader.skipped == 1
    told: list[Exception] = []
    members = tar_members(io.BytesIO(whole), "u", lambda error: bool(told.append(error)), most=len(whole) // 2)
    assert len(list(members)) > 2 and "more than" in str(told[0])
    header = tarfile.TarInfo("huge-000000.json")
    header.size = 1 << 45
    with bounded_memory():
        assert list(tar_members(io.BytesIO(header.tobuf() + bytes(512)), "u", lambda e: True)) == [{}]


def test_keys_stay_out_of_messages_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    text = (
        "GET https://me:pass@host/x.tar?X-Amz-Signature=deadbeef&part=3 with hf_abcdefghijkl and wJalrXUtnFEMI/K7MDENG"
    )
    for secret in ("me:pass", "deadbeef", "hf_abcdefghijkl", "wJalrXUtnFEMI"):
        assert secret not in scrub(text)
    assert "part=3" in scrub(text) and "https://host/x.tar" in scrub(text)
    error = FootfallError("shard", got=text, expected="a shard", do="x")
    assert "deadbeef" not in str(error) and "hf_abcdefghijkl" not in str(error)
    with pytest.raises(FootfallError) as caught, refuse_damage("f", expected="e", do="d"):
        raise KeyError(text)
    assert "deadbeef" not in str(caught.value)
    clip = ClipFolder(tmp_path / "c")
    clip.root.mkdir()
    clip.log(f"Traceback: {text}")
    assert "hf_abcdefghijkl" not in (clip.root / "log.txt").read_text()


def test_an_address_with_a_login_is_recorded_without_it(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    row = {"id": "a", "path": "a.mp4", "url": "https://me:pass@host/a.mp4?token=deadbeef99"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (clip,) = read_inputs([tmp_path / "m.jsonl"])
    assert "pass" not in repr(clip) and "deadbeef99" not in repr(clip)
    assert "host/a.mp4" in clip.source
