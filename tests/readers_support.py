"""Result files of other systems, written from first principles for a synthetic clip, and licensed files made up."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from distill.body import load_body_model
from distill.geometry.conventions import SMPL_PARENTS
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.problem import Problem
from teacher.stagefiles import Frames
from teacher.workspace import ClipFolder, ClipSource, StageRecord

Array = NDArray[Any]
FRAMES = 24
PELVIS_IN_FILE = np.array([0.012, -0.231, 0.034])
"""Where the made-up file's rest pose has its pelvis, metres: SMPL's is not at the origin either."""


@functools.cache
def world() -> SyntheticClip:
    """Two people and a walking camera; 480 x 270."""
    return make_clip(ClipSpec(frames=FRAMES, people=2, seed=4, camera="walk", objects=4))


@functools.cache
def made_up(joints: int) -> dict[str, Any]:
    """The free body in SMPL's (24 joints, 6890 vertices) or SMPL-X's (55 joints) format; so a clip's truth fits it."""
    body = load_body_model("anny")
    sites = np.concatenate([ids.numpy() for ids in body.site_vertices.values()])
    rng = np.random.default_rng(0)
    others = rng.permutation(np.setdiff1d(np.arange(body.num_vertices), sites))[: 6890 - len(np.unique(sites))]
    chosen = np.sort(np.concatenate((np.unique(sites), others)))
    vertices = body.v_template.numpy()[chosen].astype(np.float64)
    dirs = body.shapedirs.numpy()[chosen].astype(np.float64)
    # Joints as linear functions of vertices: the shortest weights that give every joint in every shape.
    known = np.concatenate((vertices, np.ones((len(chosen), 1)), dirs.reshape(len(chosen), -1)), axis=1)
    joint_dirs = body.joint_shapedirs.numpy().astype(np.float64).reshape(24, -1)
    wanted = np.concatenate((body.joint_template.numpy(), np.ones((24, 1)), joint_dirs), axis=1)
    regressor = np.linalg.lstsq(known.T, wanted.T, rcond=None)[0].T
    weights = body.weights.numpy()[chosen].astype(np.float64)
    model: dict[str, Any] = {
        "v_template": vertices + PELVIS_IN_FILE, "shapedirs": dirs, "weights": weights, "J_regressor": regressor,
        "posedirs": np.zeros((len(chosen), 3, 207), np.float32), "f": np.arange(6888).reshape(-1, 3),
        "kintree_table": np.stack((np.array(SMPL_PARENTS) % 2**32, np.arange(24))),
    }  # fmt: skip
    if joints == 24:
        return model
    places = [*range(22), 15, 15, 15, *[22] * 15, *[23] * 15]  # jaw and eyes at the head, fingers at the hands
    wide = np.zeros((len(chosen), 55))
    wide[:, :22], wide[:, 28], wide[:, 43] = weights[:, :22], weights[:, 22], weights[:, 23]
    return model | {
        "J_regressor": regressor[places], "weights": wide, "posedirs": np.zeros((len(chosen), 3, 486), np.float32),
        "shapedirs": np.concatenate((dirs, np.zeros_like(dirs)), axis=-1),
    }  # fmt: skip


def write_model(path: Path, joints: int = 24) -> Path:
    """A made-up licensed file."""
    np.savez(path, **made_up(joints))
    return path


@dataclass(kw_only=True)
class Person:
    """One person's truth in the terms of SMPL, under another focal length. N frames."""

    frames: Array
    rotations: Array
    """[N, 24, 3, 3], the root's in the camera."""
    betas: Array
    """[N, 10]."""
    pelvis: Array
    """[N, 3] in the camera, at the depth that belongs to that focal length."""
    rest: Array
    """[24, 3] rest joints in the file's own frame."""

    @property
    def transl(self) -> Array:
        """What SMPL adds to its mesh: the pelvis stands at J0(beta) + transl."""
        return self.pelvis - self.rest[0]

    def joints(self) -> Array:
        """[N, 24, 3] in the camera, by the chain of the kinematic tree."""
        rotations, places = [self.rotations[:, 0]], [self.rest[0] + self.transl]
        for j in range(1, 24):
            parent = SMPL_PARENTS[j]
            bone = self.rest[j] - self.rest[parent]
            places.append(places[parent] + rotations[parent] @ bone)
            rotations.append(rotations[parent] @ self.rotations[:, j])
        return np.stack(places, axis=1)


