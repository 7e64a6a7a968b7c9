"""Our own kinds of files, damaged and hostile: manifests, configs, results, stages, shards, checkpoints, pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill import files
from distill.config import load_config
from distill.errors import FootfallError
from distill.fuser.config import SCALES_FILE, read_scales
from distill.models.shipped import find_shipped
from distill.models.student_files import check_folder
from distill.models.torch_files import read_tensors
from distill.render.packed import load_packed, save_packed
from distill.render.ply import read_gaussians, write_gaussians
from distill.results import load_result, save_result
from distill.shards.reader import ShardReader, find_shards
from distill.video import Decoder
from teacher.execution.tries import read_tries
from teacher.initialisers.student.streaming import StudentPass
from teacher.locks import read_owner
from teacher.manifest import read_inputs
from teacher.optimise.config import OptimiseConfig
from teacher.stagefiles import BodyInit, CameraInit, Contacts, Frames, People, read_image, write_image
from teacher.workspace import ClipFolder
from tests.fuzz_support import CANARY, FUZZ, TOKENS, Case, bounded_memory, fuzz
from tests.readers_support import clip_folder, truth_problem, world
from tests.render_support import crowd
from tests.shard_support import make_shards

MANIFEST = (
    '{"id": "a", "path": "a.mp4", "licence": "CC0-1.0", "fps": 25.0, "people": 2, "start_s": 0.5,'
    ' "intrinsics": {"fx": 500, "fy": 500, "cx": 80, "cy": 60}, "world_from_cam": [[1, 0, 0, 0], [0, 1, 0, 0],'
    ' [0, 0, 1, 0], [0, 0, 0, 1]]}\n{"id": "b", "path": "b.mp4", "source": "https://example.org/b",'
    ' "camera": "static"}\n'
)
TABLE = 'id,path,licence,fps,intrinsics\na,a.mp4,CC0-1.0,25,"{""fx"": 500, ""fy"": 500, ""cx"": 80, ""cy"": 60}"\n'
SETTINGS = "threads: 2\nweights:\n  contact_align: 1.0\ntrack_gaps: [1, 2, 4]\nlevenberg:\n  damping: 1.0e-5\n"


def write_text(text: str, name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        for video in ("a.mp4", "b.mp4"):
            (root / video).write_bytes(b"no video, but a file")
        (root / name).write_text(text)
        return root / name

    return write


def write_result(root: Path) -> Path:
    save_result(root / "r", world().truth)
    return root / "r"


def write_clip(root: Path) -> Path:
    clip = clip_folder(root, truth_problem())
    truth_problem().bodies.save(clip.stage_dir("bodies"))
    return clip.root


def read_stage_files(root: Path) -> None:
    clip = ClipFolder(root)
    for stage, kind in (
        ("frames", Frames), ("people", People), ("cameras", CameraInit), ("bodies", BodyInit), ("contacts", Contacts)
    ):  # fmt: skip
        kind.load(clip.stage_dir(stage))
        clip.record(stage)


def write_pass(root: Path) -> Path:
    truth = world().truth
    frames, people = truth.motion.present.shape
    StudentPass(
        weights={"student:x": {"sha256": "0", "licence": "CC0-1.0"}}, body_model="anny", K=truth.cameras.K,
        K_known=False, world_from_cam=truth.cameras.world_from_cam, camera_sigma=np.ones((frames, 2)),
        static_prob=np.zeros(frames), log_scale_sigma=np.ones(frames), present=truth.motion.present,
        betas=truth.motion.betas, body_rot=truth.motion.body_rot, cam_from_body=truth.motion.cam_from_body,
        depth_sigma=np.ones((frames, people)), contact_prob=truth.motion.contact_prob,
    ).save(root)  # fmt: skip
    return root


def write_shards(root: Path) -> Path:
    make_shards(root, samples=2, per_shard=2, frames=8)
    return root


def read_shards(root: Path) -> None:
    shards = find_shards(str(root))
    for sample in ShardReader(shards.urls, seed=0, rank=0, world=1, shuffle=False):
        assert np.isfinite(sample.arrays["joints_cam"]).all()  # what comes through is whole


def write_student(root: Path) -> Path:
    """Its two files, with the heads' first kilobytes alone: a check of 9 MB a thousand times would be slow."""
    source = find_shipped("tiny")
    torch_file = {"a": torch.zeros(3, 4), "b": torch.ones(5)}
    import safetensors.torch

    safetensors.torch.save_file(torch_file, root / "model.safetensors")
    config = files.read_json(source / "config.json")
    config["weights_sha256"] = files.sha256_of(root / "model.safetensors")
    files.write_json(root / "config.json", config)
    return root


