"""Draw bodies, skeletons and labels over frames. PIL and numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from distill.body.model import BodyModel
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS, SMPL_PARENTS
from distill.results import Result

Array = NDArray[Any]

PERSON_COLOURS: Final = (
    (66, 133, 244), (234, 129, 35), (52, 168, 83), (171, 71, 188), (0, 172, 193), (233, 30, 99), (158, 157, 36),
)  # fmt: skip
"""Colour of person k: entry k modulo the length."""

_SITE_JOINT: Final = dict(
    zip(CONTACT_SITES, ("left_ankle", "left_foot", "right_ankle", "right_foot", "left_hand", "right_hand"), strict=True)
)


def colour_of(person: int) -> tuple[int, int, int]:
    """RGB of person `person`."""
    return PERSON_COLOURS[person % len(PERSON_COLOURS)]


def project_to_pixels(points_cam: Array, K: Array) -> Array:
    """[..., 3] metres in the camera -> [..., 2] pixels; NaN behind the camera."""
    depth = np.where(points_cam[..., 2:] > 0.05, points_cam[..., 2:], np.nan)
    return (points_cam[..., :2] / depth) * np.array([K[0, 0], K[1, 1]]) + np.array([K[0, 2], K[1, 2]])


def draw_mesh(image: Image.Image, vertices_cam: Array, faces: Array, K: Array, colour: tuple[int, int, int]) -> None:
    """Shade a mesh onto an image, in place: painter's algorithm, light from the camera.

    Args:
        image: RGB.
        vertices_cam: [V, 3] metres in the camera.
        faces: [F, 3] vertex indices, counter-clockwise seen from outside.
        K: [3, 3] pixels of this image.
        colour: RGB in [0, 255].
    """
    pixels = project_to_pixels(vertices_cam, K)
    corners = vertices_cam[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    centres = corners.mean(1)
    towards = -centres / (np.linalg.norm(centres, axis=-1, keepdims=True) + 1e-12)
    facing = (normals * towards).sum(-1)
    seen = np.flatnonzero((facing > 0) & np.isfinite(pixels[faces]).all((1, 2)))
    seen = seen[np.argsort(-centres[seen, 2])]
    draw = ImageDraw.Draw(image)
    shade = (0.35 + 0.65 * facing)[:, None] * np.array(colour)
    for face in seen:
        red, green, blue = shade[face].astype(int)
        draw.polygon([tuple(p) for p in pixels[faces[face]]], fill=(int(red), int(green), int(blue)))


def draw_skeleton(
    image: Image.Image, joints_cam: Array, K: Array, colour: tuple[int, int, int], width: int = 2
) -> None:
    """Bones between the 24 joints [24, 3] (metres in the camera), in place."""
    pixels = project_to_pixels(joints_cam, K)
    draw = ImageDraw.Draw(image)
    for joint, parent in enumerate(SMPL_PARENTS):
        if parent >= 0 and np.isfinite(pixels[[joint, parent]]).all():
            draw.line([tuple(pixels[parent]), tuple(pixels[joint])], fill=colour, width=width)


def draw_contacts(image: Image.Image, joints_cam: Array, contact_prob: Array, K: Array) -> None:
    """A red dot at every contact site whose probability [6] is over one half, in place."""
    pixels = project_to_pixels(joints_cam, K)
    draw = ImageDraw.Draw(image)
    for site, probability in zip(CONTACT_SITES, contact_prob, strict=True):
        x, y = pixels[SMPL_JOINTS.index(_SITE_JOINT[site])]
        if probability > 0.5 and np.isfinite(x + y):
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(220, 30, 30), outline=(255, 255, 255))


def overlay(
    frame: Array, result: Result, index: int, body: BodyModel | None, *, opacity: float = 0.6, label: str = ""
) -> Image.Image:
    """One frame with every present person drawn on it.

    Args:
        frame: [H, W, 3] uint8, of any size with the aspect ratio of `result.cameras.size`.
        result: whose frame `index` this is.
        body: draws meshes with it; None draws skeletons only.
        opacity: of the meshes.
        label: text in the upper left corner.
    """
    base = Image.fromarray(frame)
    scale = base.width / result.cameras.size[0]
    K = result.cameras.K * np.array([[scale], [scale], [1.0]])
    motion = result.motion
    people = [k for k in range(len(motion.ids)) if motion.present[index, k]]
    if body is not None:
        painted = base.copy()
        for k in sorted(people, key=lambda person: -motion.cam_from_body[index, person, 2, 3]):
            draw_mesh(painted, body_vertices(body, result, index, k), body.faces.numpy(), K, colour_of(k))
        base = Image.blend(base, painted, opacity)
    for k in people:
        if body is None:
            draw_skeleton(base, motion.joints_cam[index, k], K, colour_of(k))
        draw_contacts(base, motion.joints_cam[index, k], motion.contact_prob[index, k], K)
    if label:
        draw = ImageDraw.Draw(base)
        draw.rectangle([0, 0, 8 + 6 * len(label), 16], fill=(0, 0, 0))
        draw.text((4, 2), label, fill=(255, 255, 255))
    return base


def body_vertices(body: BodyModel, result: Result, index: int, person: int) -> Array:
    """[V, 3] all vertices of a person at a frame, metres in the camera."""
    motion = result.motion
    with torch.no_grad():
        points = body(
            torch.from_numpy(motion.betas[person]).float(),
            torch.from_numpy(motion.body_rot[index, person]).float(),
            torch.from_numpy(motion.cam_from_body[index, person]).float(),
            vertex_ids=body.all_vertices,
        )
    return points.vertices.numpy()


def sheet(images: Sequence[Image.Image], columns: int = 3, gap: int = 4) -> Image.Image:
    """Images of equal size in a grid."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (255, 255, 255))
    for k, image in enumerate(images):
        canvas.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return canvas
