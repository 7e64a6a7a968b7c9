"""The arrays of `body.npz`: all that it takes to pose joints and feet of the free body, and to know its stature.

Skinned points are kept as sums over joints (`distill.body.pieces`), so that no mesh has to travel.
"""

from __future__ import annotations

from pathlib import Path

from distill.body import BodyModel
from distill.body.pieces import BodyPieces, site_rows
from distill.files import save_arrays
from distill.fuser import FEET


def write_body(path: Path, body: BodyModel) -> None:
    """Write what `distill.runner.body.Body` reads."""
    pieces = BodyPieces(body, site_rows(body)[:FEET])
    low, high = body.v_template[:, 1].argmin(), body.v_template[:, 1].argmax()
    arrays = {
        "joint_template": body.joint_template,
        "joint_shapedirs": body.joint_shapedirs,
        "feet_mass": pieces.mass,
        "feet_offset": pieces.offset,
        "feet_offset_shapedirs": pieces.offset_dirs,
        "height": body.v_template[high, 1] - body.v_template[low, 1],
        "height_shapedirs": body.shapedirs[high, 1] - body.shapedirs[low, 1],
    }
    save_arrays(path, {name: array.numpy() for name, array in arrays.items()}, {"body_model": body.name})