def person(k: int, focal: float | Array, frames: Array | None = None) -> Person:
    """Person k of the clip as a system with that focal length (in pixels of our images) sees it."""
    truth, model = world().truth, made_up(24)
    frames = np.arange(FRAMES) if frames is None else frames
    pose = truth.motion.cam_from_body[frames, k].astype(np.float64)
    betas = np.tile(truth.motion.betas[k].astype(np.float64), (len(frames), 1))
    shaped = model["v_template"] + model["shapedirs"] @ betas[0]
    pelvis = pose[:, :3, 3].copy()
    pelvis[:, 2] *= np.asarray(focal) / truth.cameras.K[0, 0]
    rotations = np.concatenate((pose[:, None, :3, :3], truth.motion.body_rot[frames, k].astype(np.float64)), axis=1)
    return Person(frames=frames, rotations=rotations, betas=betas, pelvis=pelvis, rest=model["J_regressor"] @ shaped)


def vectors(matrices: Array) -> Array:
    """Axis times angle [..., 3]."""
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(*matrices.shape[:-2], 3)


def write_wham(path: Path, *, people: int = 2) -> Path:
    """`wham_output.pkl`; the second person from frame 5 on."""
    out = {}
    for k in range(people):
        p = person(k, np.hypot(480, 270), np.arange(5 * k, FRAMES))
        out[k + 3] = {
            "pose": vectors(p.rotations).reshape(-1, 72).astype(np.float32), "trans": p.transl.astype(np.float32),
            "betas": p.betas.astype(np.float32), "frame_ids": p.frames, "pose_world": np.zeros((len(p.frames), 72)),
        }  # fmt: skip
    path.write_bytes(pickle.dumps(out, protocol=4))
    return path


