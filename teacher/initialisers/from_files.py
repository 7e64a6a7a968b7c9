"""Any slot filled from a folder of files made elsewhere: `bodies.use=files:/path/to/results`.

The folder holds, per clip, the stage's own file (`teacher.stagefiles`): `PATH/CLIP_ID/bodies.npz`. This is
how people bring the results of other software; the file is checked against the clip and copied in.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.errors import FootfallError
from distill.files import atomic_path
from distill.geometry.conventions import CONTACT_SITES
from teacher.initialisers.registry import Initialiser, Outcome, Report
from teacher.readers.checks import check_bodies, check_intrinsics, check_poses
from teacher.stagefiles import BodyInit, CameraInit, Contacts, DepthInit, Frames, People
from teacher.workspace import ClipFolder

_FILE_OF: Final[dict[str, tuple[type[Any], tuple[str, ...], str]]] = {
    # slot: (file class, stages it is checked against, an array with the frames as first axis)
    "people": (People, ("frames",), "visible"),
    "cameras": (CameraInit, ("frames",), "world_from_cam"),
    "depth": (DepthInit, ("frames",), "depth"),
    "bodies": (BodyInit, ("frames", "people"), "present"),
    "contacts": (Contacts, ("frames", "people"), "prob"),
}


def files_initialiser(slot: str, root: str) -> Initialiser:
    """An initialiser that takes the slot's file from `root/CLIP_ID/`."""
    kind, needs, first = _FILE_OF[slot]

    def run(clip: ClipFolder, config: Any, report: Report) -> Outcome:
        folder = Path(root) / clip.id
        _check(clip, slot, folder, kind.load(folder), first)
        target = clip.stage_dir(slot)
        names = [kind.file]
        if slot == "people":
            names += [str(p.relative_to(folder)) for p in sorted((folder / "masks").glob("*.png"))]
        for name in names:
            with atomic_path(target / name) as temporary:
                shutil.copyfile(folder / name, temporary)
        return Outcome(summary={"from": str(folder)})

    return Initialiser(
        slot=slot, name=f"files:{root}", needs=needs, licence="as its files", run=run,
        sources=lambda clip: files_fingerprint(Path(root) / clip.id / kind.file),
    )  # fmt: skip


def files_fingerprint(path: Path) -> str:
    """Names, sizes and times of a file, or of all files in a folder; empty if there is nothing."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    seen = [(str(p.relative_to(path.parent)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16] if seen else ""


def _check(clip: ClipFolder, slot: str, folder: Path, loaded: Any, first: str) -> None:
    frames = len(Frames.load(clip.require("frames")).timestamps)
    expected: tuple[int, ...] = (frames,)
    if slot in ("bodies", "contacts"):
        expected = (frames, People.load(clip.require("people")).visible.shape[1])
    shape = getattr(loaded, first).shape
    where = f"{folder}/{type(loaded).file}"
    if shape[: len(expected)] != expected:
        raise FootfallError(
            where, got=f"{first} of shape {shape}", expected=f"first axes {expected} (frames, people of this clip)",
            do="make it from the same frames and tracks",
        )  # fmt: skip
    for name, value in vars(loaded).items():
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            raise FootfallError(where, got=f"{name} is not finite", expected="finite numbers", do="mend the file")
    if slot == "cameras":
        size = Frames.load(clip.require("frames")).size
        check_intrinsics(where, loaded.K, (size[0], size[1]))
        check_poses(where, loaded.world_from_cam)
    if slot == "bodies":
        check_bodies(where, loaded)
    if slot == "contacts" and (shape[2:] != (len(CONTACT_SITES),) or loaded.prob.min() < 0 or loaded.prob.max() > 1):
        raise FootfallError(
            where, got=f"prob of shape {shape} from {loaded.prob.min():.3g} to {loaded.prob.max():.3g}",
            expected=f"probabilities of {len(CONTACT_SITES)} sites", do="write the sites of conventions.CONTACT_SITES",
        )  # fmt: skip
    if slot == "people":
        missing = [k for k in range(frames) if not People.mask_path(folder, k).is_file()]
        if missing:
            raise FootfallError(
                where, got=f"no mask of frame {missing[0]}", expected="masks/%06d.png of every frame",
                do="write the identity maps",
            )  # fmt: skip
