"""BVH, USD, AMASS, COLMAP, TUM, 3DGS and CSV, each opened by somebody else's reader; and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from distill.body import BodyModel, load_body_model
from distill.convert import FORMATS, ConvertConfig, convert
from distill.convert.axes import Z_UP_FROM_WORLD
from distill.convert.source import Source, usual_rate
from distill.convert.tracks import spans_of
from distill.errors import FootfallError
from distill.geometry.conventions import SMPL_JOINTS, SMPL_PARENTS
from distill.render import Gaussians
from distill.render.ply import read_gaussians, write_gaussians
from distill.results import Result
from teacher.cli import main
from tests.convert_support import (
    CLOSE,
    EVEN_TIMES,
    FRAMES,
    UNEVEN_TIMES,
    Array,
    body_points,
    make_result,
    write_result,
    y_up,
)
from tests.test_body_files import made_up

PLAIN = ["bvh", "amass", "colmap", "tum", "csv", "usd"]


@pytest.fixture(scope="module", params=["z_up_ground", "first_camera"])
def converted(request: pytest.FixtureRequest, body: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A result and its converted files; the one with an unknown world is uneven in time."""
    pytest.importorskip("pxr")
    times = EVEN_TIMES if request.param == "z_up_ground" else UNEVEN_TIMES
    result = make_result(body, world=request.param, times=times)
    folder = tmp_path_factory.mktemp(request.param)
    record = convert(write_result(folder / "result", result), PLAIN, folder / "out")
    return result, folder / "out", record


def relative(result: Result) -> Array:
    return result.cameras.timestamps - result.cameras.timestamps[0]


# BVH


def bvh_joints(path: Path) -> tuple[Array, float]:
    """World places [T, 24, 3] of the joints in SMPL's order, and the frame time, by bvhio's own kinematics."""
    bvhio = pytest.importorskip("bvhio")
    file, root = bvhio.readAsBvh(str(path)), bvhio.readAsHierarchy(str(path))
    frames = []
    for frame in range(file.FrameCount):
        root.loadPose(frame)
        places = {joint.Name: tuple(joint.PositionWorld) for joint, _, _ in root.layout()}
        frames.append([places[name] for name in SMPL_JOINTS])
    return np.array(frames), file.FrameTime


def test_bvh_joints_are_in_place(converted: Any) -> None:
    result, folder, record = converted
    for person, identity in enumerate(result.motion.ids):
        joints, step = bvh_joints(folder / "bvh" / f"person_{identity}.bvh")
        assert step == pytest.approx(1 / record["formats"]["bvh"]["fps"], rel=1e-7)
        assert record["formats"]["bvh"]["frames"] == len(joints)
        if not record["even_clock"]:
            continue
        assert step == pytest.approx(0.04)
        for frame in np.flatnonzero(result.motion.present[:, person]):
            wanted, _ = body_points(result, frame, person, y_up(result))
            np.testing.assert_allclose(joints[frame] / 100, wanted, atol=CLOSE)


def test_bvh_of_an_uneven_clip_lies_on_the_geodesics_between_its_frames(converted: Any) -> None:
    result, folder, _ = converted
    joints, step = bvh_joints(folder / "bvh" / "person_1.bvh")
    times = relative(result)
    assert times[-1] - step < (len(joints) - 1) * step < times[-1] + 1e-6
    root = y_up(result) @ result.world_from_body[:, 0]
    turned = Slerp(times, Rotation.from_matrix(root[:, :3, :3]))
    hip = joints[:, 1] / 100 - joints[:, 0] / 100
    at = np.minimum(np.arange(len(joints)) * step, times[-1])
    rest = np.linalg.inv(root[0, :3, :3]) @ hip[0]
    np.testing.assert_allclose(hip, turned(at).apply(rest), atol=CLOSE)
    for axis in range(3):
        np.testing.assert_allclose(joints[:, 0, axis] / 100, np.interp(at, times, root[:, axis, 3]), atol=CLOSE)