def write_tram(folder: Path, *, camera: bool = True, layout: str = "hps") -> Path:
    """`hps/hps_track_*.npy` and `camera.npy` of images twice as large; the first person in two pieces."""
    focal = 700.0 if camera else float(np.hypot(480, 270))
    (folder / layout).mkdir(parents=True, exist_ok=True)
    pieces = [(0, np.arange(0, 9)), (1, np.arange(FRAMES)), (0, np.arange(12, FRAMES))]
    for k, (who, frames) in enumerate(pieces):
        p = person(who, focal, frames)
        track = {
            "pred_rotmat": p.rotations, "pred_trans": p.transl[:, None], "pred_shape": p.betas, "frame": p.frames,
            "pred_cam": np.zeros((len(frames), 3)), "pred_pose": np.zeros((len(frames), 144)),
        }  # fmt: skip
        tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in track.items()}
        np.save(folder / layout / f"hps_track_{k}.npy", tensors, allow_pickle=True)  # type: ignore[arg-type]
    if camera:
        poses = world().truth.cameras.world_from_cam
        content = {
            "pred_cam_R": poses[:, :3, :3].astype(np.float32), "pred_cam_T": poses[:, :3, 3].astype(np.float32),
            "img_focal": np.float32(2 * focal), "img_center": np.array([480.0, 270.0]),
        }  # fmt: skip
        np.save(folder / "camera.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    return folder


def write_phalp(path: Path) -> Path:
    """`results/*.pkl`: a square picture of 256 pixels, focal length 5000; a ghost in every frame."""
    people = [person(k, 5000 / 256 * 480) for k in range(2)]
    out: dict[str, Any] = {}
    for t in range(FRAMES):
        smpl = [
            {"global_orient": p.rotations[t, :1], "body_pose": p.rotations[t, 1:], "betas": p.betas[t]} for p in people
        ]
        out[f"img/{t + 1:06d}.jpg"] = {
            "time": t, "tid": [1, 2, 7], "smpl": [*smpl, smpl[0]],
            "camera": [p.transl[t] for p in (*people, people[0])],
            "tracked_time": [0, 0, 3], "conf": [np.float32(0.9), np.float32(0.8), np.float32(0.1)],
            "size": [[540, 960]] * 3, "embedding": [torch.zeros(4)],
        }  # fmt: skip
    path.write_bytes(pickle.dumps(out))
    return path


def write_gvhmr(path: Path) -> Path:
    """`hmr4d_results.pt`: the first person in all frames, images twice as large."""
    focal = 500.0
    p = person(0, focal)
    K = torch.tensor([[2 * focal, 0, 480], [0, 2 * focal, 270], [0, 0, 1]]).expand(FRAMES, 3, 3)
    params = {
        "global_orient": vectors(p.rotations[:, 0]), "body_pose": vectors(p.rotations[:, 1:22]).reshape(-1, 63),
        "betas": p.betas, "transl": p.transl,
    }  # fmt: skip
    tensors = {key: torch.from_numpy(value).float() for key, value in params.items()}
    torch.save({"smpl_params_incam": tensors, "smpl_params_global": tensors, "K_fullimg": K}, path)
    return path


def write_prompthmr(path: Path) -> Path:
    """`results.pkl` with empty matrices of the hands, as that program leaves them."""
    focal, out = 610.0, {}
    for k in range(2):
        p = person(k, focal)
        rotmat = np.zeros((FRAMES, 55, 3, 3), np.float32)
        rotmat[:, :22], rotmat[:, 22:25] = p.rotations[:, :22], np.eye(3)
        smplx = {"rotmat": rotmat, "shape": p.betas, "trans": p.transl, "pose": np.zeros((FRAMES, 75))}
        out[k + 1] = {"frames": p.frames, "smplx_cam": smplx, "bboxes": np.zeros((FRAMES, 4))}
    poses = world().truth.cameras.world_from_cam
    camera = {
        "pred_cam_R": poses[:, :3, :3], "pred_cam_T": poses[:, :3, 3], "img_focal": 1.5 * focal,
        "img_center": np.array([360.0, 202.5]),
    }  # fmt: skip
    path.write_bytes(pickle.dumps({"people": out, "camera": camera, "has_slam": True}))
    return path


def write_human3r(folder: Path) -> Path:
    """`smpl/%06d.npz` with another focal length in every frame, and the head's place as translation."""
    focal = 400.0 + 3 * np.arange(FRAMES)
    people = [person(k, focal) for k in range(2)]
    heads = [p.joints()[:, 15] for p in people]
    (folder / "smpl").mkdir(parents=True)
    for t in range(FRAMES):
        K = np.diag([focal[t] * 512 / 480, focal[t] * 512 / 480, 1.0])
        K[:2, 2] = 256, 144
        rotvec = np.zeros((2, 53, 3))
        rotvec[:, :22] = [vectors(p.rotations[t, :22]) for p in people]
        np.savez(
            folder / "smpl" / f"{t:06d}.npz", rotvec=rotvec, shape=np.stack([p.betas[t] for p in people]),
            transl=np.stack([head[t] for head in heads]), smpl_id=np.array([5, 9]), intrinsics=K,
            expression=np.array(None, dtype=object), mask=np.array(None, dtype=object),
            cam2world=world().truth.cameras.world_from_cam[t],
        )  # fmt: skip
    return folder


def truth_problem(degradation: Degradation | None = None) -> Problem:
    """The clip's truth as the earlier stages would give it; a copy that a test may change."""
    return problem_from_truth(world(), degradation) if degradation else copy.deepcopy(_truth_problem())


@functools.cache
def _truth_problem() -> Problem:
    return problem_from_truth(world(), Degradation())


def clip_folder(root: Path, problem: Problem, *, K: Array | None = None, frames: int | None = None) -> ClipFolder:
    """Frames (without pictures; all, or that many), people, cameras and contacts of a clip, recorded as done."""
    clip = ClipFolder(root / "street")
    clip.write_source(ClipSource(id="street", path="/videos/street.mp4", sha256=""))
    width, height = problem.size
    frame_file = Frames(
        timestamps=problem.timestamps[:frames], size=[width, height], source_size=[2 * width, 2 * height], unreadable=0,
        K=None if K is None else K.tolist(),
    )  # fmt: skip
    stages = {"frames": frame_file, "people": problem.people, "cameras": problem.cameras, "contacts": problem.contacts}
    for stage, file in stages.items():
        file.save(clip.stage_dir(stage))
        finish(clip, stage)
    return clip


def finish(clip: ClipFolder, stage: str) -> None:
    """Record a stage as done."""
    clip.finish(StageRecord(stage=stage, status="done", implementation="test", config_hash="", inputs={}))


def silent(fraction: float, text: str) -> None:
    """A report that nobody reads."""
