"""Move an avatar by a motion: its own, or that of another person, clip or body model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distill.avatar import Avatar
from distill.body import BodyModel
from distill.errors import FootfallError
from distill.render.gaussians import Gaussians
from distill.results import Result


def animate(avatar: Avatar, body: BodyModel, result: Result, person: int = 0) -> Iterator[tuple[int, Gaussians]]:
    """The avatar in every frame where a person of `result` is present.

    The joints' rotations are taken as they are: the models here share the joints and the T-pose of SMPL. The path is
    scaled to the avatar's size (`fitted_roots`), so that shorter legs make shorter steps instead of sliding ones.

    Args:
        avatar: of any body model.
        body: the avatar's body model.
        result: where the motion comes from, of any body model.
        person: row of `result.motion`.

    Yields:
        Frame number and Gaussians in the world of `result`, metres.

    Raises:
        FootfallError: no such person, or the body model is not the avatar's.
    """
    motion = result.motion
    if not 0 <= person < len(motion.ids):
        raise FootfallError(
            f"person {person} of the motion", got=f"{len(motion.ids)} people", expected="a row that is there",
            do="count people from 0",
        )  # fmt: skip
    with torch.no_grad():
        ratio = float(body.stature(avatar.betas)) / float(motion.stature[person])
    present = np.flatnonzero(motion.present[:, person])
    roots = torch.from_numpy(result.world_from_body[present, person]).to(avatar.offsets)
    roots = fitted_roots(roots, ratio, ground=result.meta["world"] == "z_up_ground")
    rotations = torch.from_numpy(motion.body_rot[present, person]).to(avatar.offsets)
    for frame, body_rot, world_from_body in zip(present, rotations, roots, strict=True):
        yield int(frame), avatar.posed(body, body_rot, world_from_body)


def fitted_roots(world_from_body: Tensor, ratio: float, *, ground: bool) -> Tensor:
    """Roots [T, 4, 4] of a body that is `ratio` times as tall: steps and heights in proportion.

    Args:
        world_from_body: [T, 4, 4] metres, T >= 0.
        ratio: stature of the avatar over that of the person whose motion it is.
        ground: z is up and 0 on the ground, so the path is scaled about the ground below its start;
            without a known ground, about its start.
    """
    if len(world_from_body) == 0:
        return world_from_body
    centre = world_from_body[0, :3, 3].clone()
    if ground:
        centre[2] = 0
    fitted = world_from_body.clone()
    fitted[:, :3, 3] = centre + ratio * (world_from_body[:, :3, 3] - centre)
    return fitted