def write_torch(root: Path) -> Path:
    torch.save({"model": {"a": torch.zeros(30, 4)}, "args": {"lr": 1.0}}, root / "m.pth")
    return root / "m.pth"


def write_gaussian_table(root: Path) -> Path:
    write_gaussians(root / "g.ply", crowd(40))
    return root / "g.ply"


def write_packed(root: Path) -> Path:
    save_packed(root / "g.npz", crowd(40))
    return root / "g.npz"


def write_pictures(root: Path) -> Path:
    for k in range(3):
        write_image(root / f"{k}.jpg", np.full((24, 32, 3), 40 * k, np.uint8))
        write_image(root / f"{k}.png", np.full((24, 32), k, np.uint8))
    return root


def read_pictures(root: Path) -> None:
    assert len(list(Decoder(root, fps=None).frames(range(6)))) == 6
    for path in sorted(root.iterdir()):
        read_image(path)


def write_scales(root: Path) -> Path:
    shutil.copy(SCALES_FILE, root / "s.json")
    return root / "s.json"


def write_json(content: Any, name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        files.write_json(root / name, content)
        return root

    return write


def read_settings(path: Path) -> None:
    load_config(OptimiseConfig, path)


def read_one_input(path: Path) -> None:
    read_inputs([path])


CASES = [
    Case(name="manifest-jsonl", write=write_text(MANIFEST, "m.jsonl"), read=read_one_input, codecs=("jsonl",)),
    Case(name="manifest-csv", write=write_text(TABLE, "m.csv"), read=read_one_input),
    Case(name="config", write=write_text(SETTINGS, "c.yaml"), read=read_settings),
    Case(name="result", write=write_result, read=load_result, codecs=("npz", "json")),
    Case(name="stage-files", write=write_clip, read=read_stage_files, codecs=("npz", "json")),
    Case(name="student-pass", write=write_pass, read=StudentPass.load, codecs=("npz",)),
    Case(name="shards", write=write_shards, read=read_shards, codecs=("json",)),
    Case(name="student", write=write_student, read=check_folder, codecs=("json",)),
    Case(name="torch-weights", write=write_torch, read=read_tensors),
    Case(name="gaussians-ply", write=write_gaussian_table, read=read_gaussians),
    Case(name="gaussians-packed", write=write_packed, read=load_packed, codecs=("npz",)),
    Case(name="pictures", write=write_pictures, read=read_pictures),
    Case(name="fuser-scales", write=write_scales, read=read_scales, codecs=("json",)),
    Case(
        name="tries", write=write_json({"verdict": "failed", "lost": []}, "tries.json"), read=read_tries,
        codecs=("json",), refuses=False,
    ),
    Case(
        name="owner", write=write_json({"pid": 1, "host": "h", "since": ""}, "lock.owner.json"), read=read_owner,
        codecs=("json",), refuses=False,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_damaged_file_is_refused_in_one_line(case: Case, tmp_path: Path) -> None:
    fuzz(case, tmp_path)


def test_settings_from_the_command_line() -> None:
    import random

    rng, refused = random.Random(0), 0
    valid = [b"threads=2", b"weights.contact_align=1.0", b"track_gaps=[1,2]", b"solver=adam", b"levenberg.damping=1e-5"]
    for _ in range(FUZZ):
        key, _, value = rng.choice(valid).partition(b"=")
        word = rng.choice((key + b"=" + rng.choice(TOKENS), key[: rng.randrange(9)] + b"=" + value, key + b"." + value))
        try:
            with bounded_memory():
                load_config(OptimiseConfig, None, [word.decode("utf-8", "replace")])
        except FootfallError:
            refused += 1
    assert refused > FUZZ / 3 and not CANARY.exists()
