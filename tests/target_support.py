"""For the tests of recipes: running one by its path, and joints by SMPL's own chain, from first principles."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.geometry.conventions import SMPL_PARENTS
from tests.readers_support import made_up

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
Array = NDArray[np.float64]


def load_recipe(name: str) -> ModuleType:
    """Recipes are run by path and are no package."""
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", DATASETS / name / f"prepare_{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def chain_joints(betas: Array, pose: Array, transl: Array, *, joints: int = 24) -> Array:
    """Joints [joints, 3] of one pose [joints, 3], axis times angle: the root turns about its rest place, then `transl`.

    The first 22 joints of SMPL and SMPL-X are the same, and so are their parents.
    """
    model = made_up(24)
    rest = (model["J_regressor"] @ (model["v_template"] + model["shapedirs"] @ betas))[:joints]
    turns = Rotation.from_rotvec(pose).as_matrix()
    world, places = [turns[0]], [rest[0] + transl]
    for joint in range(1, joints):
        parent = SMPL_PARENTS[joint]
        world.append(world[parent] @ turns[joint])
        places.append(places[parent] + world[parent] @ (rest[joint] - rest[parent]))
    return np.stack(places)
