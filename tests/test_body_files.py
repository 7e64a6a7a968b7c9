"""Users' SMPL and SMPL-X files: made-up models in their format, hostile and broken ones."""

from __future__ import annotations

import copyreg
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from distill.body import BodyModel, licensed, load_body_model
from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_PARENTS
from tests.conftest import TOLERANCES
from tests.test_body import identity_pose, random_pose, random_root

SMPLX_PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38,
    21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53,
)  # fmt: skip


def made_up(joints: int, vertices_per_joint: int = 5, shapes: int = 10) -> dict[str, Any]:
    """A model in SMPL's format around the free body's joints; extra joints lie at the hands and the head."""
    rng = np.random.default_rng(joints)
    rest = load_body_model("anny").joint_template.numpy().astype(np.float64)
    parents = SMPL_PARENTS if joints == 24 else SMPLX_PARENTS
    places = [rest[j] if j < 22 or joints == 24 else None for j in range(joints)]
    for j in range(22, joints):
        places[j] = rest[{15: 15, 20: 22, 21: 23}.get(parents[j], 22 if j < 40 else 23)] if joints > 24 else rest[j]
    places = np.stack(places) + rng.normal(0, 0.005, (joints, 3)) * (np.arange(joints) >= 22)[:, None]
    count = joints * vertices_per_joint
    spread = rng.normal(0, 0.03, (joints, vertices_per_joint, 3))
    spread -= spread.mean(1, keepdims=True)  # so that the mean of a joint's vertices is the joint
    weights = np.kron(np.eye(joints), np.ones((vertices_per_joint, 1))) + 0.05 * rng.random((count, joints))
    regressor = np.kron(np.eye(joints), np.full((1, vertices_per_joint), 1 / vertices_per_joint))
    table = np.stack((np.array(parents, dtype=np.int64) % 2**32, np.arange(joints)))  # the root's parent is 2^32 - 1
    return {
        "v_template": (places[:, None] + spread).reshape(-1, 3),
        "shapedirs": rng.normal(0, 0.005, (count, 3, shapes)),
        "posedirs": rng.normal(0, 0.001, (count, 3, 9 * (joints - 1))),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": table,
        "f": np.arange(count - count % 3).reshape(-1, 3).astype(np.uint32),
    }


class Ch:
    """Pickles as chumpy's arrays do."""

    def __init__(self, x: Any) -> None:
        self.x = x


class Csc:
    """Pickles as scipy's sparse matrices do."""

    def __init__(self, dense: Any) -> None:
        columns = [np.flatnonzero(dense[:, j]) for j in range(dense.shape[1])]
        self.indices = np.concatenate(columns)
        self.indptr = np.concatenate(([0], np.cumsum([len(c) for c in columns])))
        self.data = dense.T[dense.T != 0]
        self._shape = dense.shape


