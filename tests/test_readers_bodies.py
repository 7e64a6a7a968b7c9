"""Bodies of other systems come back where the truth is: every format is written here by its own conventions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.files import read_json
from distill.geometry.alignment import align_points
from teacher.initialisers.bodies import BodiesConfig
from teacher.initialisers.registry import get_initialiser
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import Degradation
from teacher.optimise.problem import build_problem, match_focal
from teacher.optimise.solver import solve
from teacher.optimise.variables import State
from teacher.readers.attach import box_overlap, match, place
from teacher.readers.bodies_smpl import read_phalp, read_tram, read_wham
from teacher.readers.bodies_smplx import read_gvhmr, read_human3r, read_prompthmr
from teacher.stagefiles import BodyInit, People
from teacher.workspace import ClipFolder
from tests.readers_support import (
    FRAMES,
    clip_folder,
    finish,
    person,
    silent,
    truth_problem,
    world,
    write_gvhmr,
    write_human3r,
    write_model,
    write_phalp,
    write_prompthmr,
    write_tram,
    write_wham,
)

CLOSE_M = 5e-4
"""Half a millimetre: single precision over a person at ten metres."""
FORMATS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "wham": ("smpl", write_wham, "wham_output.pkl"),
    "tram": ("smpl", write_tram, "results"),
    "phalp": ("smpl", write_phalp, "demo.pkl"),
    "gvhmr": ("smplx", write_gvhmr, "hmr4d_results.pt"),
    "prompthmr": ("smplx", write_prompthmr, "results.pkl"),
    "human3r": ("smplx", write_human3r, "out"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made-up licensed files by kind."""
    folder = tmp_path_factory.mktemp("models")
    return {"smpl": write_model(folder / "SMPL.npz"), "smplx": write_model(folder / "SMPLX.npz", 55)}


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    return clip_folder(tmp_path, truth_problem())


def read_bodies(clip: ClipFolder, use: str, model: str) -> BodyInit:
    """The bodies stage, run as the pipeline runs it."""
    clip.begin("bodies")
    get_initialiser("bodies", use).run(clip, BodiesConfig(use=use, body_model=model), silent)
    finish(clip, "bodies")
    return BodyInit.load(clip.require("bodies"))


def camera_joints(bodies: BodyInit, model: str) -> np.ndarray:
    """[T, P, 24, 3] under the truth's focal length."""
    body = load_body_model(model)
    seen = match_focal(bodies, world().truth.cameras.K[0, 0])
    betas = torch.from_numpy(np.broadcast_to(seen.betas, (FRAMES, *seen.betas.shape)).copy()).float()
    transform = torch.from_numpy(seen.cam_from_body).float()
    return body(betas, torch.from_numpy(seen.body_rot).float(), transform).joints.numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_joints_in_the_camera_are_the_truth(
    name: str, tmp_path: Path, clip: ClipFolder, models: dict[str, Path]
) -> None:
    kind, write, file = FORMATS[name]
    source = write(tmp_path / file)
    model = f"{kind}:{models[kind]}"
    bodies = read_bodies(clip, f"{name}:{source}", model)
    assert bodies.body_model == kind
    error = np.linalg.norm(camera_joints(bodies, model) - world().truth.motion.joints_cam, axis=-1)
    # SMPL-X's hands are at rest here, so SMPL's two hand joints hang on the wrists all the same.
    assert error[bodies.present].max() < CLOSE_M
    expected = np.ones((FRAMES, 2), bool)
    if name == "wham":
        expected[:5, 1] = False
    if name == "tram":  # two pieces of one person, with a gap
        expected[9:12, 0] = False
    if name == "gvhmr":  # one person only
        expected[:, 1] = False
    assert (bodies.present == expected).all()
    assert all(np.isfinite(v).all() for v in vars(bodies).values() if isinstance(v, np.ndarray))


