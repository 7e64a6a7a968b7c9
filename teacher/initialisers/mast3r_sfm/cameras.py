"""MASt3R-SfM in the cameras slot: keyframes are aligned, every other frame is resected from their points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill.errors import FootfallError
from distill.models.backbones import load_backbone
from teacher.initialisers.background import FrameReader
from teacher.initialisers.camera_sfm import SfmConfig, SparseMap, resect_all, to_init
from teacher.initialisers.mast3r_sfm.alignment import AlignConfig, Aligned, Pair, align
from teacher.initialisers.mast3r_sfm.canonical import Canonical
from teacher.initialisers.mast3r_sfm.config import Mast3rSfmConfig
from teacher.initialisers.mast3r_sfm.network import Decode, Shrink, ask_pairs, decoder_of
from teacher.initialisers.mast3r_sfm.tree import spanning_tree, ward_tree
from teacher.initialisers.registry import Outcome, Report
from teacher.workspace import ClipFolder

Array = NDArray[Any]


def run_mast3r(clip: ClipFolder, config: Mast3rSfmConfig, sfm: SfmConfig, report: Report) -> Outcome:
    """Cameras by a pointmap network.

    Raises:
        FootfallError: no weights, a network without descriptors, or keyframes that share no matches.
    """
    reader = FrameReader(clip)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(config.backbone, config.revision or None, device=device)
    preparation = backbone.preprocessing
    shrink = Shrink(reader.size, preparation.long_side, preparation.multiple)
    keyframes = evenly(len(reader), config)
    report(0.05, f"network on {len(keyframes)} keyframes")
    decode = decoder_of(backbone, [shrink(reader.rgb(k)) for k in keyframes])
    outcome = solve(clip, reader, shrink, keyframes, decode, config, sfm, report)
    made = backbone.provenance
    outcome.weights = {made.id: {"sha256": made.sha256, "licence": made.licence, "revision": made.revision}}
    return outcome


def evenly(frames: int, config: Mast3rSfmConfig) -> list[int]:
    """Keyframes at equal steps, first and last included."""
    count = min(config.max_keyframes, -(-(frames - 1) // config.keyframe_step) + 1)
    return sorted({round(k) for k in np.linspace(0, frames - 1, count)})


def solve(
    clip: ClipFolder, reader: FrameReader, shrink: Shrink, keyframes: list[int], decode: Decode,
    config: Mast3rSfmConfig, sfm: SfmConfig, report: Report,
) -> Outcome:  # fmt: skip
    """Everything after the network is ready; `decode` answers about positions in `keyframes`."""
    people = [torch.from_numpy(shrink(reader.background(k), Image.Resampling.NEAREST) == 0) for k in keyframes]
    count = len(keyframes)
    edges = [(a, b) for a in range(count) for b in range(a + 1, min(a + config.window + 1, count))]
    views, pairs = ask_pairs(decode, people, edges, least_confidence=config.least_confidence)
    matches = _match_counts(count, pairs)
    K_given = reader.frames.K
    if K_given is not None:
        views = [replace(view, focal=K_given[0][0] * shrink.factor) for view in views]
    report(0.5, "alignment")
    patches = np.array([view.anchors.numel() for view in views])
    tree = ward_tree(matches, patches) if config.tree == "ward" else spanning_tree(matches)
    # One lens made the whole clip; its centre is where lenses have it.
    settings = AlignConfig(
        steps=(config.steps[0], config.steps[1]), shared_focal=True, free_focal=K_given is None, free_centre=False,
        least_match=0.0,
    )  # fmt: skip
    solved = align(views, pairs, tree, settings)
    mapped = _to_map(reader, shrink, keyframes, views, pairs, solved.fine, config)
    report(0.7, "resection of the other frames")
    cam_from_world, observations = dict(mapped.cam_from_world), dict(mapped.observations)
    resect_all(reader, mapped, cam_from_world, observations, sfm)
    init = to_init(reader, mapped, cam_from_world, observations, sfm, focal_known=K_given is not None)
    init.save(clip.stage_dir("cameras"))
    return Outcome(
        summary={
            "kind": "sfm", "keyframes": count, "pairs": len(edges), "matches": int(matches.sum() / 2),
            "registered": int(init.registered.sum()), "points": len(init.points),
            "focal_px": round(float(init.K[0, 0]), 2), "focal": "given" if K_given is not None else "found",
            "reprojection_px": round(mapped.error_px, 3), "loss": round(solved.losses[-1], 5),
        }
    )  # fmt: skip


def _match_counts(count: int, pairs: list[Pair]) -> Array:
    """[N, N] matches of each pair.

    Raises:
        FootfallError: the keyframes fall into groups without any match between them.
    """
    matches = np.zeros((count, count))
    for pair in pairs:
        matches[pair.first, pair.second] = len(pair.matches.first)
    groups = connected_components(matches > 0)[0]
    if groups > 1:
        raise FootfallError(
            "cameras by mast3r", got=f"{groups} groups of keyframes without a match between them",
            expected="keyframes that see the same scene", do="lower cameras.mast3r.keyframe_step, or use colmap",
        )  # fmt: skip
    return matches


def _to_map(
    reader: FrameReader, shrink: Shrink, keyframes: list[int], views: list[Canonical], pairs: list[Pair],
    solved: Aligned, config: Mast3rSfmConfig,
) -> SparseMap:  # fmt: skip
    """Matches chained over keyframes to points, in pixels of the clip."""
    image, pixel, world, point = _chains(views, pairs, solved)
    position = np.zeros((point.max() + 1, 3))
    np.add.at(position, point, world)
    position /= np.bincount(point)[:, None]
    K, poses = solved.K.double().numpy(), solved.world_from_cam.double().numpy()
    local = np.einsum("nij,nj->ni", np.linalg.inv(poses)[image], np.c_[position[point], np.ones(len(point))])[:, :3]
    seen = np.einsum("nij,nj->ni", K[image], local)
    error = np.linalg.norm(seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) - pixel, axis=-1)
    good = (local[:, 2] > 0) & (error < config.max_error_px)
    twice = np.bincount(point[good], minlength=len(position)) >= 2  # one view does not hold a point
    good &= twice[point]
    name = np.cumsum(twice) - 1
    full = shrink.to_clip(pixel)
    lens = np.asarray(reader.frames.K) if reader.frames.K is not None else _lens(float(K[0, 0, 0]), shrink)
    observations, rgb = {}, np.zeros((int(twice.sum()), 3), np.uint8)
    for k, frame in enumerate(keyframes):
        mine = good & (image == k)
        observations[frame] = (name[point[mine]], full[mine])
        column, row = full[mine].astype(int).T
        rgb[name[point[mine]]] = reader.rgb(frame)[row, column]
    return SparseMap(
        K=lens, cam_from_world={frame: np.linalg.inv(poses[k]) for k, frame in enumerate(keyframes)},
        points=position[twice], rgb=rgb, observations=observations,
        error_px=float(error[good].mean() / shrink.factor) if good.any() else float("nan"),
    )  # fmt: skip


def _lens(focal: float, shrink: Shrink) -> Array:
    """K in pixels of the clip; the network's centre (W / 2, H / 2) counts pixel centres as whole numbers."""
    centre = shrink.to_clip(np.array([shrink.cropped]) / 2)[0]
    return np.array([[focal / shrink.factor, 0, centre[0]], [0, focal / shrink.factor, centre[1]], [0, 0, 1.0]])


