"""Writes synthetic clips to disk: video, truth, depth, masks, keypoints.

folder/
    video.mp4        H.264, frame k at k / fps seconds
    spec.yaml        the `ClipSpec`
    depth.npz        depth [T, h, w] float16, metres, of the static scene; 0 on people and sky
    masks/%06d.png   identity maps: 0 background, k+1 person k
    keypoints.npz    keypoints_px [T, P, 23, 2], keypoints_cam [T, P, 23, 3] metres, visible [T, P, 23],
                     box_xyxy [T, P, 4] pixels around the visible part (zero if there is none)
    truth/           the exact `Result`, with points of the scene; its meta.json is written last
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill.config import save_config
from distill.errors import FootfallError, require
from distill.files import atomic_path, read_json, save_arrays, write_text
from distill.results import save_result
from distill.synthetic.axes import Array, smooth_noise
from distill.synthetic.clothes import dress
from distill.synthetic.render import Backend, Picture, Stage, open_renderer
from distill.synthetic.spec import ClipSpec
from distill.synthetic.textures import VARIANTS
from distill.synthetic.world import SyntheticClip, fingerprint, free_body, make_clip

LICENCE = "CC0-1.0"
"""Of what is drawn here: the body's data is CC0, everything else is made by this program."""
POINT_VIEWS = 12
"""Frames from which points of the scene are taken."""
POINTS = 6000
"""Points of the scene in a written truth."""
Report = Callable[[float, str], None]
"""Called with the fraction done in [0, 1] and a short text."""


def make_stage(clip: SyntheticClip) -> Stage:
    """What a renderer needs of a clip, apart from where people are."""
    body, spec = free_body(), clip.spec
    colours = [dress(body, betas, spec.rng(f"clothes{k}")) for k, betas in enumerate(clip.truth.motion.betas)]
    return Stage(
        scene=clip.scene,
        faces=body.faces.numpy(),
        colours=np.stack(colours),
        variant=int(spec.rng("textures").integers(VARIANTS)),
    )


def render_clip(clip: SyntheticClip, *, backend: Backend = "auto") -> Iterator[Picture]:
    """Draw all frames of a clip, with its noise and changes of exposure."""
    spec, cameras = clip.spec, clip.truth.cameras
    renderer = open_renderer(make_stage(clip), cameras.size, supersample=spec.supersample, backend=backend)
    rng = spec.rng("image")
    gain = np.exp(spec.exposure * smooth_noise(rng, spec.times, period=1.5, channels=1)[:, 0])
    for frame, people in enumerate(clip.people_vertices()):
        picture = renderer.draw(people, cameras.K, cameras.world_from_cam[frame])
        noise = rng.standard_normal(picture.rgb.shape, dtype=np.float32) * (255 * spec.image_noise)
        exposed = picture.rgb * np.float32(gain[frame]) + noise
        yield picture._replace(rgb=np.clip(exposed + 0.5, 0, 255).astype(np.uint8))


def write_clip(
    folder: Path, spec: ClipSpec, *, backend: Backend = "auto", report: Report | None = None
) -> SyntheticClip:
    """Make a clip and write it into `folder` (see the module's docstring).

    Raises:
        FootfallError: packages of the extra [synthetic] are missing, or the spec cannot be filmed.
    """
    clip = make_clip(spec)
    (folder / "truth" / "meta.json").unlink(missing_ok=True)  # a broken-off clip must not look complete
    shutil.rmtree(folder / "masks", ignore_errors=True)
    (folder / "masks").mkdir(parents=True)
    save_config(folder / "spec.yaml", spec)
    collected = _Collected(clip)
    with atomic_path(folder / "video.mp4") as path:
        video = _open_video(path, spec)
        for frame, picture in enumerate(render_clip(clip, backend=backend)):
            video.send(np.ascontiguousarray(picture.rgb))
            Image.fromarray(picture.ids).save(folder / "masks" / f"{frame:06d}.png")
            collected.add(frame, picture)
            if report is not None:
                report((frame + 1) / spec.frames, spec.id)
        video.close()
    save_arrays(folder / "depth.npz", {"depth": collected.depth})
    save_arrays(folder / "keypoints.npz", collected.keypoints())
    clip.truth.scene_points, clip.truth.scene_rgb = collected.points()
    save_result(folder / "truth", clip.truth)
    return clip


