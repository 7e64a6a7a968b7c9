"""Bodies moved by motion terms alone: a start that jitters is smoothed before a picture is drawn.

Independent errors of single frames are mostly told from motion by time, not by pixels; and it costs no rendering.
"""

from __future__ import annotations

import math

import torch

from teacher.scene import motion
from teacher.scene.adam import RowAdam
from teacher.scene.config import GaussiansConfig
from teacher.scene.footage import Footage
from teacher.scene.seeds import coloured
from teacher.scene.world import World


def settle(world: World, config: GaussiansConfig) -> None:
    """Minimise smoothness and closeness to the start over the poses and root turns, in place."""
    names = ("pose", "root_rot")
    adam = RowAdam({name: world.unknowns[name] for name in names})
    weights, base = config.weights, world.base
    rows = torch.arange(len(base.times), device=base.times.device)
    world_from_cam = world.world_from_cam().detach()
    for number in range(config.settle_steps):
        body_rot, _ = world.bodies()
        found = motion.smoothness(world, None, world_from_cam, body_rot)
        loss = weights.prior * motion.closeness(world, config.prior)
        if "smooth" in found:
            loss = loss + weights.smooth * found["smooth"]
        loss.backward()  # type: ignore[no-untyped-call]
        factor = 0.5 * (1 + math.cos(math.pi * number / config.settle_steps))
        adam.step({name: factor * getattr(config.rates, name) for name in names}, rows, set())
        for value in world.unknowns.values():
            value.grad = None


@torch.no_grad()
def recolour(world: World, footage: Footage) -> None:
    """Give people the colours that the frames show where their bodies are now."""
    base = world.base
    body_rot, cam_from_body = world.bodies()
    for person, avatar in enumerate(base.avatars):
        pose = body_rot[:, person], cam_from_body[:, person], base.present[:, person]
        found = coloured(avatar, base.body, footage, person, *pose)
        world.unknowns[f"person{person}/colors"].copy_(found.colors)