def _chains(views: list[Canonical], pairs: list[Pair], solved: Aligned) -> tuple[Array, Array, Array, Array]:
    """Matched pixels, each once: image [n], pixel [n, 2], world [n, 3], and the point [n] that matches chain it to.

    A chain that comes back to another pixel of the same image is broken there: only its first pixel is kept.
    """
    width = np.array([view.points.shape[1] for view in views])
    begin = np.cumsum([0, *(view.ratio.numel() for view in views)])

    def node(image: int, xy: torch.Tensor) -> Array:
        x, y = xy.numpy().T
        return begin[image] + y * width[image] + x

    place: dict[int, list[Array]] = {k: [] for k in range(len(views))}
    ends: list[tuple[Array, Array]] = []
    for pair in pairs:
        place[pair.first].append(node(pair.first, pair.matches.first))
        ends.append((node(pair.first, pair.matches.first), node(pair.second, pair.matches.second)))
    nodes, first = np.unique(np.concatenate([n for k in place for n in place[k]]), return_index=True)
    world = np.concatenate([solved.points[k].double().numpy() for k in place])[first]
    a, b = (np.searchsorted(nodes, np.concatenate([end[side] for end in ends])) for side in (0, 1))
    point = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(nodes),) * 2), directed=False)[1]
    image = np.searchsorted(begin, nodes, side="right") - 1
    inside = nodes - begin[image]
    pixel = np.stack((inside % width[image], inside // width[image]), -1)
    keep = np.unique(np.stack((point, image)), axis=1, return_index=True)[1]
    return image[keep], pixel[keep], world[keep], point[keep]