class _Collected:
    """What is gathered while frames are drawn."""

    def __init__(self, clip: SyntheticClip) -> None:
        spec = clip.spec
        self._clip = clip
        self._rng = spec.rng("scene points")
        self._views = set(np.linspace(0, spec.frames - 1, POINT_VIEWS).astype(int).tolist())
        self._points: list[Array] = []
        self._rgb: list[Array] = []
        self._cam = clip.keypoints_cam()
        projected = self._cam @ clip.truth.cameras.K.T
        self._px = projected[..., :2] / projected[..., 2:]
        self._visible = np.zeros(self._px.shape[:-1], bool)
        self._box = np.zeros((spec.frames, spec.people, 4), np.float32)
        self.depth = np.zeros((spec.frames, spec.height, spec.width), np.float16)

    def add(self, frame: int, picture: Picture) -> None:
        """Take in one drawn frame."""
        self.depth[frame] = np.where(picture.ids == 0, picture.depth, 0)
        height, width = picture.ids.shape
        column, row = np.floor(self._px[frame]).astype(int).transpose(2, 0, 1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        owner = picture.ids[row.clip(0, height - 1), column.clip(0, width - 1)]
        person = np.arange(1, len(owner) + 1)[:, None]
        # A keypoint counts as seen where its person is what the pixel shows: hidden by itself still counts.
        self._visible[frame] = inside & (owner == person)
        for k in range(len(owner)):
            rows, columns = np.nonzero(picture.ids == k + 1)
            if len(rows):
                self._box[frame, k] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if frame in self._views:
            self._take_points(frame, picture)

    def _take_points(self, frame: int, picture: Picture) -> None:
        rows, columns = np.nonzero((picture.ids == 0) & (picture.depth > 0))
        chosen = self._rng.choice(len(rows), min(POINTS // len(self._views), len(rows)), replace=False)
        rows, columns = rows[chosen], columns[chosen]
        pixels = np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows))), axis=-1)
        cameras = self._clip.truth.cameras
        local = pixels @ np.linalg.inv(cameras.K).T * picture.depth[rows, columns, None]
        world_from_cam = cameras.world_from_cam[frame]
        self._points.append(local @ world_from_cam[:3, :3].T + world_from_cam[:3, 3])
        self._rgb.append(picture.rgb[rows, columns])

    def points(self) -> tuple[Array, Array]:
        """Points of the scene [N, 3] and their colours."""
        return np.concatenate(self._points).astype(np.float32), np.concatenate(self._rgb)

    def keypoints(self) -> dict[str, Array]:
        """Arrays of keypoints.npz."""
        return {
            "keypoints_px": self._px.astype(np.float32),
            "keypoints_cam": self._cam.astype(np.float32),
            "visible": self._visible,
            "box_xyxy": self._box,
        }


def _open_video(path: Path, spec: ClipSpec) -> Any:
    """A generator that takes frames by `send`; started."""
    ffmpeg = require("imageio_ffmpeg", extra="synthetic")
    video = ffmpeg.write_frames(
        str(path), tuple(spec.size), fps=spec.fps, codec="libx264", quality=None, macro_block_size=2,
        output_params=["-crf", str(spec.crf), "-preset", "veryfast", "-g", "30", "-fps_mode", "passthrough"],
        ffmpeg_log_level="error",
    )  # fmt: skip
    video.send(None)
    return video


def is_complete(folder: Path, spec: ClipSpec) -> bool:
    """Whether `folder` holds this very clip, written to its end."""
    try:
        return read_json(folder / "truth" / "meta.json").get("made_from") == fingerprint(spec)
    except FootfallError:
        return False


def write_collection(
    folder: Path, specs: Sequence[ClipSpec], *, backend: Backend = "auto", report: Report | None = None
) -> Path:
    """Write clips to `folder/ID/` and list them in `folder/manifest.jsonl`, for `footfall label`.

    Clips that are complete already are left as they are, so a stopped run goes on where it was.

    Returns:
        The manifest's path.

    Raises:
        FootfallError: as `write_clip`; or two specs share an id.
    """
    ids = [spec.id for spec in specs]
    if len(set(ids)) < len(ids):
        raise FootfallError("collection", got=f"ids {ids}", expected="unique ids", do="rename one of the clips")
    frames, done = sum(spec.frames for spec in specs), 0
    begun = time.monotonic()
    for spec in specs:
        if not is_complete(folder / spec.id, spec):
            tell = _part_of(report, done / frames, spec.frames / frames)
            write_clip(folder / spec.id, spec, backend=backend, report=tell)
        done += spec.frames
        if report is not None:
            report(done / frames, f"{spec.id} written after {time.monotonic() - begun:.0f} s")
    manifest = folder / "manifest.jsonl"
    write_text(manifest, "".join(json.dumps(_manifest_row(spec)) + "\n" for spec in specs))
    return manifest


def _part_of(report: Report | None, begin: float, part: float) -> Report | None:
    """A report about a part of the work, as one about all of it."""
    return None if report is None else lambda fraction, text: report(begin + part * fraction, text)


def _manifest_row(spec: ClipSpec) -> dict[str, str]:
    captured = spec.motion == "bvh"
    return {
        "id": spec.id,
        "path": f"{spec.id}/video.mp4",
        "licence": f"{LICENCE}; motion capture under its own terms" if captured else LICENCE,
        "source": f"footfall synthetic, motion {Path(spec.bvh).name}" if captured else "footfall synthetic",
    }