def test_bvh_angles_do_not_jump_by_a_turn(converted: Any) -> None:
    _, folder, _ = converted
    rows = (folder / "bvh" / "person_1.bvh").read_text().split("Frame Time")[1].splitlines()[1:]
    angles = np.array([row.split()[3:] for row in rows], float)
    assert np.abs(np.diff(angles, axis=0)).max() < 180


# USD


def test_usd_people_are_in_place(converted: Any) -> None:
    from pxr import Gf, Usd, UsdGeom, UsdSkel, Vt

    result, folder, _ = converted
    stage = Usd.Stage.Open(str(folder / "result.usdc"))
    rate, turn = stage.GetTimeCodesPerSecond(), np.eye(4) if result.meta["world"] == "z_up_ground" else y_up(result)
    assert UsdGeom.GetStageUpAxis(stage) == ("Z" if result.meta["world"] == "z_up_ground" else "Y")
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetEndTimeCode() == pytest.approx(relative(result)[-1] * rate)
    for person, identity in enumerate(result.motion.ids):
        root = UsdSkel.Root.Get(stage, f"/footfall/person_{identity}")
        cache = UsdSkel.Cache()
        cache.Populate(root, Usd.PrimDefaultPredicate)
        skeleton = cache.GetSkelQuery(UsdSkel.Skeleton.Get(stage, f"{root.GetPath()}/skeleton"))
        mesh = UsdGeom.Mesh.Get(stage, f"{root.GetPath()}/mesh")
        skin = cache.GetSkinningQuery(mesh.GetPrim())
        for frame in range(FRAMES):
            code = Usd.TimeCode(relative(result)[frame] * rate)
            seen = root.ComputeVisibility(code) != UsdGeom.Tokens.invisible
            assert seen == result.motion.present[frame, person]
            if not seen or frame not in (0, 5, FRAMES - 1):
                continue
            joints, vertices = body_points(result, frame, person, turn)
            found = np.array(skeleton.ComputeJointSkelTransforms(code))[:, 3, :3]
            np.testing.assert_allclose(found, joints, atol=CLOSE)
            points = Vt.Vec3fArray(mesh.GetPointsAttr().Get())
            assert skin.ComputeSkinnedPoints(skeleton.ComputeSkinningTransforms(code), points, code)
            np.testing.assert_allclose(np.array(points), vertices, atol=CLOSE)
    assert Gf.IsClose(UsdGeom.XformCache().GetLocalToWorldTransform(root.GetPrim()), Gf.Matrix4d(1), 1e-12)


def test_usd_camera_keeps_the_pixel_of_a_point(converted: Any) -> None:
    """Frustum by USD itself, principal point and unequal pixels included."""
    from pxr import Gf, Usd, UsdGeom

    result, folder, _ = converted
    stage = Usd.Stage.Open(str(folder / "result.usdc"))
    turn = np.eye(4) if result.meta["world"] == "z_up_ground" else y_up(result)
    for frame in (0, 7, FRAMES - 1):
        code = relative(result)[frame] * stage.GetTimeCodesPerSecond()
        frustum = UsdGeom.Camera.Get(stage, "/footfall/camera").GetCamera(code).frustum
        in_cam = np.array([0.7, -0.4, 4, 1])
        world = Gf.Vec3d(*(turn @ result.cameras.world_from_cam[frame] @ in_cam)[:3].tolist())
        x, y, _ = (frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()).Transform(world)
        pixel = (result.cameras.K @ (in_cam[:3] / in_cam[2]))[:2]
        np.testing.assert_allclose([320 * (1 + x), 180 * (1 - y)], pixel, atol=0.01)
        np.testing.assert_allclose(frustum.position, (turn @ result.cameras.world_from_cam[frame])[:3, 3], atol=CLOSE)