def test_the_test_s_own_chain_agrees_with_the_truth() -> None:
    """Otherwise writer and reader could be wrong together."""
    focal = float(world().truth.cameras.K[0, 0])
    for k in range(2):
        np.testing.assert_allclose(person(k, focal).joints(), world().truth.motion.joints_cam[:, k], atol=CLOSE_M)


def test_wham_and_vimo_assume_the_diagonal_and_tram_says_its_focal(
    tmp_path: Path, clip: ClipFolder, models: dict[str, Path]
) -> None:
    model = f"smpl:{models['smpl']}"
    diagonal = float(np.hypot(480, 270))
    assert read_bodies(clip, f"wham:{write_wham(tmp_path / 'w.pkl')}", model).focal_px == pytest.approx(diagonal)
    with_camera = read_bodies(clip, f"tram:{write_tram(tmp_path / 'a')}", model)
    assert with_camera.focal_px == pytest.approx(700)  # 1400 px in images twice as large
    without = read_bodies(clip, f"tram:{write_tram(tmp_path / 'b', camera=False, layout='tram')}", model)
    assert without.focal_px == pytest.approx(diagonal)
    error = np.linalg.norm(camera_joints(without, model) - world().truth.motion.joints_cam, axis=-1)
    assert error[without.present].max() < CLOSE_M


def test_the_joint_optimisation_runs_from_wham(tmp_path: Path, models: dict[str, Path]) -> None:
    problem = truth_problem(Degradation(focal=1.1, keypoint_px=1.0, track_px=1.0))
    clip = clip_folder(tmp_path, problem)
    model = f"smpl:{models['smpl']}"
    bodies = read_bodies(clip, f"wham:{write_wham(tmp_path / 'wham_output.pkl')}", model)
    whole = replace(build_problem(clip), depth=problem.depth)
    # Wrong by WHAM's focal length in the file, right under that of the cameras: t_z' = f / f_WHAM t_z.
    ratio = whole.bodies.cam_from_body[0, 0, 2, 3] / bodies.cam_from_body[0, 0, 2, 3]
    assert ratio == pytest.approx(problem.cameras.K[0, 0] / np.hypot(480, 270), rel=1e-5)
    with pytest.raises(FootfallError, match=r"optimise\.body_file"):
        solve(whole, OptimiseConfig(), silent)
    solution = solve(whole, OptimiseConfig(body_file=str(models["smpl"])), silent)
    before, after = (_world_error_mm(state) for state in (solution.before, solution.after))
    assert after < 0.6 * before
    assert after < 60


def _world_error_mm(state: State) -> float:
    """Mean joint error where WHAM has a body, after a rigid alignment without scale."""
    here = torch.from_numpy(world().truth.motion.present.copy())
    here[:5, 1] = False
    truth, solved = (
        j[here].double().reshape(-1, 3) for j in (torch.from_numpy(world().truth.joints_world), state.world.joints)
    )
    _, rotation, translation = align_points(truth, solved, with_scale=False)
    return float((truth - solved @ rotation.T - translation).norm(dim=-1).mean()) * 1000


def test_paths_may_name_the_clip_and_the_video(tmp_path: Path, clip: ClipFolder, models: dict[str, Path]) -> None:
    (tmp_path / "street").mkdir(exist_ok=True)
    write_wham(tmp_path / "street" / "street.pkl")
    read_bodies(clip, f"wham:{tmp_path}/{{clip_id}}/{{video}}.pkl", f"smpl:{models['smpl']}")
    record = get_initialiser("bodies", "wham:/nowhere/{clip_id}.pkl")
    with pytest.raises(FootfallError, match=r"no such file /nowhere/street\.pkl"):
        record.run(clip, BodiesConfig(body_model=f"smpl:{models['smpl']}"), silent)
    assert read_json(clip.stage_dir("bodies") / "record.json")["status"] == "done"


