"""Small samples that agree with themselves, and shards of them, for several test files."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.body import load_body_model
from distill.geometry.cameras import project
from distill.geometry.rotations import matrix_from_rotvec, quat_from_matrix
from distill.geometry.transforms import from_quat_trans, make_transform, to_quat_trans
from distill.shards.schema import FIELDS, SCHEMA_VERSION, Sample, to_members
from distill.shards.writer import write_shards

SIZE = (96, 64)


def make_sample(key: str, *, frames: int = 12, people: int = 2, size: tuple[int, int] = SIZE) -> Sample:
    """A chunk with smooth motion; joints, boxes and roots are those of the free body. The key seeds it."""
    rng = np.random.default_rng(list(key.encode()))
    draw = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    K = torch.tensor([[90.0, 0, size[0] / 2 + 3], [0, 90.0, size[1] / 2 - 2], [0, 0, 1]])
    turn = torch.linspace(0, 1, frames)[:, None]
    camera = make_transform(
        matrix_from_rotvec(0.3 * turn * torch.randn(3, generator=draw)), turn * torch.randn(3, generator=draw)
    )
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    rotation = facing @ matrix_from_rotvec(0.4 * turn[:, None] * torch.randn(people, 3, generator=draw))
    place = torch.tensor([0.0, 0, 5.0]) + 0.5 * torch.randn(people, 3, generator=draw)
    root = make_transform(rotation, place + 0.2 * turn[:, None] * torch.randn(people, 3, generator=draw))
    body_rot = matrix_from_rotvec(0.2 * torch.randn(frames, people, 23, 3, generator=draw))
    betas = torch.randn(people, 10, generator=draw)
    # Stored values are what labels are; joints are made from them.
    root_quat, root_trans = to_quat_trans(root)
    cam_quat, cam_trans = to_quat_trans(camera)
    joints = load_body_model("anny")(
        betas.expand(frames, -1, -1), body_rot, from_quat_trans(root_quat, root_trans)
    ).joints
    pixels = project(joints, K)
    arrays: dict[str, Any] = {
        "timestamps": np.arange(frames) / 25,
        "K": K,
        "world_from_cam_quat": cam_quat,
        "world_from_cam_trans": cam_trans,
        "camera_valid": np.ones(frames),
        "present": np.ones((frames, people)),
        "box_xyxy": torch.cat((pixels.amin(-2) - 2, pixels.amax(-2) + 2), dim=-1),
        "betas": betas,
        "body_quat": quat_from_matrix(body_rot),
        "cam_from_body_quat": root_quat,
        "cam_from_body_trans": root_trans,
        "joints_cam": joints,
        "contact_prob": rng.random((frames, people, 6)),
        "stature": np.full(people, 1.7),
        "frame_weight": np.ones((frames, people)),
        "depth": rng.random((frames, 4, 6)),
    }
    clip = key.rpartition("-")[0]
    coarse = rng.integers(0, 255, (frames, size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
    return Sample(
        key=key,
        meta={
            "schema_version": SCHEMA_VERSION, "clip": clip, "first_frame": int(key.rpartition("-")[2]),
            "size": list(size), "body_model": "anny", "world": "first_camera", "source": "drawn", "licence": "CC0-1.0",
            "source_sha256": hashlib.sha256(clip.encode()).hexdigest(),
            "teacher_commit": "abc", "config_hash": {"joint": "0123"},
            "weights": {"blazepose": {"sha256": "1", "licence": "Apache-2.0"}},
            "quality": {"decision": "accept", "weight": 1.0, "reasons": []}, "source_id": clip,
            "consent": "", "blurred": True,
        },
        arrays={name: np.asarray(arrays[name]).astype(rule.dtype) for name, rule in FIELDS.items()},
        frames=[encode(np.asarray(Image.fromarray(c).resize(size)), "JPEG") for c in coarse],
        masks=[encode(np.full(size[::-1], k % 3, np.uint8), "PNG") for k in range(frames)],
    )  # fmt: skip


def encode(image: Any, kind: str) -> bytes:
    """A picture file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def make_shards(out: Path, *, samples: int = 8, per_shard: int = 2, frames: int = 12) -> list[str]:
    """Shards below `out/shards`; returns the keys. One sample is about 30 kB."""
    made = [make_sample(f"clip{k:02d}-000000", frames=frames) for k in range(samples)]
    size = sum(map(len, to_members(made[0]).values()))
    write_shards(out, made, max_bytes=int(size * (per_shard - 0.5)), provenance={"teacher_commit": "abc"})
    return [sample.key for sample in made]
