"""Pickled files of others are read, and nothing that they name is run."""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.errors import FootfallError
from teacher.readers import pickled
from teacher.readers.pickled import load_npz, load_pickled

DATA = Path(__file__).parent / "data"


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["joblib_plain.pkl", "joblib_zlib.pkl"])
def test_what_joblib_wrote(name: str) -> None:
    """The two files were written by joblib 1.6 (the second with compress=3); there is no joblib here."""
    content = load_pickled(DATA / name)
    assert type(content) is collections.defaultdict and list(content) == [3]
    one = content[3]
    assert one["pose"].dtype == np.float32 and one["pose"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert one["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert isinstance(one["tensor"], np.ndarray) and one["tensor"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert one["number"] == np.float32(2.5) and one["name"] == "x"
    assert one["objects"].tolist() == [1, None]
    assert one["empty"].shape == (0, 3)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_tensors_and_containers_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)[:2]),
        "tensor": torch.arange(6.0).reshape(2, 3).T, "half": [torch.ones(2, dtype=torch.bfloat16)],
        "text": ("a", b"b", None, True), "ordered": collections.OrderedDict(a=np.float64(2)), "set": {1, 2},
    }  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    read = load_pickled(tmp_path / "x.pkl")
    np.testing.assert_array_equal(read["array"], value["array"])
    np.testing.assert_array_equal(read["fortran"], np.eye(3)[:2])
    np.testing.assert_array_equal(read["tensor"], [[0, 3], [1, 4], [2, 5]])
    assert read["half"][0].dtype == np.float32
    assert read["text"] == value["text"] and read["ordered"]["a"] == 2 and read["set"] == {1, 2}


@pytest.mark.parametrize("ending", ["pkl", "npy", "pt", "compressed", "storage"])
def test_a_hostile_file_is_refused_by_name_and_not_run(tmp_path: Path, ending: str) -> None:
    ran, file = tmp_path / "ran", tmp_path / f"x.{ending}"
    content = {"pose": np.zeros(3), "more": [Hostile(ran)]}
    if ending == "npy":
        np.save(file, content, allow_pickle=True)  # type: ignore[arg-type]
    elif ending == "pt":
        torch.save(content, file)
    elif ending == "compressed":
        import zlib

        file.write_bytes(zlib.compress(pickle.dumps(content)))
    elif ending == "storage":  # a tensor's storage is a pickle of its own inside the pickle
        stream = io.BytesIO()
        torch.save(Hostile(ran), stream, _use_new_zipfile_serialization=False)

        class Storage:
            def __reduce__(self) -> Any:
                return torch.storage._load_from_bytes, (stream.getvalue(),)

        file.write_bytes(pickle.dumps(Storage()))
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(FootfallError, match=r"(posix|nt)\.system"):
        load_pickled(file)
    assert not ran.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "builtins.getattr", "builtins.__import__", "subprocess.Popen", "numpy.load",
     "torch.load", "copyreg._reconstructor", "functools.partial", "pickle.loads", "joblib.numpy_pickle.load"],
)  # fmt: skip
def test_no_other_name_is_known(tmp_path: Path, name: str) -> None:
    module, function = name.rsplit(".", 1)
    (tmp_path / "x.pkl").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(FootfallError, match="calls") as caught:
        load_pickled(tmp_path / "x.pkl")
    assert name in str(caught.value) and "npz" in caught.value.do


@pytest.mark.parametrize(
    "content", [b"", b"text, not a pickle", b"\x80\x04", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x78\x9c\x00"]
)
@pytest.mark.parametrize("ending", ["pkl", "pt", "npy"])
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes, ending: str) -> None:
    (tmp_path / f"x.{ending}").write_bytes(content)
    with pytest.raises(FootfallError) as caught:
        load_pickled(tmp_path / f"x.{ending}")
    assert "\n" not in str(caught.value) and "x." in str(caught.value)


def test_arrays_in_torch_s_files_are_read(tmp_path: Path) -> None:
    torch.save({"a": np.arange(3.0), "b": torch.ones(2), "c": np.float32(1.5)}, tmp_path / "x.pt")
    read = load_pickled(tmp_path / "x.pt")
    assert read["a"].tolist() == [0, 1, 2] and read["b"].tolist() == [1, 1] and read["c"] == 1.5


def test_a_truncated_joblib_array_is_refused(tmp_path: Path) -> None:
    data = (DATA / "joblib_plain.pkl").read_bytes()
    for length in (60, 250, len(data) // 2, len(data) - 3):
        (tmp_path / "x.pkl").write_bytes(data[:length])
        with pytest.raises(FootfallError):
            load_pickled(tmp_path / "x.pkl")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import zlib

    monkeypatch.setattr(pickled, "MAX_ARRAY_BYTES", 1000)
    data = pickle.dumps({"zeros": bytes(100_000)})
    for number, packed in enumerate((zlib.compress(data), gzip.compress(data))):
        (tmp_path / f"{number}.pkl").write_bytes(packed)
        with pytest.raises(FootfallError, match="more than 1000 bytes"):
            load_pickled(tmp_path / f"{number}.pkl")


def test_objects_in_an_npz_stay_unread_unless_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", good=np.arange(3), bad=np.array([Hostile(tmp_path / "ran")], dtype=object))
    assert load_npz(tmp_path / "x.npz", ("good", "absent"))["good"].tolist() == [0, 1, 2]
    with pytest.raises(FootfallError, match="pickle"):
        load_npz(tmp_path / "x.npz", ("good", "bad"))
    assert not (tmp_path / "ran").exists()