def test_a_shot_from_the_middle_takes_its_own_frames(models: dict[str, Path], tmp_path: Path) -> None:
    body = load_body_model(f"smpl:{models['smpl']}")
    outside = read_wham(write_wham(tmp_path / "w.pkl"), (480, 270))
    K = world().truth.cameras.K
    placed, focal = place(outside, body, np.arange(7, 12), (480, 270), K)
    assert [piece.rows.tolist() for piece in placed] == [[0, 1, 2, 3, 4]] * 2
    assert [piece.source_rows[0] for piece in placed] == [7, 2]
    truth = world().truth.motion.cam_from_body[7:12, 0, 2, 3]
    np.testing.assert_allclose(placed[0].cam_from_body[:, 2, 3] * K[0, 0] / focal, truth, rtol=1e-5)


def test_a_known_principal_point_keeps_every_pelvis_on_its_pixel(models: dict[str, Path], tmp_path: Path) -> None:
    body = load_body_model(f"smpl:{models['smpl']}")
    outside = read_wham(write_wham(tmp_path / "w.pkl"), (480, 270))
    shifted = world().truth.cameras.K.copy()
    shifted[:2, 2] += [11, -7]
    before, after = (place(outside, body, np.arange(FRAMES), (480, 270), K) for K in (world().truth.cameras.K, shifted))
    focal = before[1]
    for piece, moved in zip(before[0], after[0], strict=True):
        pixels = [p.cam_from_body[:, :2, 3] / p.cam_from_body[:, 2:3, 3] * focal for p in (piece, moved)]
        np.testing.assert_allclose(pixels[0] + [240, 135], pixels[1] + shifted[:2, 2], atol=1e-6)


# --- whose body it is ----------------------------------------------------------------------------------


def matched(models: dict[str, Path], tmp_path: Path, people: People) -> dict[str, int | None]:
    body = load_body_model(f"smpl:{models['smpl']}")
    outside = read_tram(write_tram(tmp_path / "tram"), (480, 270))
    placed, _ = place(outside, body, np.arange(FRAMES), (480, 270), world().truth.cameras.K)
    match(placed, people, "file")
    return {piece.name: piece.person for piece in placed}


def test_tracks_find_their_people_in_whatever_order(models: dict[str, Path], tmp_path: Path) -> None:
    people = truth_problem().people
    assert matched(models, tmp_path, people) == {"0": 0, "1": 1, "2": 0}
    swapped = People(**{name: value[:, ::-1] for name, value in vars(people).items()})
    assert matched(models, tmp_path, swapped) == {"0": 1, "1": 0, "2": 1}


def test_a_body_that_is_nobody_s_is_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    people = truth_problem().people
    people.visible[:, 1] = False
    assert matched(models, tmp_path, people)["1"] in (None, 0)  # in front of the other for part of the time, or nobody
    people.keypoints_px = people.keypoints_px + np.float32(2000)
    with pytest.raises(FootfallError, match="no body that overlaps"):
        matched(models, tmp_path, people)


def test_overlap_of_boxes_by_hand() -> None:
    a, b = np.array([0.0, 0, 2, 2]), np.array([1.0, 1, 3, 3])
    assert box_overlap(a, b) == pytest.approx(1 / 7)
    assert box_overlap(a, a + 5) == 0


# --- files that are wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("pose", "pose of shape"), ("betas", "betas of shape"), ("nan", "not finite"), ("verts", "verts of shape"),
        ("frames", "some twice"), ("world", "no array 'pose'"), ("empty", "nobody"), ("behind", "behind the camera"),
        ("later", "frames up to"),
    ],
)  # fmt: skip
def test_a_file_of_another_version_is_named_and_nothing_is_written(
    fault: str, words: str, tmp_path: Path, clip: ClipFolder, models: dict[str, Path]
) -> None:
    file = write_wham(tmp_path / "w.pkl", people=1)
    content = pickle.loads(file.read_bytes())  # made two lines above
    one = content[3]
    changes = {
        "pose": {"pose": one["pose"][:, :66]}, "betas": {"betas": one["betas"][:, :9]},
        "nan": {"trans": one["trans"] * np.nan}, "verts": {"verts": np.zeros((FRAMES, 10475, 3), np.float32)},
        "frames": {"frame_ids": np.zeros(FRAMES)}, "behind": {"trans": -one["trans"]},
        "later": {"frame_ids": np.arange(FRAMES) + 500},
    }  # fmt: skip
    content = {} if fault == "empty" else {3: {**one, **changes.get(fault, {})}}
    if fault == "world":
        del content[3]["pose"]
    file.write_bytes(pickle.dumps(content))
    clip.begin("bodies")
    with pytest.raises(FootfallError, match=words) as caught:
        get_initialiser("bodies", f"wham:{file}").run(clip, BodiesConfig(body_model=f"smpl:{models['smpl']}"), silent)
    assert "expected" in str(caught.value)
    assert list(clip.stage_dir("bodies").iterdir()) == []