def test_usd_points(converted: Any) -> None:
    from pxr import Usd, UsdGeom

    result, folder, _ = converted
    stage = Usd.Stage.Open(str(folder / "result.usdc"))
    cloud = UsdGeom.Points.Get(stage, "/footfall/scene")
    turn = np.eye(4) if result.meta["world"] == "z_up_ground" else y_up(result)
    np.testing.assert_allclose(cloud.GetPointsAttr().Get(), result.scene_points @ turn[:3, :3].T, atol=CLOSE)
    assert len(cloud.GetDisplayColorAttr().Get()) == len(result.scene_points)


# AMASS


def smplx_chain(rotvecs: Array, rest: Array) -> Array:
    """Joints [N, 24, 3] by the kinematics of the package smplx, in SMPL's own coordinates without `trans`."""
    pytest.importorskip("smplx")
    from smplx.lbs import batch_rigid_transform, batch_rodrigues

    turns = batch_rodrigues(torch.from_numpy(rotvecs).float().reshape(-1, 3)).reshape(-1, 24, 3, 3)
    joints = torch.from_numpy(rest).float().expand(len(turns), -1, -1)
    return batch_rigid_transform(turns, joints, torch.tensor(SMPL_PARENTS))[0].numpy()


def test_amass_of_the_free_body_is_exact_on_its_own_skeleton(converted: Any) -> None:
    result, folder, record = converted
    turn = Z_UP_FROM_WORLD[result.meta["world"]]
    assert "not measured" in record["formats"]["amass"]["on_smpl"]
    for person, identity in enumerate(result.motion.ids):
        file = np.load(folder / "amass" / f"person_{identity}.npz")
        count = len(file["timestamps"])
        shapes = {"poses": (count, 156), "trans": (count, 3), "betas": (16,), "dmpls": (count, 8)}
        assert {key: file[key].shape for key in shapes} == shapes
        assert (str(file["gender"]), str(file["model"])) == ("neutral", "anny")
        assert (file["betas"] == 0).all()
        np.testing.assert_array_equal(file["free_betas"], result.motion.betas[person])
        np.testing.assert_array_equal(file["poses"][:, :66], file["smpl_poses"][:, :66])
        joints = smplx_chain(file["smpl_poses"], file["rest_joints"]) + file["trans"][:, None]
        for row, seconds in enumerate(file["timestamps"]):
            frame = int(np.abs(result.cameras.timestamps - seconds).argmin())
            if abs(result.cameras.timestamps[frame] - seconds) < 1e-9 and file["present"][row]:
                wanted, _ = body_points(result, frame, person, turn)
                np.testing.assert_allclose(joints[row], wanted, atol=CLOSE)


def test_amass_spans_first_to_last_frame_and_says_who_was_there(converted: Any) -> None:
    result, folder, record = converted
    if record["even_clock"]:
        for person, identity in enumerate(result.motion.ids):
            present = np.load(folder / "amass" / f"person_{identity}.npz")["present"]
            known = result.motion.present[:, person]
            frames = np.flatnonzero(known)
            np.testing.assert_array_equal(present, known[frames[0] : frames[-1] + 1])


@pytest.fixture
def smpl_file(tmp_path: Path) -> Path:
    """A made-up model in SMPL's form whose pelvis is not at its origin and whose bones are not ours."""
    model = made_up(24)
    model["v_template"] = model["v_template"] * 1.1 + [0.0, -0.23, 0.03]
    np.savez(tmp_path / "smpl.npz", **model)
    return tmp_path / "smpl.npz"


def as_smpl(result: Result, file: Path) -> Result:
    """The same motion claimed by SMPL."""
    body = load_body_model(f"smpl:{file}")
    result.motion.body_model = "smpl"
    betas = torch.from_numpy(result.motion.betas).expand(FRAMES, -1, -1)
    pose = (torch.from_numpy(part).float() for part in (result.motion.body_rot, result.motion.cam_from_body))
    result.motion.joints_cam = body(betas, *pose).joints.numpy()
    return result


