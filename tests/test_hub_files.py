"""Students' folders that are damaged, exchanged or something else, and shipped names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.errors import FootfallError
from distill.files import read_json, sha256_of, write_json
from distill.hub import check_names, is_hub_id, split_revision
from distill.models import shipped
from distill.models.pretrained import find_student
from distill.models.student import Student, StudentConfig
from distill.models.student_files import check_folder
from distill.models.trunk import HeadConfig
from tests.student_support import one_thread  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(StudentConfig(head=HeadConfig(width=16, layers=1, attention_heads=2)))


@pytest.fixture
def folder(student: Student, tmp_path: Path) -> Path:
    student.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refused(folder: Path, words: str) -> None:
    with pytest.raises(FootfallError, match=words):
        Student.from_pretrained(folder)


def rehash(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "weights_sha256": sha256_of(folder / "model.safetensors")})


def test_config_names_the_hash_of_the_weights(folder: Path) -> None:
    assert read_json(folder / "config.json")["weights_sha256"] == sha256_of(folder / "model.safetensors")
    assert check_folder(folder)["backbone"]["id"] == "tiny"


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    state = torch.get_rng_state()
    Student.from_pretrained(folder)
    assert torch.equal(state, torch.get_rng_state())


def test_damaged_and_exchanged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    for end in (0, 7, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:end])
        refused(folder, "truncated or damaged")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # one bit, which safetensors does not see
    refused(folder, "got sha256")
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    refused(folder, r"pytorch_model\.bin may be a pickle")


def test_tensors_of_another_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = load_file(path)
    name = next(iter(good))
    for weights, words in (
        ({**good, "extra": torch.zeros(2)}, "1 unexpected, e.g. extra"),
        ({k: v for k, v in good.items() if k != name}, f"1 missing, e.g. {name}"),
        ({**good, name: torch.zeros(3, 5)}, r"1 of another shape, .*\[3, 5\]"),
        ({**good, "dec_norm.weight": torch.zeros(96)}, "tensors of a backbone"),
        ({"enc_norm.weight": torch.zeros(3)}, "tensors of a backbone"),
    ):
        save_file(weights, path)
        rehash(folder)
        refused(folder, words)


def test_configs_that_are_none(folder: Path) -> None:
    path = folder / "config.json"
    good = read_json(path)
    for content, words in (
        ({**good, "format": "footfall-student/1"}, "footfall-student/1"),
        ([1], "format 'list'"),
        ({k: v for k, v in good.items() if k != "weights_sha256"}, "no weights_sha256"),
        ({**good, "backbone": {}}, r"no backbone\.sha256"),
        ({**good, "backbone": {**good["backbone"], "sha256": "0" * 64}}, "backbone tiny: got weights"),
        ({**good, "student": {**good["student"], "num_betas": "ten"}}, r"config\.json"),
    ):
        path.write_text(json.dumps(content))
        refused(folder, words)
    path.write_text("{")
    refused(folder, "a JSON file")
    path.unlink()
    refused(folder, r"no config\.json")


def test_shipped_names(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "SHIPPED", {"tiny": tmp_path / "absent"})
    with pytest.raises(FootfallError, match="not in this build"):
        Student.from_pretrained("tiny")
    with pytest.raises(FootfallError, match="no such folder and no shipped student"):
        Student.from_pretrained("tinny")
    monkeypatch.setattr(shipped, "SHIPPED", {"tiny": folder})
    assert find_student("tiny") == folder
    Student.from_pretrained("tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert find_student(Path("tiny")) == find_student("./tiny") == Path("tiny")  # a folder of that name


def test_the_shipped_student_loads_where_it_is_shipped() -> None:
    """Holds the files in the checkout to each other; before there are any, the name gives a clear error."""
    if shipped.is_shipped("tiny"):
        Student.from_pretrained("tiny")
        assert sum(path.stat().st_size for path in shipped.SHIPPED["tiny"].iterdir()) < 20e6
    else:
        with pytest.raises(FootfallError, match="not in this build"):
            Student.from_pretrained("tiny")


def test_ids_and_revisions() -> None:
    assert split_revision("org/name@v1.0") == ("org/name", "v1.0")
    assert split_revision("org/name", "refs/pr/1") == ("org/name", "refs/pr/1")
    assert split_revision("org/name") == ("org/name", None)
    for text in ("name", "a/b/c", "../x", "/x/y", "org/na me", "org/", "", ".org/x"):
        assert not is_hub_id(text)
        with pytest.raises(FootfallError, match="another form"):
            split_revision(text)
    for revision in ("../main", "a b", "", "/etc", "-x"):
        with pytest.raises(FootfallError, match="revision"):
            split_revision(f"org/name@{revision}")
    with pytest.raises(FootfallError, match="one revision"):
        split_revision("org/name@a", "b")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a\\b", "~/x", "C:/x", "a\nb", "a/b.PKL", "w.pth"]
)
def test_names_that_no_repository_of_ours_has(name: str) -> None:
    with pytest.raises(FootfallError):
        check_names("student org/name", ["config.json", name])
    check_names("student org/name", ["config.json", "model.safetensors", "pictures/walk.png", "..."])