def test_the_licensed_file_must_be_of_the_bodies_own_kind(
    tmp_path: Path, clip: ClipFolder, models: dict[str, Path]
) -> None:
    wham = get_initialiser("bodies", f"wham:{write_wham(tmp_path / 'w.pkl')}")
    for spec in ("anny", f"smplx:{models['smplx']}"):
        with pytest.raises(FootfallError, match=r"smpl:FILE.*optimise\.body_file"):
            wham.run(clip, BodiesConfig(body_model=spec), silent)
    body: BodyModel = load_body_model("anny")
    with pytest.raises(FootfallError, match="the model that the file's numbers belong to"):
        place(read_phalp(write_phalp(tmp_path / "p.pkl"), (480, 270)), body, np.arange(4), (480, 270), np.eye(3))


@pytest.mark.parametrize("read", [read_gvhmr, read_prompthmr, read_human3r, read_wham, read_tram, read_phalp])
def test_a_path_that_is_not_there_says_so(read: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(FootfallError, match=r"expected"):
        read(tmp_path / "none", (480, 270))


def test_phalp_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    file = write_phalp(tmp_path / "p.pkl")
    content = pickle.loads(file.read_bytes())  # made one line above
    content["img/000004.jpg"]["camera"].pop()
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(FootfallError, match=r"img/000004\.jpg: got lists of different lengths"):
        read_phalp(file, (480, 270))


def test_results_of_another_picture_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    body = load_body_model(f"smplx:{models['smplx']}")
    outside = read_gvhmr(write_gvhmr(tmp_path / "g.pt"), (480, 270))
    with pytest.raises(FootfallError, match="images of 960 x 540"):
        place(outside, body, np.arange(FRAMES), (270, 480), np.eye(3))


def test_matrices_that_are_no_rotations_are_refused(tmp_path: Path) -> None:
    folder = write_tram(tmp_path / "t")
    track = {
        "pred_rotmat": torch.ones(4, 24, 3, 3), "pred_trans": torch.ones(4, 1, 3), "pred_shape": torch.zeros(4, 10),
        "frame": torch.arange(4),
    }  # fmt: skip
    np.save(folder / "hps" / "hps_track_0.npy", track, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(FootfallError, match="no rotations"):
        read_tram(folder, (480, 270))


def test_a_stage_runs_again_when_its_outside_file_changes(
    tmp_path: Path, clip: ClipFolder, models: dict[str, Path]
) -> None:
    file = write_wham(tmp_path / "w.pkl")
    initialiser = get_initialiser("bodies", f"wham:{tmp_path}/w.pkl")
    before = initialiser.sources(clip)
    assert before == initialiser.sources(clip) != ""
    write_wham(file, people=1)
    assert initialiser.sources(clip) != before


def test_more_frames_than_the_video_has(tmp_path: Path, models: dict[str, Path]) -> None:
    clip = clip_folder(tmp_path, truth_problem(), frames=FRAMES - 4)
    with pytest.raises(FootfallError, match="frames up to 23; expected 20 frames"):
        read_bodies(clip, f"wham:{write_wham(tmp_path / 'w.pkl')}", f"smpl:{models['smpl']}")
