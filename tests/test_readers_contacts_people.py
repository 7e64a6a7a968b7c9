"""Labels on SMPL's vertices become contact sites; SAM 3D Body's keypoints become the people stage."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from distill.body import load_body_model
from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES, KEYPOINTS
from teacher.initialisers.bodies import BodiesConfig
from teacher.initialisers.contacts import ContactsConfig
from teacher.initialisers.people import PeopleConfig
from teacher.initialisers.registry import get_initialiser
from teacher.readers.people_sam3d import MHR_ORDER
from teacher.stagefiles import BodyInit, Contacts, People, read_image
from teacher.workspace import ClipFolder
from tests.readers_support import FRAMES, clip_folder, finish, silent, truth_problem, world, write_model, write_tram

VERTICES = 6890


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"smpl:{write_model(tmp_path_factory.mktemp('models') / 'SMPL.npz')}"


@pytest.fixture
def clip(tmp_path: Path) -> ClipFolder:
    return clip_folder(tmp_path, truth_problem())


def read_contacts(clip: ClipFolder, use: str, model: str) -> np.ndarray:
    clip.begin("contacts")
    get_initialiser("contacts", use).run(clip, ContactsConfig(use=use, body_model=model), silent)
    return Contacts.load(clip.stage_dir("contacts")).prob


def site_labels(model: str, site: str, share: float = 1.0) -> np.ndarray:
    """[6890] with that share of the site's vertices labelled."""
    ids = load_body_model(model).site_vertices[site].numpy()
    labels = np.zeros(VERTICES)
    labels[ids[: round(share * len(ids))]] = 1
    return labels


def test_labels_of_every_frame_and_person(tmp_path: Path, clip: ClipFolder, model: str) -> None:
    labels = np.zeros((FRAMES, 2, VERTICES))
    labels[3:9, 0] = site_labels(model, "left_heel")
    labels[:, 1] = site_labels(model, "right_hand", 0.5)
    np.savez(tmp_path / "l.npz", contact=labels)
    prob = read_contacts(clip, f"vertex-labels:{tmp_path / 'l.npz'}", model)
    assert prob.shape == (FRAMES, 2, 6) and prob.dtype == np.float32
    assert prob[:, 0, CONTACT_SITES.index("left_heel")].tolist() == [1.0 if 3 <= t < 9 else 0.0 for t in range(FRAMES)]
    assert prob[:, 1, CONTACT_SITES.index("right_hand")] == pytest.approx(0.5)
    assert prob[..., CONTACT_SITES.index("right_toe")].max() == 0


