"""Folders of rendered frames: what image metrics read, and how the Gaussians of a result are drawn into one.

    RENDERS/ID/%06d.png          people and scene; the number is the frame of the clip, from 0
    RENDERS/ID/person/%06d.png   people alone, on white; optional
    RENDERS/ID/renders.json      how the poses of these frames were found; optional

A single clip may lie in RENDERS itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.avatar import Avatar, load_avatar
from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.files import atomic_path, read_json, write_json
from distill.render import Gaussians, render
from distill.render.packed import load_packed
from distill.render.ply import read_gaussians
from distill.results import Result, load_result
from distill.untrusted import open_picture

Array = NDArray[Any]
RENDERS_FORMAT: Final = "footfall-renders/1"
POSES: Final = ("given", "fitted", "not stated")
"""Cameras and bodies of the rendered frames: as they were before these frames were looked at, or fitted to them."""
PERSON: Final = "person"
"""Folder of people alone."""


def write_renders(
    folder: Path, frames: Iterable[tuple[int, Array, Array | None]], *, clip: str, poses: str, made_by: str,
    unseen: list[int] | None = None,
) -> int:  # fmt: skip
    """Write rendered frames; returns how many.

    Args:
        frames: number, [H, W, 3] in 0..1 with people and scene, and people alone on white (or None).
        clip: id of the clip. poses: one of `POSES`. made_by: for the report.
        unseen: frames whose pictures did not shape what was rendered; None if that is not known.
    """
    if poses not in POSES:
        raise ValueError(f"poses {poses!r}: one of {', '.join(POSES)}")
    count = 0
    for number, picture, person in frames:
        _write_png(folder / f"{number:06d}.png", picture)
        if person is not None:
            _write_png(folder / PERSON / f"{number:06d}.png", person)
        count += 1
    about = {"format": RENDERS_FORMAT, "clip": clip, "poses": poses, "made_by": made_by, "unseen": unseen}
    write_json(folder / "renders.json", about)
    return count


def about_renders(folder: Path) -> dict[str, Any]:
    """`clip`, `poses`, `made_by` and `unseen` of a folder; without a `renders.json` nothing is stated.

    Raises:
        FootfallError: it is damaged.
    """
    if not (folder / "renders.json").is_file():
        return {"clip": None, "poses": "not stated", "made_by": "not stated", "unseen": None}
    about = read_json(folder / "renders.json")
    good = isinstance(about, dict) and about.get("format") == RENDERS_FORMAT and about.get("poses") in POSES
    good = good and isinstance(about.get("unseen"), list | None)
    if not good:
        raise FootfallError(
            str(folder / "renders.json"), got="something else", expected=f"{RENDERS_FORMAT} with poses of {POSES}",
            do="write it again, or remove it",
        )  # fmt: skip
    return {
        "clip": about.get("clip"), "poses": about["poses"], "made_by": str(about.get("made_by", "not stated")),
        "unseen": about.get("unseen"),
    }  # fmt: skip


def holds_renders(folder: Path) -> bool:
    """Whether this is the folder of a clip's rendered frames."""
    return (
        folder.is_dir() and not (folder / "meta.json").is_file() and next(folder.glob("[0-9]*.png"), None) is not None
    )


def find_renders(folder: Path, ids: list[str]) -> dict[str, Path]:
    """Clip id -> folder of its rendered frames; empty if there are none.

    Args:
        ids: of the clips; a single clip's id is in its `renders.json`, its folder's name, or the only one there is.
    """
    if holds_renders(folder):
        named = [about_renders(folder)["clip"], folder.resolve().name, *ids[: len(ids) == 1]]
        return {next((str(name) for name in named if name in ids), folder.resolve().name): folder}
    return {path.name: path for path in sorted(folder.glob("*")) if holds_renders(path)}


def read_picture(path: Path) -> Array:
    """[H, W, 3] float64 in 0..1.

    Raises:
        FootfallError: missing or no picture.
    """
    try:
        with open_picture(path) as image:
            return np.asarray(image.convert("RGB"), np.float64) / 255
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise FootfallError(str(path), got=error, expected="a picture", do="render it again") from error