def test_amass_of_smpl_is_exact_with_its_own_origin(body: BodyModel, smpl_file: Path, tmp_path: Path) -> None:
    """`trans` adds to J0(betas) of the file, as every reader of SMPL has it."""
    result = as_smpl(make_result(body), smpl_file)
    settings = ConvertConfig(body=f"smpl:{smpl_file}")
    record = convert(write_result(tmp_path / "r", result), ["amass", "glb"], tmp_path / "o", settings)
    file, raw = np.load(tmp_path / "o" / "amass" / "person_1.npz"), dict(np.load(smpl_file))
    np.testing.assert_array_equal(file["betas"][:10], result.motion.betas[0])
    vertices = raw["v_template"] + raw["shapedirs"] @ result.motion.betas[0].astype(np.float64)
    rest = raw["J_regressor"] @ vertices  # SMPL's own joints, in its file's coordinates
    joints = smplx_chain(file["smpl_poses"], rest) + file["trans"][:, None]
    np.testing.assert_allclose(joints, result.joints_world[:, 0], atol=CLOSE)
    assert record["formats"]["amass"]["parameters_of"] == "smpl"
    assert 0 < record["formats"]["glb"]["left_out_by_rig_m"] < 0.2  # pose correctives, measured


def test_retargeting_states_its_error(body: BodyModel, smpl_file: Path, tmp_path: Path) -> None:
    settings = ConvertConfig(body=f"smpl:{smpl_file}")
    result = make_result(body)
    record = convert(write_result(tmp_path / "r", result), ["amass"], tmp_path / "o", settings)
    stated = record["formats"]["amass"]["retarget_error_m"]["person_1"]
    file = np.load(tmp_path / "o" / "amass" / "person_1.npz")
    joints = smplx_chain(file["smpl_poses"], file["rest_joints"]) + file["trans"][:, None]
    distance = np.linalg.norm(joints - result.joints_world[:, 0], axis=-1)
    assert stated["mean"] == pytest.approx(distance.mean(), abs=CLOSE)
    assert stated["max"] == pytest.approx(distance.max(), abs=CLOSE)
    assert 0.001 < stated["mean"] < 0.08  # the made-up body is a tenth larger
    bone = joints[:, 5] - joints[:, 2]  # right knee from right hip: points as the source's does
    ours = result.joints_world[:, 0, 5] - result.joints_world[:, 0, 2]
    cosine = (bone * ours).sum(-1) / np.linalg.norm(bone, axis=-1) / np.linalg.norm(ours, axis=-1)
    assert cosine.min() > 1 - 1e-5


# COLMAP, TUM, CSV, 3DGS


def test_pycolmap_reads_cameras_and_points(converted: Any) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    result, folder, _ = converted
    model = pycolmap.Reconstruction(str(folder / "colmap"))
    camera, valid = model.cameras[1], np.flatnonzero(result.cameras.valid)
    assert (camera.width, camera.height, camera.model.name) == (640, 360, "PINHOLE")
    assert sorted(image.name for image in model.images.values()) == [f"{frame:06d}.jpg" for frame in valid]
    point = max(model.points3D.values(), key=lambda entry: entry.color.sum())
    for image in model.images.values():
        world_from_cam = result.cameras.world_from_cam[int(image.name[:6])]
        np.testing.assert_allclose(image.projection_center(), world_from_cam[:3, 3], atol=CLOSE)
        in_cam = np.linalg.inv(world_from_cam) @ [*point.xyz, 1]
        found = camera.img_from_cam(image.cam_from_world() * point.xyz)
        np.testing.assert_allclose(found, (result.cameras.K @ (in_cam[:3] / in_cam[2]))[:2], atol=0.01)
    places = np.stack([model.points3D[k + 1].xyz for k in range(len(result.scene_points))])
    colours = np.stack([model.points3D[k + 1].color for k in range(len(result.scene_points))])
    np.testing.assert_allclose(places, result.scene_points, atol=CLOSE)
    np.testing.assert_array_equal(colours, result.scene_rgb)


