"""Background correspondences: pairs of observations of the same scene point, from the tracks of the cameras stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from teacher.stagefiles import Array, CameraInit


@dataclass(kw_only=True)
class Tracks:
    """M observations with a depth each, and N pairs of them."""

    frame: Tensor
    """[M] long."""
    point: Tensor
    """[M] long: index of the scene point."""
    px: Tensor
    """[M, 2] pixels."""
    depth: Tensor
    """[M] z in the observing camera, in the unit that the solve starts from."""
    a: Tensor
    """[N] long: first observation of each pair."""
    b: Tensor
    """[N] long: second observation."""

    def __len__(self) -> int:
        return len(self.a)

    @property
    def confidence(self) -> Tensor:
        """[N] weight in L_3D: depth errors grow with depth, so points beyond the median count less."""
        depth = torch.maximum(self.depth[self.a], self.depth[self.b])
        return depth.median() / torch.maximum(depth, depth.median()) if len(self) else depth


def make_tracks(
    cameras: CameraInit, *, unit: float, gaps: Sequence[int], max_pairs: int, held_out: float, seed: int
) -> tuple[Tracks, Tracks]:
    """Pair the observations; whole scene points are held out, so that the solve never sees them.

    Args:
        cameras: with observations; only those in registered frames and in front of the camera are used.
        unit: factor on lengths, from the initialiser's unit to that of the solve.
        gaps: frame gaps at which two observations form a pair.
        max_pairs: pairs kept for the solve, and again for the held-out part, drawn evenly.
        held_out: part of the scene points to hold out.
        seed: of the draws.

    Returns:
        The tracks of the solve and those held out.
    """
    rng = np.random.default_rng(seed)
    frame, point = cameras.obs_frame.astype(np.int64), cameras.obs_point.astype(np.int64)
    depth = unit * observed_depth(cameras)
    held = rng.random(len(cameras.points)) < held_out
    usable = (depth > 1e-6) & cameras.registered[frame]
    halves = []
    for chosen in (usable & ~held[point], usable & held[point]):
        pairs = _pairs(frame, point, chosen, gaps)
        if len(pairs) > max_pairs:
            pairs = pairs[np.sort(rng.choice(len(pairs), max_pairs, replace=False))]
        used, index = np.unique(pairs, return_inverse=True)
        index = index.reshape(-1, 2)
        halves.append(
            Tracks(
                frame=torch.from_numpy(frame[used]),
                point=torch.from_numpy(point[used]),
                px=torch.from_numpy(cameras.obs_px[used]).float(),
                depth=torch.from_numpy(depth[used]).float(),
                a=torch.from_numpy(index[:, 0]),
                b=torch.from_numpy(index[:, 1]),
            )
        )
    return halves[0], halves[1]


def observed_depth(cameras: CameraInit) -> Array:
    """[M] z of each observation's scene point in the camera that observed it, in the initialiser's unit."""
    pose = cameras.world_from_cam[cameras.obs_frame]
    offset = cameras.points[cameras.obs_point].astype(np.float64) - pose[:, :3, 3]
    return (offset * pose[:, :3, 2]).sum(-1)


def _pairs(frame: Array, point: Array, chosen: Array, gaps: Sequence[int]) -> Array:
    """[N, 2] observations of one point whose frames lie `gap` apart."""
    ids = np.flatnonzero(chosen)
    stride = int(frame.max(initial=0)) + max(gaps) + 1  # so that no key reaches into the next point's
    key = point[ids] * stride + frame[ids]
    order = np.argsort(key, kind="stable")
    ids, key = ids[order], key[order]
    found = [np.zeros((0, 2), np.int64)]
    for gap in gaps:
        at = np.searchsorted(key, key + gap).clip(max=max(len(key) - 1, 0))
        match = key[at] == key + gap if len(key) else np.zeros(0, bool)
        found.append(np.stack((ids[match], ids[at[match]]), axis=-1))
    return np.concatenate(found)
