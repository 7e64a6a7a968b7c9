"""Result files as initialisers: `bodies.use=wham:PATH`, `cameras.use=colmap-model:PATH` and so on.

PATH may hold `{clip_id}` (the clip's name) and `{video}` (the name of its video file without the ending), for
collections. The formats are listed in docs/initialisers.md. Nothing is written unless the whole file is right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError, refuse_damage
from teacher.initialisers.from_files import files_fingerprint
from teacher.initialisers.registry import Initialiser, Outcome, Report
from teacher.readers.attach import make_bodies, match, place
from teacher.readers.bodies_smpl import read_phalp, read_tram, read_wham
from teacher.readers.bodies_smplx import read_gvhmr, read_human3r, read_prompthmr
from teacher.readers.camera_files import (
    read_camera_dict,
    read_droid,
    read_human3r_cameras,
    read_josh_cameras,
    read_poses,
    read_tum,
    read_tum_frames,
)
from teacher.readers.cameras import OutsideCameras, make_cameras
from teacher.readers.clip_frames import ClipFrames, clip_frames
from teacher.readers.colmap_model import read_colmap
from teacher.readers.names import NAMES, SMPL_BODIES
from teacher.readers.outside import OutsideBodies
from teacher.readers.people_sam3d import read_sam3d
from teacher.readers.vertex_contacts import read_deco, read_vertex_labels
from teacher.stagefiles import CameraInit, People, write_image
from teacher.workspace import ClipFolder

BODIES: Final[dict[str, Callable[[Path, tuple[int, int]], OutsideBodies]]] = {
    "wham": read_wham,
    "tram": read_tram,
    "phalp": read_phalp,
    "gvhmr": read_gvhmr,
    "prompthmr": read_prompthmr,
    "human3r": read_human3r,
}
CAMERAS: Final[dict[str, Callable[[Path, ClipFrames], OutsideCameras]]] = {
    "tum": read_tum,
    "tum-frames": read_tum_frames,
    "poses": read_poses,
    "droid": read_droid,
    "tram": read_camera_dict,
    "prompthmr": read_camera_dict,
    "human3r": read_human3r_cameras,
    "josh": read_josh_cameras,
}


def reader_initialiser(slot: str, kind: str, path: str) -> Initialiser:
    """The initialiser that fills a slot from a result file.

    Raises:
        FootfallError: no such format for this slot.
    """
    if kind not in NAMES.get(slot, ()):
        known = sorted(f"{name}:PATH" for name in NAMES.get(slot, ()))
        raise FootfallError(
            f"initialiser {slot}.use", got=repr(f"{kind}:{path}"), expected=f"files:FOLDER or one of {known}",
            do="correct the config; the formats are listed in docs/initialisers.md",
        )  # fmt: skip
    run, needs = {
        "people": (_run_people, ("frames",)),
        "cameras": (_run_cameras, ("frames",)),
        "bodies": (_run_bodies, ("frames", "people", "cameras")),
        "contacts": (_run_contacts, ("frames", "people", "cameras")),
    }[slot]

    def source_of(clip: ClipFolder) -> Path:
        return Path(path.replace("{clip_id}", clip.id).replace("{video}", Path(clip.source.path).stem))

    def run_reader(clip: ClipFolder, config: Any, report: Report) -> Outcome:
        source = source_of(clip)
        if not source.exists():
            raise FootfallError(
                f"clip {clip.id}: {slot}.use={kind}:{path}", got=f"no such file {source}", expected="a result file",
                do="check the path; {clip_id} and {video} in it stand for the clip's and the video's name",
            )  # fmt: skip
        with reading(source, kind):
            outcome = run(clip, kind, source, config)
        outcome.summary["from"] = str(source)
        return outcome

    return Initialiser(
        slot=slot, name=f"{kind}:{path}", needs=needs, licence=f"as the results of {kind}", run=run_reader,
        sources=lambda clip: files_fingerprint(source_of(clip)),
    )  # fmt: skip


def reading(source: Path, kind: str) -> AbstractContextManager[None]:
    """Around all that reads a result file: what is not as that program writes it is an error of one line."""
    return refuse_damage(
        source, expected=f"a file as {kind} writes it", do="write it again with that program, or leave it out"
    )


def _run_bodies(clip: ClipFolder, kind: str, path: Path, config: Any) -> Outcome:
    body = _licensed(config.body_model, SMPL_BODIES[kind], "bodies")
    frames, people = clip_frames(clip), People.load(clip.require("people"))
    cameras = CameraInit.load(clip.require("cameras"))
    outside = BODIES[kind](path, frames.size)
    last = max((int(track.frames.max()) for track in outside.tracks if len(track.frames)), default=-1)
    if frames.total is not None and last >= frames.total:
        raise FootfallError(
            outside.where, got=f"frames up to {last}", expected=f"{frames.total} frames, as the video has",
            do="make it from this video, at its own frame rate",
        )  # fmt: skip
    placed, focal = place(outside, body, frames.numbers, frames.size, cameras.K)
    match(placed, people, outside.where)
    bodies = make_bodies(placed, people, body, focal)
    bodies.save(clip.stage_dir("bodies"))
    return Outcome(
        summary={
            "present_frames": bodies.present.sum(0).tolist(), "focal_px": round(focal, 2),
            "tracks": {piece.name: piece.person for piece in placed},
            "overlap": {piece.name: round(piece.overlap, 3) for piece in placed},
        }
    )  # fmt: skip


def _run_cameras(clip: ClipFolder, kind: str, path: Path, config: Any) -> Outcome:
    frames = clip_frames(clip)
    outside, sparse = read_colmap(path, frames) if kind == "colmap-model" else (CAMERAS[kind](path, frames), None)
    cameras = make_cameras(outside, frames, focal_guess=config.focal_guess, sparse=sparse)
    cameras.save(clip.stage_dir("cameras"))
    focal = "given" if frames.K is not None else "guessed" if outside.K is None else "from the file"
    return Outcome(
        summary={
            "kind": cameras.kind, "metric": cameras.metric, "registered": int(cameras.registered.sum()),
            "focal_px": round(float(cameras.K[0, 0]), 2), "focal": focal, "points": len(cameras.points),
        }
    )  # fmt: skip


def _run_contacts(clip: ClipFolder, kind: str, path: Path, config: Any) -> Outcome:
    body = _licensed(config.body_model, "smpl", "contacts")
    frames, people = clip_frames(clip), People.load(clip.require("people"))
    if kind == "deco":
        contacts = read_deco(path, body, frames, people, CameraInit.load(clip.require("cameras")))
    else:
        contacts = read_vertex_labels(path, body, frames, people)
    contacts.save(clip.stage_dir("contacts"))
    return Outcome(summary={"touching_share": round(float((contacts.prob > 0.5).mean()), 3)})


def _run_people(clip: ClipFolder, kind: str, path: Path, config: Any) -> Outcome:
    frames = clip_frames(clip)
    people, maps = read_sam3d(path, frames, min_frames=config.min_track_frames, max_people=config.max_people)
    folder = clip.stage_dir("people")
    for row, identity_map in enumerate(maps):
        write_image(People.mask_path(folder, row), identity_map)
    people.save(folder)
    return Outcome(summary={"kept": people.visible.shape[1], "visible_frames": people.visible.sum(0).tolist()})


def _licensed(spec: str, model: str, slot: str) -> BodyModel:
    if not spec.startswith(f"{model}:"):
        raise FootfallError(
            f"{slot}.body_model", got=repr(spec), expected=f"{model}:FILE, the model that the results are of",
            do=f"set bodies.body_model and contacts.body_model to {model}:FILE and optimise.body_file to FILE, your "
            "licensed file",
        )  # fmt: skip
    return load_body_model(spec)