def test_evo_reads_trajectories(converted: Any) -> None:
    pytest.importorskip("evo")
    from evo.tools import file_interface

    result, folder, _ = converted
    valid = result.cameras.valid
    read = file_interface.read_tum_trajectory_file(folder / "tum" / "camera.tum")
    np.testing.assert_allclose(read.timestamps, result.cameras.timestamps[valid], atol=1e-8)
    np.testing.assert_allclose(np.stack(read.poses_se3), result.cameras.world_from_cam[valid], atol=CLOSE)
    for person, identity in enumerate(result.motion.ids):
        read = file_interface.read_tum_trajectory_file(folder / "tum" / f"person_{identity}.tum")
        here = result.motion.present[:, person]
        np.testing.assert_allclose(np.stack(read.poses_se3), result.world_from_body[here, person], atol=CLOSE)
        assert read.check()[0]


def test_table_of_joints(converted: Any) -> None:
    result, folder, _ = converted
    with (folder / "joints.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == result.motion.present.sum() * 24
    ids = result.motion.ids.tolist()
    for row in rows[:: len(rows) // 50]:
        frame, person, joint = int(row["frame"]), ids.index(int(row["person"])), SMPL_JOINTS.index(row["joint"])
        place = [float(row[key]) for key in ("x_m", "y_m", "z_m")]
        np.testing.assert_allclose(place, result.joints_world[frame, person, joint], atol=CLOSE)
        assert float(row["time_s"]) == pytest.approx(result.cameras.timestamps[frame], abs=1e-6)


def test_gaussians_pass_through(body: BodyModel, tmp_path: Path) -> None:
    folder = write_result(tmp_path / "r", make_result(body))
    ours = Gaussians(
        means=torch.randn(7, 3), quats=torch.nn.functional.normalize(torch.randn(7, 4), dim=-1),
        scales=torch.rand(7, 3) + 0.01, opacities=torch.rand(7), colors=torch.rand(7, 3),
    )  # fmt: skip
    write_gaussians(folder / "gaussians.ply", ours)
    assert convert(folder, ["3dgs"], tmp_path / "o")["formats"]["3dgs"]["gaussians"] == 7
    trimesh = pytest.importorskip("trimesh")
    means = trimesh.load(tmp_path / "o" / "gaussians.ply").vertices
    np.testing.assert_allclose(means, ours.means, atol=CLOSE)
    np.testing.assert_allclose(read_gaussians(tmp_path / "o" / "gaussians.ply").scales, ours.scales, rtol=1e-5)


# Clocks, gaps, refusals


def test_gap_is_filled_on_the_way_and_named(body: BodyModel, tmp_path: Path) -> None:
    source = Source(write_result(tmp_path / "r", make_result(body)), ConvertConfig())
    track = source.tracks[1]
    poses = track.at(source.times)
    np.testing.assert_array_equal(poses.present, source.result.motion.present[:, 1])
    before, after = source.result.world_from_body[[3, 7], 1, :3, 3]
    np.testing.assert_allclose(poses.world_from_body[5, :3, 3], (before + after) / 2, atol=1e-5)
    assert track.spans == [(0.0, pytest.approx(0.16)), (pytest.approx(0.28), np.inf)]


def test_spans_by_hand() -> None:
    flags, times = np.array([False, True, True, False, True]), np.array([0.0, 1, 3, 6, 10])
    assert spans_of(flags, times) == [(1.0, 6.0), (10.0, np.inf)]
    assert spans_of(np.zeros(5, bool), times) == []


@pytest.mark.parametrize(("fps", "frames"), [(0.0, FRAMES), (50.0, 27), (12.5, 7)])
def test_rate_of_choice(fps: float, frames: int, body: BodyModel, tmp_path: Path) -> None:
    source = Source(write_result(tmp_path / "r", make_result(body)), ConvertConfig(fps=fps))
    assert source.own_fps == pytest.approx(25)
    assert len(source.even_times) == frames


def test_rates_are_named_as_usual() -> None:
    assert [usual_rate(fps) for fps in (19.9999997, 29.9700301, 23.7)] == [20.0, 30 / 1.001, 23.7]


def test_result_without_a_camera_keeps_its_people(body: BodyModel, tmp_path: Path) -> None:
    result = make_result(body)
    result.cameras.valid[:] = False
    folder = write_result(tmp_path / "r", result)
    record = convert(folder, ["glb", "tum"], tmp_path / "o")
    assert (record["formats"]["glb"]["camera"], record["formats"]["glb"]["people"]) == (False, 3)
    assert "camera.tum" not in record["formats"]["tum"]["poses"]
    with pytest.raises(FootfallError, match="colmap: got no measured camera"):
        convert(folder, ["csv", "colmap"], tmp_path / "o2")
    assert not (tmp_path / "o2").exists()


def test_result_without_people(body: BodyModel, tmp_path: Path) -> None:
    result = make_result(body)
    result.motion.present[:] = False
    folder = write_result(tmp_path / "r", result)
    for name in ("bvh", "amass", "csv"):
        with pytest.raises(FootfallError, match=f"{name}: got nobody in any frame"):
            convert(folder, [name], tmp_path / "o")
    assert convert(folder, ["glb", "colmap", "tum"], tmp_path / "o")["formats"]["glb"]["people"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "glb,fbx"], "--to: got fbx; expected some of glb, bvh, usd, amass, colmap, tum, 3dgs, csv, rrd, "),
        (["--to", "3dgs"], "3dgs: got no gaussians.ply; expected a result with Gaussians"),
        (["--to", "csv", "fps=-1"], "fps: got -1.0; expected 0 (the result's own)"),
        (["--to", "csv", "body=SMPL.pkl"], "body: got 'SMPL.pkl'; expected smpl:FILE"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], says: str, body: BodyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_result(tmp_path / "r", make_result(body))
    assert main(["convert", str(folder), *words, "--out", str(tmp_path / "o")]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_is_there_is_not_overwritten(body: BodyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_result(tmp_path / "r", make_result(body))
    command = ["convert", str(folder), "--to", "tum,csv", "--out", str(tmp_path / "o")]
    assert main(command) == 0
    assert "tum: tum/camera.tum, tum/person_1.tum, tum/person_4.tum and 1 more" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "o" / "convert.json").read_text())["formats"]) == {"tum", "csv"}
    assert main(command) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err


