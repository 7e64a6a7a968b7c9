"""USD: a UsdSkel skeleton, animation and skinned mesh for every person, the moving camera, the points of the scene.

Metres (`metersPerUnit` 1). A world with known gravity keeps its axes (`upAxis` Z); one without is turned to y up. Time
code = seconds from the first frame x `timeCodesPerSecond`, fractional where frames are not evenly spaced, so every pose
keeps its own time. An absent person is invisible. A camera looks along -z with y up; its principal point is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.convert.axes import OPENCV_FROM_OPENGL, Y_UP_FROM_WORLD, linear_from_srgb, person_colour
from distill.convert.rig import Rig
from distill.convert.source import Source
from distill.convert.tracks import Track
from distill.errors import require
from distill.geometry.conventions import SMPL_JOINTS, SMPL_PARENTS
from distill.geometry.rotations import quat_from_matrix

Array = NDArray[Any]
FILE: Final = "result.usdc"
SENSOR_WIDTH: Final = 36.0
"""Horizontal aperture, tenths of a unit as USD has it; only its ratio to the focal length matters."""
POINT_WIDTH: Final = 0.01
"""Metres at which points are drawn."""


def write_usd(source: Source, folder: Path) -> dict[str, Any]:
    """Write `result.usdc`: what there is of people, camera and scene.

    Raises:
        FootfallError: usd-core is not installed, nothing to write, or the body model's file is missing.
    """
    source.need_anything("usd")
    require("pxr", extra="convert")
    from pxr import Usd, UsdGeom

    path = folder / FILE
    stage = Usd.Stage.CreateNew(str(path))
    keeps_axes = source.world == "z_up_ground"
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if keeps_axes else UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(source.fps)
    stage.SetFramesPerSecond(source.fps)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(float(source.times[-1]) * source.fps)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/footfall").GetPrim())
    stage.SetMetadata("comment", f"footfall; time code 0 is {source.start} s of the video; world {source.world}")
    target_from_world = np.eye(4) if keeps_axes else Y_UP_FROM_WORLD[source.world]
    for number, track in enumerate(source.tracks):
        write_person(stage, source, track, number, target_from_world)
    if source.has_camera:
        write_camera(stage, source, target_from_world)
    if len(source.result.scene_points):
        write_points(stage, source, target_from_world)
    stage.GetRootLayer().Save()
    return {
        "people": len(source.tracks), "camera": source.has_camera, "points": len(source.result.scene_points),
        "time_0_s": source.start, "fps": source.fps,
    }  # fmt: skip


def write_camera(stage: Any, source: Source, target_from_world: Array) -> None:
    """The camera of every frame, those filled in between measured ones too."""
    from pxr import Gf, UsdGeom

    cameras = source.result.cameras
    (width, height), K = cameras.size, cameras.K.astype(float)
    camera = UsdGeom.Camera.Define(stage, "/footfall/camera")
    focal = K[0, 0] * SENSOR_WIDTH / width
    unit = focal / K[1, 1]  # sensor height of a pixel
    camera.CreateFocalLengthAttr(focal)
    camera.CreateHorizontalApertureAttr(SENSOR_WIDTH)
    camera.CreateVerticalApertureAttr(height * unit)
    camera.CreateHorizontalApertureOffsetAttr((width / 2 - K[0, 2]) * SENSOR_WIDTH / width)
    camera.CreateVerticalApertureOffsetAttr((K[1, 2] - height / 2) * unit)
    camera.CreateClippingRangeAttr(Gf.Vec2f(0.01, 1e4))
    target_from_cam = target_from_world @ cameras.world_from_cam @ OPENCV_FROM_OPENGL
    place = camera.AddTranslateOp(precision=UsdGeom.XformOp.PrecisionDouble)
    turn = camera.AddOrientOp(precision=UsdGeom.XformOp.PrecisionDouble)
    for seconds, position, quat in zip(
        source.times, target_from_cam[:, :3, 3], quats_wxyz(target_from_cam[:, :3, :3]), strict=True
    ):
        code = float(seconds) * source.fps
        place.Set(Gf.Vec3d(*position.tolist()), code)
        turn.Set(Gf.Quatd(*quat.tolist()), code)


def write_points(stage: Any, source: Source, target_from_world: Array) -> None:
    """The points of the scene with their colours in linear light."""
    from pxr import UsdGeom, Vt

    points = (source.result.scene_points @ target_from_world[:3, :3].T).astype(np.float32)
    cloud = UsdGeom.Points.Define(stage, "/footfall/scene")
    cloud.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    cloud.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack((points.min(0), points.max(0)))))
    cloud.CreateWidthsAttr(Vt.FloatArray([POINT_WIDTH]))
    cloud.SetWidthsInterpolation(UsdGeom.Tokens.constant)
    colour = cloud.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
    colour.Set(Vt.Vec3fArray.FromNumpy(linear_from_srgb(source.result.scene_rgb)))


def write_person(stage: Any, source: Source, track: Track, number: int, target_from_world: Array) -> None:
    """A SkelRoot with skeleton, animation and mesh; visible while present."""
    from pxr import UsdGeom, UsdSkel, Vt

    rig, path = source.rig(track), f"/footfall/{track.name}"
    root = UsdSkel.Root.Define(stage, path)
    skeleton = UsdSkel.Skeleton.Define(stage, f"{path}/skeleton")
    joints = Vt.TokenArray(joint_paths())
    skeleton.CreateJointsAttr(joints)
    skeleton.CreateBindTransformsAttr(Vt.Matrix4dArray.FromNumpy(translations(rig.joints)))
    skeleton.CreateRestTransformsAttr(Vt.Matrix4dArray.FromNumpy(translations(rig.offsets)))
    animation = UsdSkel.Animation.Define(stage, f"{path}/skeleton/animation")
    animation.CreateJointsAttr(joints)
    UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets([animation.GetPath()])
    _write_mesh(stage, rig, path, number)
    _write_keys(animation, source, track, rig, target_from_world)
    visibility = root.CreateVisibilityAttr()
    for seconds, visible in zip(*track.switches(source.times), strict=True):
        visibility.Set(UsdGeom.Tokens.inherited if visible else UsdGeom.Tokens.invisible, float(seconds) * source.fps)


def _write_mesh(stage: Any, rig: Rig, path: str, number: int) -> None:
    from pxr import Gf, UsdGeom, UsdSkel, Vt

    mesh = UsdGeom.Mesh.Define(stage, f"{path}/mesh")
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(rig.vertices.astype(np.float32)))
    mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(rig.normals.astype(np.float32)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(rig.faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(rig.faces.astype(np.int32).reshape(-1)))
    mesh.CreateExtentAttr(
        Vt.Vec3fArray.FromNumpy(np.stack((rig.vertices.min(0), rig.vertices.max(0))).astype(np.float32))
    )
    mesh.CreateDisplayColorPrimvar(UsdGeom.Tokens.constant).Set([Gf.Vec3f(*person_colour(number))])
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    slots = rig.influences.shape[1]
    binding.CreateJointIndicesPrimvar(False, slots).Set(
        Vt.IntArray.FromNumpy(rig.influences.astype(np.int32).reshape(-1))
    )
    binding.CreateJointWeightsPrimvar(False, slots).Set(
        Vt.FloatArray.FromNumpy(rig.weights.astype(np.float32).reshape(-1))
    )
    binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1.0))
    binding.CreateSkeletonRel().SetTargets([f"{path}/skeleton"])


def _write_keys(animation: Any, source: Source, track: Track, rig: Rig, target_from_world: Array) -> None:
    """One sample of all joints at each time of presence: the pelvis moves, the other joints only turn."""
    from pxr import Vt

    root = target_from_world @ track.world_from_body
    turns = np.concatenate((root[:, None, :3, :3], track.body_rot), axis=1)
    places = np.tile(rig.offsets.astype(np.float32), (len(turns), 1, 1))
    places[:, 0] = root[:, :3, 3]
    quats = np.stack([quats_wxyz(turns[:, joint]) for joint in range(turns.shape[1])], axis=1)
    quats = np.ascontiguousarray(quats[..., [1, 2, 3, 0]], np.float32)  # in memory a quaternion's real part is last
    animation.CreateScalesAttr(Vt.Vec3hArray.FromNumpy(np.ones((turns.shape[1], 3), np.float16)))
    position, rotation = animation.CreateTranslationsAttr(), animation.CreateRotationsAttr()
    for seconds, place, quat in zip(track.times, places, quats, strict=True):
        code = float(seconds) * source.fps
        position.Set(Vt.Vec3fArray.FromNumpy(place), code)
        rotation.Set(Vt.QuatfArray.FromNumpy(quat), code)


def quats_wxyz(rotations: Array) -> Array:
    """[N, 3, 3] -> [N, 4] float64."""
    return quat_from_matrix(torch.from_numpy(np.ascontiguousarray(rotations, np.float64))).numpy()


def joint_paths() -> list[str]:
    """The 24 joints as UsdSkel names them: each below its parent, "pelvis/left_hip/left_knee"."""
    paths: list[str] = []
    for name, parent in zip(SMPL_JOINTS, SMPL_PARENTS, strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    return paths


def translations(places: Array) -> Array:
    """[N, 3] -> [N, 4, 4] as USD has matrices: they act on rows."""
    matrices = np.tile(np.eye(4), (len(places), 1, 1))
    matrices[:, 3, :3] = places
    return matrices
