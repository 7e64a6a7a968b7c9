"""GLB: what a viewer shows is where the body model says it is; the Blender script, where there is a Blender."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from distill.body import BodyModel
from distill.convert import convert
from distill.convert.axes import linear_from_srgb
from distill.geometry.conventions import SMPL_JOINTS
from distill.results import Result
from tests.convert_support import (
    CLOSE,
    EVEN_TIMES,
    FRAMES,
    UNEVEN_TIMES,
    Array,
    body_points,
    make_result,
    write_result,
    y_up,
)

pytest.importorskip("pygltflib")
from tests.gltf_support import Viewer

PYTHON_WITH_BPY = "FOOTFALL_BPY_PYTHON"
"""Names an interpreter that has Blender as a module; it wants another NumPy than ours."""


@pytest.fixture(scope="module", params=["z_up_ground", "first_camera"])
def converted(request: pytest.FixtureRequest, body: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A result and its folder of converted files; the second is uneven in time."""
    times = EVEN_TIMES if request.param == "z_up_ground" else UNEVEN_TIMES
    result = make_result(body, world=request.param, times=times)
    folder = tmp_path_factory.mktemp(request.param)
    convert(write_result(folder / "result", result), ["glb", "blender"], folder / "out")
    return result, folder / "out", Viewer(folder / "out" / "result.glb")


def seconds_of(result: Result, frame: int) -> float:
    return float(result.cameras.timestamps[frame] - result.cameras.timestamps[0])


@pytest.mark.parametrize("frame", [0, 5, FRAMES - 1])
def test_skinned_people_are_where_the_body_model_puts_them(converted: tuple, frame: int) -> None:
    result, _, viewer = converted
    for person, identity in enumerate(result.motion.ids):
        if not result.motion.present[frame, person]:
            continue
        joints, vertices = body_points(result, frame, person, y_up(result))
        seconds = seconds_of(result, frame)
        np.testing.assert_allclose(viewer.joints(f"person_{identity}", seconds), joints, atol=CLOSE)
        np.testing.assert_allclose(viewer.vertices(f"person_{identity}", seconds), vertices, atol=CLOSE)


def test_somebody_is_compared_in_every_parametrisation(converted: tuple) -> None:
    present = converted[0].motion.present
    assert present[[0, 5, FRAMES - 1]].sum(0).tolist() == [3, 2, 1]


def test_absent_people_shrink_to_a_point_from_the_first_frame_without_them(converted: tuple) -> None:
    result, _, viewer = converted
    for person, identity in enumerate(result.motion.ids):
        for frame in range(FRAMES):
            joints = viewer.joints(f"person_{identity}", seconds_of(result, frame))
            seen = np.ptp(joints, axis=0).max() > 0.5
            assert seen == result.motion.present[frame, person]
    assert np.ptp(viewer.vertices("person_4", seconds_of(result, 5)), axis=0).max() < 1e-5


def test_upright_is_y_up(converted: tuple) -> None:
    """A person stands on the ground that gravity found: the head is above the feet along y."""
    _, _, viewer = converted
    joints = viewer.joints("person_1", 0.0)
    rest = viewer.file.skins[0]
    assert joints[15, 1] > joints[[7, 8], 1].max() + 0.5
    assert len(rest.joints) == 24


def test_camera_sees_what_ours_sees(converted: tuple) -> None:
    """A point lands on the same pixel, but for the principal point, for which glTF has no word."""
    result, _, viewer = converted
    cameras, lens = result.cameras, viewer.file.cameras[0]
    for frame in (0, 7, FRAMES - 1):
        scene_from_cam = viewer.globals(seconds_of(result, frame))[viewer.names["camera"]]
        world = (y_up(result) @ cameras.world_from_cam[frame] @ np.array([0.4, -0.3, 3, 1]))[:3]
        point = np.linalg.inv(scene_from_cam) @ [*world, 1]
        np.testing.assert_allclose(point[:3], [0.4, 0.3, -3], atol=CLOSE)
        up = point[1] / -point[2] / np.tan(lens.perspective.yfov / 2)
        right = point[0] / -point[2] / np.tan(lens.perspective.yfov / 2) / lens.perspective.aspectRatio
        np.testing.assert_allclose([right * 320, -up * 180], [500 * 0.4 / 3, 480 * -0.3 / 3], rtol=1e-4)
    assert lens.extras == {"size": [640, 360], "K": cameras.K.tolist()}


def test_points_keep_place_and_colour(converted: tuple) -> None:
    result, _, viewer = converted
    primitive = viewer.file.meshes[viewer.file.nodes[viewer.names["scene"]].mesh].primitives[0]
    places = viewer.array(primitive.attributes.POSITION)
    np.testing.assert_allclose(places, result.scene_points @ y_up(result)[:3, :3].T, atol=CLOSE)
    colours = viewer.array(primitive.attributes.COLOR_0) / 65535
    np.testing.assert_allclose(colours[:, :3], linear_from_srgb(result.scene_rgb), atol=1e-5)
    assert (primitive.mode, colours[0, 3]) == (0, 1)


