"""GLB (glTF 2.0): a skinned, animated mesh for every person, the moving camera, the points of the scene.

glTF's axes: y up, metres, seconds; a camera looks along -z with y up. Everything is turned on the way in, no node
corrects it afterwards. Keys are at the result's own times, however they are spaced. An absent person shrinks to a
point: the scale of the pelvis steps to 0 half-way between two frames, which every reader of glTF animates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.convert.axes import OPENCV_FROM_OPENGL, Y_UP_FROM_WORLD, linear_from_srgb, person_colour
from distill.convert.glb_file import INDICES, VERTICES, Glb
from distill.convert.rig import CHILDREN, Rig
from distill.convert.source import Source
from distill.convert.tracks import Track
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import quat_from_matrix

Array = NDArray[Any]
FILE: Final = "result.glb"
Channel = tuple[int, str, int, Array, str]
"""Node, path, accessor of times, values, interpolation."""


def write_glb(source: Source, folder: Path) -> dict[str, Any]:
    """Write `result.glb`: what there is of people, camera and scene.

    Where there are several people, `glb/person_ID.glb` holds each of them alone, with the same camera and scene, for
    programs that want one actor a file.

    Raises:
        FootfallError: nothing to write, the body model's file is missing, or the file would be too large.
    """
    source.need_anything("glb")
    everybody = list(enumerate(source.tracks))
    _compose(source, everybody).write(folder / FILE)
    if len(everybody) > 1 and source.config.per_person:
        (folder / "glb").mkdir()
        for one in everybody:
            _compose(source, [one]).write(folder / "glb" / f"{one[1].name}.glb")
    return {
        "people": len(source.tracks), "camera": source.has_camera, "points": len(source.result.scene_points),
        "time_0_s": source.start,
    }  # fmt: skip


def _compose(source: Source, people: list[tuple[int, Track]]) -> Glb:
    """A file with some of the people (their numbers choose colours), the camera and the scene."""
    glb = Glb("footfall")
    channels: list[Channel] = []
    for number, track in people:
        channels += _add_person(glb, source, track, number)
    if source.has_camera:
        channels += _add_camera(glb, source)
    if len(source.result.scene_points):
        _add_points(glb, source)
    if channels:
        _add_animation(glb, channels)
    glb.json["scenes"][0]["extras"] = {"world": source.world, "start_s": source.start, "fps": source.own_fps}
    return glb


def _add_person(glb: Glb, source: Source, track: Track, number: int) -> list[Channel]:
    """A group of skeleton and mesh; returns what moves."""
    rig = source.rig(track)
    person = glb.add_root({"name": track.name, "extras": {"present_s": _finite(track.spans, source.times[-1])}})
    joints = [
        glb.add("nodes", {"name": name, "translation": rig.offsets[j].tolist()}) for j, name in enumerate(SMPL_JOINTS)
    ]
    for joint, children in enumerate(CHILDREN):
        if children:
            glb.json["nodes"][joints[joint]]["children"] = [joints[child] for child in children]
    glb.json["nodes"][person]["children"] = [joints[0]]
    # A skinned mesh follows its joints alone: the specification wants it at the root, where no transform misleads.
    mesh = glb.add_root({"name": f"{track.name}_mesh", "mesh": _add_mesh(glb, rig, track.name, number)})
    rest = np.tile(np.eye(4, dtype=np.float32), (len(joints), 1, 1))
    rest[:, :3, 3] = -rig.joints
    skin = {"joints": joints, "skeleton": joints[0], "inverseBindMatrices": glb.accessor(rest), "name": track.name}
    glb.json["nodes"][mesh]["skin"] = glb.add("skins", skin)

    keys = glb.accessor(track.times.astype(np.float32), bounds=True)
    root = Y_UP_FROM_WORLD[source.world] @ track.world_from_body
    moves: list[Channel] = [
        (joints[0], "translation", keys, root[:, :3, 3].astype(np.float32), "LINEAR"),
        (joints[0], "rotation", keys, quat_xyzw(root[:, :3, :3]), "LINEAR"),
    ]
    moves += [
        (joints[joint], "rotation", keys, quat_xyzw(track.body_rot[:, joint - 1]), "LINEAR")
        for joint in range(1, len(joints))
    ]
    when, visible = track.switches(source.times)
    if not visible.all():
        scale = np.repeat(visible.astype(np.float32)[:, None], 3, axis=1)
        moves.append((joints[0], "scale", glb.accessor(when.astype(np.float32), bounds=True), scale, "STEP"))
    return moves


def _add_mesh(glb: Glb, rig: Rig, name: str, number: int) -> int:
    colour = [*person_colour(number), 1.0]
    material = {"name": name, "pbrMetallicRoughness": {"baseColorFactor": colour, "metallicFactor": 0.0}}
    attributes = {
        "POSITION": glb.accessor(rig.vertices.astype(np.float32), target=VERTICES, bounds=True),
        "NORMAL": glb.accessor(rig.normals.astype(np.float32), target=VERTICES),
    }
    for part in range(rig.influences.shape[1] // 4):
        chosen = slice(4 * part, 4 * part + 4)
        joints, weights = rig.influences[:, chosen].astype(np.uint8), rig.weights[:, chosen].astype(np.float32)
        attributes[f"JOINTS_{part}"] = glb.accessor(joints, target=VERTICES)
        attributes[f"WEIGHTS_{part}"] = glb.accessor(weights, target=VERTICES)
    corners = glb.accessor(rig.faces.astype(np.uint32).reshape(-1), target=INDICES)
    primitive = {"attributes": attributes, "indices": corners, "material": glb.add("materials", material)}
    return glb.add("meshes", {"name": name, "primitives": [primitive]})


def _add_camera(glb: Glb, source: Source) -> list[Channel]:
    """The camera of every frame, those filled in between measured ones too; the principal point is in `extras` only."""
    cameras = source.result.cameras
    (width, height), K = cameras.size, cameras.K.astype(float)
    lens = {
        "aspectRatio": float(width * K[1, 1] / (height * K[0, 0])),
        "yfov": float(2 * np.arctan(height / (2 * K[1, 1]))),
        "znear": 0.01,
    }
    extras = {"size": [width, height], "K": K.tolist()}
    camera = glb.add("cameras", {"name": "camera", "type": "perspective", "perspective": lens, "extras": extras})
    y_up_from_cam = Y_UP_FROM_WORLD[source.world] @ cameras.world_from_cam @ OPENCV_FROM_OPENGL
    places, turns = y_up_from_cam[:, :3, 3].astype(np.float32), quat_xyzw(y_up_from_cam[:, :3, :3])
    node = {"name": "camera", "camera": camera, "translation": places[0].tolist(), "rotation": turns[0].tolist()}
    index = glb.add_root(node)
    keys = glb.accessor(source.times.astype(np.float32), bounds=True)
    return [(index, "translation", keys, places, "LINEAR"), (index, "rotation", keys, turns, "LINEAR")]


def _add_points(glb: Glb, source: Source) -> None:
    """Points without lighting; colours as 16-bit linear light, since 8 bits would band the dark ones."""
    points = source.result.scene_points @ Y_UP_FROM_WORLD[source.world][:3, :3].T.astype(np.float32)
    colours = np.full((len(points), 4), 65535, np.uint16)  # four values, so that each begins on a multiple of 4 bytes
    colours[:, :3] = np.rint(linear_from_srgb(source.result.scene_rgb) * 65535)
    material = {
        "name": "scene", "extensions": {"KHR_materials_unlit": {}},
        "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0.0},
    }  # fmt: skip
    glb.json["extensionsUsed"] = ["KHR_materials_unlit"]
    primitive = {
        "mode": 0,
        "material": glb.add("materials", material),
        "attributes": {
            "POSITION": glb.accessor(points.astype(np.float32), target=VERTICES, bounds=True),
            "COLOR_0": glb.accessor(colours, target=VERTICES, normalised=True),
        },
    }
    glb.add_root({"name": "scene", "mesh": glb.add("meshes", {"name": "scene", "primitives": [primitive]})})


def _add_animation(glb: Glb, channels: list[Channel]) -> None:
    """One animation with everything, so that it plays together."""
    animation: dict[str, Any] = {"name": "footfall", "channels": [], "samplers": []}
    for node, path, keys, values, interpolation in channels:
        sampler = {"input": keys, "output": glb.accessor(values), "interpolation": interpolation}
        target = {"node": node, "path": path}
        animation["channels"].append({"sampler": len(animation["samplers"]), "target": target})
        animation["samplers"].append(sampler)
    glb.add("animations", animation)


def quat_xyzw(rotations: Array) -> Array:
    """[N, 3, 3] -> [N, 4] float32, neighbours in time on the same side, so that interpolation takes the short way."""
    quats = quat_from_matrix(torch.from_numpy(np.ascontiguousarray(rotations, np.float64))).numpy()
    flips = (quats[1:] * quats[:-1]).sum(-1) < 0
    sign = np.where(np.concatenate(([0], np.cumsum(flips))) % 2, -1.0, 1.0)
    return (quats * sign[:, None]).astype(np.float32)[:, [1, 2, 3, 0]]


def _finite(spans: list[tuple[float, float]], last: float) -> list[list[float]]:
    """Spans with the clip's last time in place of infinity."""
    return [[begin, min(end, float(last))] for begin, end in spans]