def _write_png(path: Path, picture: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.rint(np.clip(np.asarray(picture, np.float64), 0, 1) * 255).astype(np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        Image.fromarray(pixels).save(stream, "PNG")


# Drawing a result


def has_gaussians(folder: Path) -> bool:
    """Whether a result folder comes with Gaussians, a student's or the teacher's."""
    return (folder / "gaussians.ply").is_file() or _stage_of(folder) is not None


def how_made(folder: Path) -> dict[str, Any]:
    """`poses` and `unseen` (see `write_renders`) of a result with Gaussians.

    A student's Gaussians come from all frames, its cameras and poses from no rendering. The teacher's poses are fitted
    to the pictures where its stage kept them ("refined"); its verdict.json lists the frames that it held out.
    """
    stage = _stage_of(folder)
    if stage is None:
        return {"poses": "given", "unseen": []}
    verdict = read_json(stage / "verdict.json")
    return {"poses": "fitted" if _is_refined(stage) else "given", "unseen": verdict.get("held_out")}


def draw_result(
    folder: Path, size: tuple[int, int], frames: Iterable[int], *, backend: str = "auto"
) -> Iterator[tuple[int, Array, Array | None]]:
    """Draw the Gaussians of a result with its own cameras and poses, on black where nothing is.

    Args:
        folder: a student's result with `gaussians.ply` and `avatars/`, or the teacher's `clips/ID/joint`, whose
            Gaussians lie in `clips/ID/gaussians` (with the refined cameras and poses, if the stage decided for them).
        size: width and height of the pictures; the lens is scaled to it.
        frames: numbers; those that the result does not have are left out.

    Yields:
        What `write_renders` takes.

    Raises:
        FootfallError: no Gaussians, a damaged file, or a body model that needs a file.
    """
    result, scene, avatars = _load(folder)
    bodies = {avatar.body_model: load_body_model(avatar.body_model) for avatar in avatars.values()}
    K = torch.from_numpy(np.asarray(result.cameras.K, np.float32))
    K = torch.diag(torch.tensor([size[0] / result.cameras.size[0], size[1] / result.cameras.size[1], 1.0])) @ K
    for frame in frames:
        if not 0 <= frame < len(result.cameras.timestamps):
            continue
        people = _people(result, avatars, bodies, frame)
        cam_from_world = torch.from_numpy(np.linalg.inv(result.cameras.world_from_cam[frame])).float()[None]
        with torch.no_grad():
            whole = render(
                Gaussians.cat([scene, *people]), cam_from_world, K[None], size, antialiased=True, backend=backend
            )
            alone: Tensor | None = None
            if people:
                white = torch.ones(3)
                alone = render(
                    Gaussians.cat(people), cam_from_world, K[None], size,
                    background=white, antialiased=True, backend=backend,
                ).color[0]  # fmt: skip
        yield frame, whole.color[0].numpy(), None if alone is None else alone.numpy()


def _people(result: Result, avatars: dict[int, Avatar], bodies: dict[str, BodyModel], frame: int) -> list[Gaussians]:
    posed = []
    for row, avatar in avatars.items():
        if result.motion.present[frame, row]:
            body_rot, root = result.motion.body_rot[frame, row], result.world_from_body[frame, row]
            posed.append(
                avatar.posed(
                    bodies[avatar.body_model], torch.from_numpy(body_rot).float(), torch.from_numpy(root).float()
                )
            )
    return posed


def _stage_of(folder: Path) -> Path | None:
    stage = folder.parent / "gaussians"
    return stage if folder.name == "joint" and (stage / "scene.npz").is_file() else None


def _is_refined(stage: Path) -> bool:
    """Whether the teacher's stage prefers its own cameras and poses to the geometric ones."""
    return bool(read_json(stage / "verdict.json").get("decision") == "refined")


def _load(folder: Path) -> tuple[Result, Gaussians, dict[int, Avatar]]:
    """The result, the scene, and avatars by the person's row in the motion."""
    stage = _stage_of(folder)
    if (folder / "gaussians.ply").is_file():
        result = load_result(folder)
        rows = {int(person): row for row, person in enumerate(result.motion.ids)}
        files = {int(path.stem.split("-")[-1]): path for path in sorted((folder / "avatars").glob("person-*.npz"))}
        found = {rows[person]: load_avatar(path)[0] for person, path in files.items() if person in rows}
        return result, read_gaussians(folder / "gaussians.ply"), found
    if stage is None:
        raise FootfallError(
            f"result {folder}", got="no Gaussians with it", expected="gaussians.ply, or the teacher's stage gaussians",
            do="run or label with Gaussians",
        )  # fmt: skip
    result = load_result(stage / "refined" if _is_refined(stage) else folder)
    avatars = {int(path.stem[len("person") :]): load_avatar(path)[0] for path in sorted(stage.glob("person*.npz"))}
    rows_there = {row: avatar for row, avatar in avatars.items() if row < len(result.motion.ids)}
    return result, load_packed(stage / "scene.npz")[0], rows_there
