"""Pairs of small frames with exact geometry, straight from the renderer: what a pointmap backbone learns from.

    for pair in frame_pairs(pair_specs(1000, seed=0)):
        points_a = unproject(pixel_grid(...), pair.depth_a, pair.K)     # exact, in camera a
        points_b_in_a = pair.cam_a_from_cam_b applied to the same of b

No video is written, no frame is compressed, and a frame is drawn once for all pairs that it is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from distill.files import save_arrays
from distill.synthetic.axes import Array
from distill.synthetic.clips import make_stage
from distill.synthetic.collections import varied_clip
from distill.synthetic.render import Backend, Picture, open_renderer
from distill.synthetic.spec import ClipSpec
from distill.synthetic.world import SyntheticClip, make_clip

FRAMES_PER_CLIP: Final = 8
"""Frames that are drawn of each clip."""
PAIRS_PER_CLIP: Final = 12
"""Pairs that are made of them."""


class FramePair(NamedTuple):
    """Two frames of one clip."""

    image_a: Array
    """[h, w, 3] uint8."""
    image_b: Array
    """[h, w, 3] uint8."""
    K: Array
    """[3, 3] float32, pixels; centre of the top-left pixel at (0.5, 0.5); of both frames."""
    cam_a_from_cam_b: Array
    """[4, 4] float32, metres. People move between the frames: it holds for the static scene alone."""
    depth_a: Array
    """[h, w] float32, z in metres, people included; 0 on the sky."""
    depth_b: Array
    """[h, w] float32."""
    ids_a: Array
    """[h, w] uint8: 0 background, k+1 person k."""
    ids_b: Array
    """[h, w] uint8."""


def pair_specs(count: int, *, seed: int = 0, size: tuple[int, int] = (160, 96)) -> list[ClipSpec]:
    """Specs of `count` varied clips at a small size (width, height), never of held-out ones."""
    return [
        dataclasses.replace(
            varied_clip(index, seed), id=f"pairs-{seed:03d}-{index:05d}", size=list(size), supersample=1
        )
        for index in range(count)
    ]


def frame_pairs(specs: Iterable[ClipSpec], *, backend: Backend = "auto") -> Iterator[FramePair]:
    """Yield `PAIRS_PER_CLIP` pairs of each clip, at the clip's own size; deterministic.

    The two frames of a pair are any two of `FRAMES_PER_CLIP` drawn frames, in either order.

    Raises:
        FootfallError: packages of the extra [synthetic] are missing, or a spec cannot be filmed.
    """
    for spec in specs:
        clip = make_clip(spec)
        rng = spec.rng("pairs")
        frames = np.sort(rng.choice(spec.frames, min(FRAMES_PER_CLIP, spec.frames), replace=False))
        pictures = _draw(clip, frames, rng, backend)
        for _ in range(PAIRS_PER_CLIP):
            a, b = rng.choice(len(frames), 2, replace=False)
            yield _pair(clip, frames[[a, b]], pictures[a], pictures[b])


def _draw(clip: SyntheticClip, frames: Array, rng: np.random.Generator, backend: Backend) -> list[Picture]:
    spec, cameras = clip.spec, clip.truth.cameras
    renderer = open_renderer(make_stage(clip), cameras.size, supersample=spec.supersample, backend=backend)
    pictures = []
    for frame, people in zip(frames, clip.people_vertices(frames), strict=True):
        picture = renderer.draw(people, cameras.K, cameras.world_from_cam[frame])
        gain = np.exp(spec.exposure * rng.standard_normal(), dtype=np.float32)
        noise = rng.standard_normal(picture.rgb.shape, dtype=np.float32) * (255 * spec.image_noise)
        pictures.append(picture._replace(rgb=np.clip(picture.rgb * gain + noise + 0.5, 0, 255).astype(np.uint8)))
    return pictures


def _pair(clip: SyntheticClip, frames: Array, a: Picture, b: Picture) -> FramePair:
    world_from_a, world_from_b = clip.truth.cameras.world_from_cam[frames]
    return FramePair(
        image_a=a.rgb,
        image_b=b.rgb,
        K=clip.truth.cameras.K.astype(np.float32),
        cam_a_from_cam_b=(np.linalg.inv(world_from_a) @ world_from_b).astype(np.float32),
        depth_a=a.depth,
        depth_b=b.depth,
        ids_a=a.ids,
        ids_b=b.ids,
    )


def write_pairs(
    folder: Path,
    specs: Sequence[ClipSpec],
    *,
    per_file: int = 240,
    backend: Backend = "auto",
    report: Callable[[float, str], None] | None = None,
) -> list[Path]:
    """Write the pairs of all clips as `folder/pairs-%05d.npz`, `per_file` in each.

    Every file holds the fields of `FramePair` with a leading axis; depth as float16 (4 mm at 5 m).

    Returns:
        The files.
    """
    paths: list[Path] = []
    batch: list[FramePair] = []
    total = len(specs) * PAIRS_PER_CLIP
    for done, pair in enumerate(frame_pairs(specs, backend=backend), start=1):
        batch.append(pair)
        if len(batch) == per_file or done == total:
            paths.append(folder / f"pairs-{len(paths):05d}.npz")
            save_arrays(paths[-1], _stack(batch))
            batch = []
            if report is not None:
                report(done / total, paths[-1].name)
    return paths


def _stack(batch: list[FramePair]) -> dict[str, Array]:
    arrays = {name: np.stack([getattr(pair, name) for pair in batch]) for name in FramePair._fields}
    return {name: array.astype(np.float16) if "depth" in name else array for name, array in arrays.items()}
