"""Read users' own SMPL and SMPL-X files. Those models are licensed to their owners; none is shipped or fetched.

`.npz` files are read without pickle. SMPL's original `.pkl` is a pickle that may hold chumpy and scipy objects;
it is read by an unpickler that knows those few types, as plain arrays, and refuses everything else, so that a
prepared file cannot run code. Neither chumpy nor the package smplx is needed.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.body.model import BodyModel
from distill.body.reader import body_arrays
from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS, SMPL_PARENTS
from distill.unpickle import harmless_global
from distill.untrusted import MAX_ARRAY_BYTES, read_npz

Array = NDArray[Any]
_KEYS: Final = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")

SMPLX_JOINTS: Final = 55
BODY_JOINTS: Final = 22
"""SMPL's joints 0..21 (pelvis to wrists) are SMPL-X's as well."""
_FACE: Final = range(22, 25)
_LEFT_FINGERS: Final = range(25, 40)
_RIGHT_FINGERS: Final = range(40, 55)
_KNUCKLES: Final = (28, 43)
"""Roots of the middle fingers: where SMPL has its hand joints."""
SMPLX_SHAPES: Final = 10


def load_smpl(path: Path) -> BodyModel:
    """A user's SMPL model from `.npz` or the original `.pkl`.

    Raises:
        FootfallError: missing, damaged, not SMPL, or a pickle that holds anything but arrays.
    """
    return BodyModel(body_arrays("smpl", _read(path), str(path)))


def load_smplx(path: Path) -> BodyModel:
    """A user's SMPL-X model from `.npz`, reduced to the 24 joints of SMPL.

    Jaw and eyes turn with the head. All fingers of a hand turn as one about the root of the middle finger,
    which takes the place of SMPL's hand joint; with that joint at rest the mesh is SMPL-X's with flat hands.

    Raises:
        FootfallError: missing, damaged, or not SMPL-X.
    """
    raw = _read(path)
    weights, regressor, posedirs = (np.asarray(raw[key]) for key in ("weights", "J_regressor", "posedirs"))
    vertices = len(raw["v_template"])
    expected = {
        "weights": (weights, (vertices, SMPLX_JOINTS)),
        "J_regressor": (regressor, (SMPLX_JOINTS, vertices)),
        "posedirs": (posedirs, (vertices, 3, 9 * (SMPLX_JOINTS - 1))),
    }
    for key, (array, shape) in expected.items():
        if array.shape != shape:
            raise _refusal(path, f"{key} of shape {array.shape}, wanted {shape}", "an SMPL-X model (.npz)")
    merged = weights[:, : len(SMPL_JOINTS)].copy()
    merged[:, SMPL_JOINTS.index("head")] += weights[:, _FACE].sum(1)
    merged[:, SMPL_JOINTS.index("left_hand")] = weights[:, _LEFT_FINGERS].sum(1)
    merged[:, SMPL_JOINTS.index("right_hand")] = weights[:, _RIGHT_FINGERS].sum(1)
    correctives = np.zeros((vertices, 3, 9 * (len(SMPL_JOINTS) - 1)))
    correctives[..., : 9 * (BODY_JOINTS - 1)] = posedirs[..., : 9 * (BODY_JOINTS - 1)]
    reduced = {
        "v_template": raw["v_template"],
        "shapedirs": np.asarray(raw["shapedirs"])[..., :SMPLX_SHAPES],
        "posedirs": correctives,
        "J_regressor": np.concatenate((regressor[:BODY_JOINTS], regressor[list(_KNUCKLES)])),
        "weights": merged,
        "parents": np.asarray(SMPL_PARENTS),
        "f": raw["f"],
    }
    return BodyModel(body_arrays("smplx", reduced, str(path)))


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a model file; sparse matrices come as dense ones."""
    expected = "a body model (.npz, or SMPL's .pkl)"
    if not path.is_file():
        raise _refusal(path, "no such file", expected)
    if path.stat().st_size > MAX_ARRAY_BYTES:
        raise _refusal(path, f"{path.stat().st_size} bytes", expected)
    try:
        if path.suffix == ".npz":
            # Only the arrays we need: official files also hold pickled names, which stay unread.
            found = read_npz(path, _KEYS)
        else:
            with path.open("rb") as stream:
                content = _ArraysOnly(stream, encoding="latin1").load()
            found = {key: _plain(content[key]) for key in _KEYS if key in content}
    except FootfallError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError, zipfile.BadZipFile,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise _refusal(path, f"unreadable ({error})", expected) from error
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise _refusal(path, f"no array {missing[0]!r}", expected)
    return found


def _refusal(path: Path, got: str, expected: str) -> FootfallError:
    return FootfallError(
        f"body file {path}", got=got, expected=expected,
        do="check the path; the files come from the models' own sites under their licences",
    )  # fmt: skip


class _Held:
    """Stands for an object of a class that is not loaded; keeps its state only."""

    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Chumpy(_Held):
    """A chumpy array: its numbers are `x` of its state."""


class _Sparse(_Held):
    """A compressed sparse column matrix of scipy."""


def _reconstruct(kind: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor` for the classes above."""
    if not (isinstance(kind, type) and issubclass(kind, _Held)):
        raise pickle.UnpicklingError(f"{kind} is not an array")
    return kind()


def _plain(value: Any) -> Array:
    """The numbers of an unpickled array, chumpy array or sparse matrix.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, _Chumpy):
        value = value.state["x"]
    if isinstance(value, _Sparse):
        rows, columns = (int(n) for n in value.state["_shape"])
        dense = np.zeros((rows, columns))
        starts, row_ids, numbers = (np.asarray(value.state[key]) for key in ("indptr", "indices", "data"))
        dense[row_ids, np.repeat(np.arange(columns), np.diff(starts))] = numbers
        return dense
    if not isinstance(value, np.ndarray) or value.dtype == object:
        raise TypeError(f"{type(value).__name__} where an array should be")
    return value


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers, text, numpy arrays and the two kinds above; calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the pickle.

        Raises:
            FootfallError: the pickle asks for anything that is not known to be harmless.
        """
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if module.startswith("scipy.sparse") and name == "csc_matrix":
            return _Sparse
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return _reconstruct
        if (module, name) in (("__builtin__", "object"), ("builtins", "object")):
            return object
        if (known := harmless_global(module, name)) is not None:
            return known
        raise FootfallError(
            "body file (.pkl)", got=f"a pickle that calls {module}.{name}", expected="arrays only",
            do="do not trust this file; get the model from its own site",
        )  # fmt: skip