def test_deco_labels_go_with_the_bodies_of_their_track(tmp_path: Path, clip: ClipFolder, model: str) -> None:
    folder = write_tram(tmp_path / "josh", camera=False, layout="tram")
    (folder / "deco").mkdir()
    for k, (count, site) in enumerate([(9, "left_toe"), (FRAMES, "right_heel"), (12, "left_hand")]):
        np.save(folder / "deco" / f"hps_track_{k}.npy", np.tile(site_labels(model, site), (count, 1)))
    prob = read_contacts(clip, f"deco:{folder}", model)
    # The first person's track is in two pieces: frames 0 to 8 and 12 to 23.
    assert prob[:9, 0, CONTACT_SITES.index("left_toe")].min() == 1
    assert prob[9:12, 0].max() == 0
    assert prob[12:, 0, CONTACT_SITES.index("left_hand")].min() == 1 and prob[12:, 0].sum() == 12
    assert prob[:, 1, CONTACT_SITES.index("right_heel")].min() == 1
    np.save(folder / "deco" / "hps_track_1.npy", np.zeros((FRAMES - 2, VERTICES)))
    with pytest.raises(FootfallError, match=r"for 24 bodies.*short pieces"):
        read_contacts(clip, f"deco:{folder}", model)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((FRAMES, 10475)), r"on SMPL's mesh"), (np.full((FRAMES, VERTICES), -3.0), "sigmoid"),
        (np.zeros((FRAMES, VERTICES)), "labels of 1 people"), (np.zeros((FRAMES - 1, 2, VERTICES)), "23 frames"),
        (np.full((FRAMES, 2, VERTICES), np.nan), "probabilities"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(labels: np.ndarray, words: str, tmp_path: Path, clip: ClipFolder, model: str) -> None:
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(FootfallError, match=words):
        read_contacts(clip, f"vertex-labels:{tmp_path / 'l.npy'}", model)
    assert list(clip.stage_dir("contacts").iterdir()) == []


def test_labels_need_smpl_s_own_mesh(tmp_path: Path, clip: ClipFolder) -> None:
    np.save(tmp_path / "l.npy", np.zeros((FRAMES, 2, VERTICES)))
    with pytest.raises(FootfallError, match=r"contacts\.body_model.*smpl:FILE"):
        read_contacts(clip, f"vertex-labels:{tmp_path / 'l.npy'}", "anny")


# --- SAM 3D Body ---------------------------------------------------------------------------------------


def write_sam3d(folder: Path, *, ending: str = "npz", masks: bool = False) -> Path:
    """One file per frame, both people, whose order changes from frame to frame; the video is 960 x 540."""
    problem, truth = truth_problem(), world().truth
    body = load_body_model("anny")
    import torch

    betas = torch.from_numpy(np.broadcast_to(truth.motion.betas, (FRAMES, 2, 10)).copy()).float()
    pose = (torch.from_numpy(a).float() for a in (truth.motion.body_rot, truth.motion.cam_from_body))
    space = body.keypoints(betas, *pose).numpy()
    folder.mkdir()
    for t in range(FRAMES):
        people = []
        for k in range(2) if t % 2 else (1, 0):
            pixels, points = np.full((70, 2), -1.0), np.full((70, 3), 99.0)
            pixels[list(MHR_ORDER)] = 2 * problem.people.keypoints_px[t, k]
            centre = space[t, k].mean(0)
            points[list(MHR_ORDER)] = space[t, k] - centre
            low, high = 2 * problem.people.keypoints_px[t, k].min(0), 2 * problem.people.keypoints_px[t, k].max(0)
            entry = {
                "pred_keypoints_2d": pixels, "pred_keypoints_3d": points, "bbox": np.concatenate((low, high)),
                "pred_cam_t": centre, "focal_length": np.float32(830), "pred_vertices": np.zeros((18439, 3)),
            }  # fmt: skip
            if masks:
                entry["mask"] = np.zeros((540, 960), np.uint8)
                entry["mask"][int(low[1]) : int(high[1]), int(low[0]) : int(high[0])] = 1
            people.append(entry)
        if ending == "npz":
            np.savez(folder / f"frame_{t:05d}.npz", **{key: np.stack([p[key] for p in people]) for key in people[0]})
        else:
            (folder / f"frame_{t:05d}.pkl").write_bytes(pickle.dumps(people))
    return folder


@pytest.mark.parametrize(("ending", "masks"), [("npz", True), ("pkl", False)])
def test_sam3d_keypoints_fill_the_people_stage_and_the_free_body_fits_them(
    ending: str, masks: bool, tmp_path: Path, clip: ClipFolder
) -> None:
    source = write_sam3d(tmp_path / "s", ending=ending, masks=masks)
    clip.begin("people")
    outcome = get_initialiser("people", f"sam3d-body:{source}").run(clip, PeopleConfig(), silent)
    finish(clip, "people")
    assert outcome.summary["visible_frames"] == [FRAMES, FRAMES]
    people, truth = People.load(clip.require("people")), truth_problem().people
    order = [int(np.abs(people.keypoints_px[0, k] - truth.keypoints_px[0]).mean((1, 2)).argmin()) for k in range(2)]
    assert sorted(order) == [0, 1]
    np.testing.assert_allclose(people.keypoints_px, truth.keypoints_px[:, order], atol=1e-3)
    hips = [KEYPOINTS.index(f"{side}_hip") for side in ("left", "right")]
    np.testing.assert_allclose(people.keypoints_hip[:, :, hips].mean(2), 0, atol=1e-5)
    identity = read_image(People.mask_path(clip.stage_dir("people"), 7))
    for k in range(2):
        x, y = people.keypoints_px[7, k, [KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")]].mean(0)
        assert identity[int(y), int(x)] in (k + 1, 2 - k) and identity.shape == (270, 480)
    clip.begin("bodies")
    get_initialiser("bodies", "landmarks").run(clip, BodiesConfig(), silent)
    bodies = BodyInit.load(clip.stage_dir("bodies"))
    assert bodies.present.all()
    depth = bodies.cam_from_body[..., 2, 3] / world().truth.motion.cam_from_body[:, order, 2, 3]
    assert np.abs(np.median(depth, axis=0) - 1).max() < 0.1


def test_sam3d_files_of_another_kind(tmp_path: Path, clip: ClipFolder) -> None:
    people = get_initialiser("people", f"sam3d-body:{tmp_path / 's'}")
    (tmp_path / "s").mkdir()
    with pytest.raises(FootfallError, match="one file of SAM 3D Body per frame"):
        people.run(clip, PeopleConfig(), silent)
    np.savez(tmp_path / "s" / "0.npz", pred_keypoints_2d=np.zeros((17, 2)), pred_keypoints_3d=np.zeros((17, 3)))
    with pytest.raises(FootfallError, match="pred_keypoints_2d of shape"):
        people.run(clip, PeopleConfig(), silent)
    (tmp_path / "s" / "0.npz").rename(tmp_path / "s" / "900.npz")
    with pytest.raises(FootfallError, match="nobody for 12 frames"):
        people.run(clip, PeopleConfig(), silent)