def write_original(path: Path, model: dict[str, Any], protocol: int = 2) -> None:
    """A .pkl that names chumpy and scipy as the official one does, without either being installed."""
    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    Csc.__module__, Csc.__qualname__ = "scipy.sparse.csc", "csc_matrix"
    content = dict(model, shapedirs=Ch(model["shapedirs"]), J_regressor=Csc(model["J_regressor"]), bs_type="lrotmin")

    class Pickler(pickle._Pickler):  # the Python one does not check that the named modules exist
        def save_global(self, obj: Any, name: Any = None) -> None:
            if obj in (Ch, Csc):
                self.write(pickle.GLOBAL + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch: ClassVar = {**pickle._Pickler.dispatch, type: lambda self, obj: self.save_global(obj)}

    with path.open("wb") as stream:
        Pickler(stream, protocol).dump(content)


@pytest.fixture(scope="module")
def smpl_like() -> dict[str, Any]:
    return made_up(24)


def assert_is(body: BodyModel, model: dict[str, Any]) -> None:
    """The body's rest mesh is the file's, moved so that the pelvis is the origin."""
    pelvis = (model["J_regressor"] @ model["v_template"])[0]
    out = body(torch.zeros(10), identity_pose(), torch.eye(4), body.all_vertices)
    assert out.vertices is not None
    np.testing.assert_allclose(out.vertices.numpy(), model["v_template"] - pelvis, atol=1e-5)
    assert body.faces.tolist() == model["f"].tolist()


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_the_original_pickle_and_npz_give_the_same_body(tmp_path: Path, smpl_like: Any, protocol: int) -> None:
    np.savez(tmp_path / "model.npz", **smpl_like)
    write_original(tmp_path / "model.pkl", smpl_like, protocol)
    from_npz, from_pkl = (load_body_model(f"smpl:{tmp_path / name}") for name in ("model.npz", "model.pkl"))
    assert from_npz.name == from_pkl.name == "smpl"
    for body in (from_npz, from_pkl):
        assert_is(body, smpl_like)
    for name, buffer in from_npz.named_buffers():
        torch.testing.assert_close(dict(from_pkl.named_buffers())[name], buffer)


def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, smpl_like: Any) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for content in ({**smpl_like, "v_template": Hostile()}, Hostile()):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(FootfallError, match="calls"):
            load_body_model(f"smpl:{tmp_path / 'model.pkl'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "copyreg.__newobj__", "numpy.load", "subprocess.Popen"])
def test_no_other_callable_can_be_named(tmp_path: Path, name: str) -> None:
    module, function = name.rsplit(".", 1)
    (tmp_path / "model.pkl").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(FootfallError, match="calls"):
        load_body_model(f"smpl:{tmp_path / 'model.pkl'}")


def test_reconstructing_something_else_than_an_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\ncnumpy\nndarray\nNtR.")
    with pytest.raises(FootfallError, match="unreadable"):
        load_body_model(f"smpl:{tmp_path / 'model.pkl'}")
    assert copyreg._reconstructor is not licensed._reconstruct


def test_object_arrays_in_npz_are_not_unpickled(tmp_path: Path, smpl_like: Any) -> None:
    np.savez(tmp_path / "names.npz", **smpl_like, part2num=np.array({"head": 1}, dtype=object))
    assert_is(load_body_model(f"smpl:{tmp_path / 'names.npz'}"), smpl_like)  # left unread, as in official files
    hostile = {**smpl_like, "weights": np.array([{}], dtype=object)}
    np.savez(tmp_path / "hostile.npz", **hostile)
    with pytest.raises(FootfallError):
        load_body_model(f"smpl:{tmp_path / 'hostile.npz'}")


@pytest.mark.parametrize(
    "fault", ["empty", "text", "truncated", "no weights", "wrong joints", "nan", "other tree", "smplx as smpl"]
)
@pytest.mark.parametrize("ending", ["npz", "pkl"])
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, smpl_like: Any, fault: str, ending: str) -> None:
    path, model = tmp_path / f"model.{ending}", dict(smpl_like)
    if fault == "no weights":
        del model["weights"]
    elif fault == "wrong joints":
        model["weights"] = model["weights"][:, :20]
    elif fault == "nan":
        model["v_template"] = model["v_template"] * np.nan
    elif fault == "other tree":
        model["kintree_table"] = np.stack((np.arange(24) - 1, np.arange(24)))
    elif fault == "smplx as smpl":
        model = made_up(55)
    if ending == "npz":
        np.savez(path, **model)
    else:
        path.write_bytes(pickle.dumps(model, protocol=2))
    if fault in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"not a model"}.get(fault, path.read_bytes()[:2000]))
    with pytest.raises(FootfallError) as caught:
        load_body_model(f"smpl:{path}")
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_smplx_reduced_to_our_joints_is_smplx_with_flat_hands(tmp_path: Path) -> None:
    smplx = pytest.importorskip("smplx", reason="the optional package smplx is the reference here")
    model = made_up(55, shapes=20)  # ten of shape, ten of expression
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, **model)
    reference = _smplx_reference(smplx, model)
    ours = load_body_model(f"smplx:{path}").double()
    assert ours.name == "smplx" and ours.num_betas == 10
    betas, root = torch.randn(3, 10, dtype=torch.float64), random_root((3,), torch.float64)
    pose = random_pose((3,), dtype=torch.float64)
    pose[:, 21:] = torch.eye(3, dtype=torch.float64)  # hands at rest
    out = ours(betas, pose, root, ours.all_vertices)
    joints, vertices = reference(betas, pose[:, :21], root)
    assert out.vertices is not None
    # The file is read as float32.
    torch.testing.assert_close(out.vertices, vertices, **TOLERANCES[torch.float32])
    torch.testing.assert_close(out.joints[:, :22], joints[:, :22], **TOLERANCES[torch.float32])
    torch.testing.assert_close(out.joints[:, 22:], joints[:, [28, 43]], **TOLERANCES[torch.float32])


def _smplx_reference(smplx: Any, model: dict[str, Any]) -> Any:
    """All 55 joints by the package's own skinning; the pelvis at the root's position."""

    def run(betas: Any, body_pose: Any, root: Any) -> tuple[Any, Any]:
        tensors = {
            k: torch.from_numpy(np.asarray(model[k], np.float64)) for k in ("v_template", "J_regressor", "weights")
        }
        posedirs = torch.from_numpy(model["posedirs"].reshape(-1, 486).T.copy())
        parents = torch.tensor(SMPLX_PARENTS)
        rotations = torch.eye(3, dtype=torch.float64).expand(len(betas), 55, 3, 3).clone()
        rotations[:, 0], rotations[:, 1:22] = root[:, :3, :3], body_pose
        vertices, joints = smplx.lbs.lbs(
            betas, rotations, tensors["v_template"], torch.from_numpy(model["shapedirs"][..., :10]), posedirs,
            tensors["J_regressor"], parents, tensors["weights"], pose2rot=False,
        )  # fmt: skip
        offset = root[:, None, :3, 3] - joints[:, :1]
        return joints + offset, vertices + offset

    return run


def test_smpl_given_as_smplx_is_refused(tmp_path: Path, smpl_like: Any) -> None:
    np.savez(tmp_path / "model.npz", **smpl_like)
    with pytest.raises(FootfallError, match="SMPL-X"):
        load_body_model(f"smplx:{tmp_path / 'model.npz'}")