def test_each_person_has_a_file_with_the_same_camera_and_scene(converted: tuple) -> None:
    result, folder, everybody = converted
    assert {path.name for path in (folder / "glb").iterdir()} == {f"person_{k}.glb" for k in (1, 4, 9)}
    alone = Viewer(folder / "glb" / "person_4.glb")
    assert len(alone.file.skins) == 1
    seconds = seconds_of(result, FRAMES - 1)
    joints, vertices = body_points(result, FRAMES - 1, 1, y_up(result))
    np.testing.assert_allclose(alone.joints("person_4", seconds), joints, atol=CLOSE)
    np.testing.assert_allclose(alone.vertices("person_4", seconds), vertices, atol=CLOSE)
    pairs = [(file.globals(seconds)[file.names["camera"]], file) for file in (alone, everybody)]
    np.testing.assert_array_equal(pairs[0][0], pairs[1][0])
    places = [
        file.array(file.file.meshes[file.file.nodes[file.names["scene"]].mesh].primitives[0].attributes.POSITION)
        for _, file in pairs
    ]
    np.testing.assert_array_equal(*places)


def test_srgb_by_hand() -> None:
    linear = linear_from_srgb(np.array([0, 10, 128, 255], np.uint8))
    np.testing.assert_allclose(linear, [0, 10 / 255 / 12.92, 0.21586, 1], atol=1e-5)


def test_faces_and_weights(converted: tuple, body: BodyModel) -> None:
    _, _, viewer = converted
    assert (viewer.triangles("person_1") == body.faces.numpy()).all()
    attributes = viewer.file.meshes[0].primitives[0].attributes
    weights = np.concatenate((viewer.array(attributes.WEIGHTS_0), viewer.array(attributes.WEIGHTS_1)), axis=1)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert (np.diff(weights, axis=1) <= 0).all()  # the strongest first, for readers of four only
    normals = viewer.array(attributes.NORMAL)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_trimesh_opens_it(converted: tuple) -> None:
    trimesh = pytest.importorskip("trimesh")
    result, folder, _ = converted
    scene = trimesh.load(folder / "result.glb")
    meshes = [mesh for mesh in scene.geometry.values() if isinstance(mesh, trimesh.Trimesh)]
    clouds = [cloud for cloud in scene.geometry.values() if isinstance(cloud, trimesh.PointCloud)]
    assert len(meshes) == 3
    assert all(mesh.is_winding_consistent and mesh.volume > 0.03 for mesh in meshes)  # outside is outside
    assert [len(cloud.vertices) for cloud in clouds] == [len(result.scene_points)]


BLENDER_CHECK = """
import json, runpy, sys, numpy as np
runpy.run_path(sys.argv[1], run_name="__main__")
import bpy
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
scene, out = bpy.context.scene, {}
out["rate"] = scene.render.fps / scene.render.fps_base
out["range"] = [scene.frame_start, scene.frame_end]
out["unit"] = scene.unit_settings.scale_length
for frame in json.loads(sys.argv[2]):
    scene.frame_set(int(frame), subframe=frame % 1)
    graph = bpy.context.evaluated_depsgraph_get()
    people = {}
    for rig in (o for o in scene.objects if o.type == "ARMATURE"):
        posed = rig.evaluated_get(graph)
        people[rig.name] = {b.name: list(posed.matrix_world @ b.head) for b in posed.pose.bones}
    view = world_to_camera_view(scene, scene.camera.evaluated_get(graph), Vector(json.loads(sys.argv[3])))
    out[str(frame)] = {"people": people, "view": list(view)}
shape = scene.objects["scene"].evaluated_get(graph).evaluated_geometry()
out["points"] = len(shape.pointcloud.points)
print("FOUND" + json.dumps(out))
"""


@pytest.mark.slow
def test_blender_shows_the_clip(converted: tuple) -> None:
    """Blender itself runs the script: rate, bones, and the pixel on which a point lands, principal point and all."""
    python = os.environ.get(PYTHON_WITH_BPY, "")
    if not shutil.which(python):
        pytest.skip(f"set {PYTHON_WITH_BPY} to a Python 3.11 of its own with bpy (pip install bpy; it wants numpy<2)")
    blender_axes(converted, python)


def blender_axes(converted: tuple, python: str) -> None:
    import json

    result, folder, _ = converted
    blender_from_world = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ y_up(result)
    point = result.cameras.world_from_cam[3] @ [0.5, 0.2, 4, 1]
    wanted = [seconds_of(result, frame) * rate_of(result) for frame in (3, 5)]
    placed = json.dumps((blender_from_world @ point)[:3].tolist())
    command = [python, "-c", BLENDER_CHECK, str(folder / "blender.py"), json.dumps(wanted), placed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.split("FOUND")[1].splitlines()[0])
    assert found["rate"] == pytest.approx(rate_of(result), rel=1e-5)
    assert found["unit"] == 1
    assert found["points"] == len(result.scene_points)
    for frame, key in zip((3, 5), wanted, strict=True):
        shown: dict[str, Array] = found[str(key)]
        joints, _ = body_points(result, frame, 0, blender_from_world)
        assert len(shown["people"]) == 3
        bones = shown["people"]["person_1"]
        np.testing.assert_allclose([bones[name] for name in SMPL_JOINTS], joints, atol=CLOSE)
        K, cam = result.cameras.K, np.linalg.inv(result.cameras.world_from_cam[frame]) @ point
        pixel = K @ (cam[:3] / cam[2])
        x, y, depth = shown["view"]
        np.testing.assert_allclose([640 * x, 360 * (1 - y)], pixel[:2], atol=0.05)
        assert depth == pytest.approx(cam[2], abs=CLOSE)


def rate_of(result: Result) -> float:
    return float(1 / np.median(np.diff(result.cameras.timestamps)))