def test_bodies_of_a_licensed_model_need_its_file(body: BodyModel, smpl_file: Path, tmp_path: Path) -> None:
    folder = write_result(tmp_path / "r", as_smpl(make_result(body), smpl_file))
    with pytest.raises(FootfallError, match=r"bodies of smpl: got body=nothing.*add body=smpl:FILE"):
        convert(folder, ["glb"], tmp_path / "o")
    convert(folder, ["csv", "tum", "colmap"], tmp_path / "o")  # these need no body


def test_time_that_stands_still(body: BodyModel, tmp_path: Path) -> None:
    result = make_result(body)
    result.cameras.timestamps = np.zeros(FRAMES)
    with pytest.raises(FootfallError, match="times that stand still or go back"):
        convert(write_result(tmp_path / "r", result), ["csv"], tmp_path / "o")


def test_usd_names_its_extra(body: BodyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str, *, extra: str) -> None:
        raise FootfallError(f"package {package}", got="none", expected=f"[{extra}]", do="install")

    monkeypatch.setattr("distill.convert.usd.require", missing)
    with pytest.raises(FootfallError, match=r"package pxr.*\[convert\]"):
        convert(write_result(tmp_path / "r", make_result(body)), ["usd"], tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_every_format_says_what_it_keeps() -> None:
    assert all(entry.convention and entry.lost for entry in FORMATS.values())
    page = (Path(__file__).resolve().parent.parent / "docs" / "convert.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []
