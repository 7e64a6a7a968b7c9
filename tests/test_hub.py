"""Pushing, pulling and loading students, against a server that speaks as the Hub does (`hub_support`)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.files import sha256_of
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from tests.hub_support import READER, WRITER, Client, Hub

SMALL = StudentConfig(head=HeadConfig(width=16, layers=1, attention_heads=2))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def owner(hub: Hub, home: Path) -> Iterator[Client]:
    """Has a token that may write."""
    client = Client(hub.url, home, token=WRITER)
    yield client
    client.close()
    assert WRITER not in client.said


@pytest.fixture(scope="module")
def stranger(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Has no token, and a cache of its own."""
    client = Client(hub.url, tmp_path_factory.mktemp("stranger"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("saved") / "student"
    Student(SMALL).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    copy = tmp_path / "student"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def total(folder: Path) -> float:
    """Sum of all weights, as `Client.load` reports it."""
    return float(sum(tensor.double().sum() for tensor in load_file(folder / "model.safetensors").values()))


def shift(folder: Path, by: float) -> None:
    """Other weights for a student, with their hash in the config."""
    weights = {name: tensor + by for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def cached_files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]


def test_push_pull_load_pin_and_offline(hub: Hub, owner: Client, home: Path, folder: Path) -> None:
    code, out, err = owner.run("push", str(folder), "org/walker")
    assert code == 0, err
    repo = hub.repos["org/walker"]
    first, tree = repo.commits[-1]
    assert repo.private and len(repo.commits) == 2  # made, then everything in one commit
    assert {name: tree[name] for name in files_of(folder)} == files_of(folder)
    assert f"{hub.url}/org/walker (private), revision {first}" in out

    before = total(folder)
    shift(folder, 0.5)
    assert owner.run("push", str(folder), "org/walker")[0] == 0
    after = total(folder)
    assert before != after

    hub.log.clear()
    assert owner.load("org/walker") == pytest.approx(after)
    assert sorted(hub.fetched()) == ["config.json", "model.safetensors"]  # no card, nothing twice
    hub.log.clear()
    assert owner.load("org/walker") == pytest.approx(after)
    assert hub.fetched() == []
    assert owner.load("org/walker", revision=first) == pytest.approx(before)
    assert owner.load(f"org/walker@{first}") == pytest.approx(before)
    hub.log.clear()
    assert owner.load("org/walker", revision=first) == pytest.approx(before)
    assert hub.log == []  # a full commit in the cache: nobody is asked

    code, out, err = owner.run("pull", f"org/walker@{first}")
    assert code == 0, err
    assert Path(out.splitlines()[0]).is_relative_to(home) and (Path(out.splitlines()[0]) / "README.md").is_file()
    assert f"footfall run VIDEO --checkpoint org/walker@{first} --out RESULT" in out

    hub.log.clear()
    offline = Client(hub.url, home, offline=True)
    assert offline.load("org/walker") == pytest.approx(after)
    assert offline.load("org/walker", revision=first) == pytest.approx(before)
    assert offline.run("pull", "org/walker")[0] == 0
    assert "HF_HUB_OFFLINE=1" in str(offline.load("org/other"))
    assert "HF_HUB_OFFLINE=1" in offline.run("push", str(folder), "org/walker")[2]
    assert offline.load(str(folder)) == pytest.approx(after)
    offline.close()
    assert hub.log == []


def test_private_missing_and_strange_repositories(hub: Hub, stranger: Client, folder: Path) -> None:
    hub.add("org/secret", files_of(folder), private=True)
    hub.add("org/open", files_of(folder))
    hub.add("org/empty", {"notes.txt": b"x"})
    hub.add("org/mast3r", {"config.json": b'{"enc_depth": 24}', "model.safetensors": b"x" * 100})
    hub.log.clear()
    for name, words in (
        ("org/secret", "private one that this token"),
        ("org/nobody", "no such repository"),
        ("org/open@0123456", "no such revision"),
        ("org/empty", "without config.json"),
        ("org/mast3r", "format None"),
    ):
        code, _, err = stranger.run("pull", name)
        assert code == 2 and words in err and err.count("\n") == 1, err
    assert "model.safetensors" not in hub.fetched()  # the config alone says that it is no student
    for name, words in (("org/open@../../x", "a commit, tag or branch"), ("../org/open", "another form")):
        assert words in stranger.run("pull", name)[2]


def test_nothing_but_a_student_reaches_the_disk(hub: Hub, stranger: Client, saved: Path) -> None:
    hub.add("org/full", {**files_of(saved), "notes.txt": b"n" * 50, "evil.py": b"import os"})
    code, out, err = stranger.run("pull", "org/full")
    assert code == 0, err
    assert "left there: evil.py, notes.txt" in out
    assert not [path for path in cached_files(stranger.home) if path.read_bytes() in (b"n" * 50, b"import os")]
    for name, words in (
        ("pytorch_model.bin", "may be a pickle"),
        ("../../../escaped.txt", "names inside the repository"),
        ("/tmp/escaped.txt", "names inside the repository"),
        ("a\\..\\escaped.txt", "names inside the repository"),
    ):
        other = f"org/bad-{abs(hash(name))}"
        hub.add(other, {**files_of(saved), name: b"escaped"})
        hub.log.clear()
        result = stranger.load(other)
        assert isinstance(result, str) and words in result
        assert "model.safetensors" not in hub.fetched()
    assert not [path for path in cached_files(stranger.home) if path.read_bytes() == b"escaped"]


def test_broken_downloads_go_on_or_leave_nothing(hub: Hub, stranger: Client, folder: Path) -> None:
    shift(folder, 0.25)
    hub.add("org/broken", files_of(folder))
    size = (folder / "model.safetensors").stat().st_size
    hub.break_after = [size // 2, *[0] * 50]  # it resumes once, then the server is gone for as long as it tries
    result = stranger.load("org/broken")
    assert isinstance(result, str) and "try again" in result and len(hub.break_after) < 50
    digest = sha256_of(folder / "model.safetensors")
    assert not [path for path in stranger.home.rglob("*") if digest in path.name and path.suffix != ".lock"]
    hub.break_after, hub.log = [size // 3], []
    assert stranger.load("org/broken") == pytest.approx(total(folder))
    assert hub.fetched().count("model.safetensors") == 2  # broken off, and the rest


def test_wrong_truncated_and_exchanged_weights(hub: Hub, stranger: Client, folder: Path) -> None:
    good = files_of(folder)
    shift(folder, 0.125)
    hub.add("org/exchanged", {**good, "model.safetensors": (folder / "model.safetensors").read_bytes()})
    hub.add("org/short", {**good, "model.safetensors": good["model.safetensors"][:-100]})
    for name, words in (("org/exchanged", "got sha256"), ("org/short", "truncated")):
        assert words in stranger.run("pull", name)[2]
        assert words in str(stranger.load(name))
    commit = hub.add("org/fine", files_of(folder))
    assert stranger.load("org/fine") == pytest.approx(total(folder))
    (weights,) = stranger.home.rglob(f"{commit}/model.safetensors")
    weights.resolve().write_bytes(weights.read_bytes()[:-4])  # a disk fault in the cache
    assert "truncated" in str(stranger.load("org/fine"))
    assert stranger.run("pull", "org/fine")[0] == 0  # fetched again
    assert stranger.load("org/fine") == pytest.approx(total(folder))


def test_pushes_that_are_refused_send_nothing(hub: Hub, owner: Client, stranger: Client, folder: Path) -> None:
    hub.log.clear()
    card = folder / "README.md"
    text = card.read_text()
    (folder / "optimiser.pt").write_bytes(b"x")
    assert "unexpected optimiser.pt" in owner.run("push", str(folder), "org/new")[2]
    (folder / "optimiser.pt").unlink()
    for licence in ("", "license: unknown\n", "license: other\n"):
        card.write_text(text.replace("license: apache-2.0\n", licence))
        assert "licen" in owner.run("push", str(folder), "org/new")[2]
    card.write_text(text)
    assert "no token" in stranger.run("push", str(folder), "org/new")[2]
    assert "expected ORG/NAME" in owner.run("push", str(folder), "org/new@main")[2]
    weights = load_file(folder / "model.safetensors")
    for name in ("backbone.dec_norm.weight", "dec_norm.weight"):
        save_file({**weights, name: torch.zeros(96)}, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["weights_sha256"] = sha256_of(folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        assert "tensors of a backbone" in owner.run("push", str(folder), "org/new")[2]
    (folder / "config.json").write_text(json.dumps({"enc_depth": 24}))
    assert "format None" in owner.run("push", str(folder), "org/new")[2]
    assert hub.log == [] and "org/new" not in hub.repos


def test_pushes_that_the_server_refuses(hub: Hub, owner: Client, home: Path, saved: Path) -> None:
    hub.add("org/public", {"x": b"y"})
    assert "a repository that is public" in owner.run("push", str(saved), "org/public")[2]
    assert len(hub.repos["org/public"].commits) == 1
    code, out, err = owner.run("push", str(saved), "org/public", "private=false")
    assert code == 0 and "(public)" in out, err
    hub.fail_commits = True
    code, _, err = owner.run("push", str(saved), "org/half")
    hub.fail_commits = False
    assert code == 2 and "push to org/half" in err
    assert len(hub.repos["org/half"].commits) == 1  # made, and still empty
    assert owner.run("push", str(saved), "org/half")[0] == 0
    reader = Client(hub.url, home, token=READER)
    code, _, err = reader.run("push", str(saved), "org/foreign")
    assert code == 2 and "forbidden" in err
    reader.close()
    assert READER not in reader.said


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:9", tmp_path)
    assert "no answer from http://127.0.0.1:9 " in str(client.load("org/walker"))
    client.close()
