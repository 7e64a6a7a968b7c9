"""Turn Pose2Sim's calibrated demonstration (four fixed cameras, one person) into a manifest for `footfall label`.

python datasets/pose2sim/prepare_pose2sim.py --raw FOLDER --out data/pose2sim

FOLDER holds cam01.mp4 ... cam04.mp4 and Calib.qca.txt (Qualisys Track Manager, XML). Videos stay where they
are; the manifest names them and carries the lens and the pose of each camera.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import decord
import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import write_text

Array = NDArray[Any]
SUBPIXELS = 64
"""Qualisys counts lengths on the sensor in 64ths of a pixel."""
LICENCE = "BSD-3-Clause (Pose2Sim)"


def read_cameras(path: Path) -> dict[str, dict[str, Any]]:
    """Cameras of a Qualisys calibration: serial -> {size, intrinsics, world_from_cam}.

    Qualisys' camera looks along -z with y up, its rotation is stored as cam_from_world, positions are in
    millimetres, and the centre of the top-left pixel is at (0, 0). Ours looks along +z with y down, is stored
    as world_from_cam in metres, and has that centre at (0.5, 0.5).

    Raises:
        FootfallError: missing, or not such a file.
    """
    try:
        cameras = list(ElementTree.parse(path).getroot().iter("camera"))
        read = {str(camera.attrib["serial"]): _read_camera(camera) for camera in cameras}
    except (OSError, ElementTree.ParseError, KeyError, ValueError, AttributeError) as error:
        raise FootfallError(
            str(path), got=repr(error), expected="a calibration written by Qualisys Track Manager (.qca.txt)",
            do="check the folder after --raw",
        ) from error  # fmt: skip
    if not read:
        raise FootfallError(str(path), got="no camera in it", expected="at least one", do="check --raw")
    return read


def _read_camera(camera: ElementTree.Element) -> dict[str, Any]:
    field, lens, pose = (_numbers(camera, name) for name in ("fov_video", "intrinsic", "transform"))
    cam_from_world = np.array([[pose[f"r{row}{column}"] for column in (1, 2, 3)] for row in (1, 2, 3)])
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = cam_from_world.T @ np.diag([1.0, -1.0, -1.0])
    world_from_cam[:3, 3] = np.array([pose[axis] for axis in "xyz"]) / 1000
    distortion = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
    return {
        "size": [round(field["right"] - field["left"] + 1), round(field["bottom"] - field["top"] + 1)],
        "intrinsics": {
            "fx": lens["focalLengthU"] / SUBPIXELS,
            "fy": lens["focalLengthV"] / SUBPIXELS,
            "cx": lens["centerPointU"] / SUBPIXELS - field["left"] + 0.5,
            "cy": lens["centerPointV"] / SUBPIXELS - field["top"] + 0.5,
            "distortion": [lens[name] for name in distortion],
        },
        "world_from_cam": world_from_cam.tolist(),
    }


def _numbers(camera: ElementTree.Element, name: str) -> dict[str, float]:
    element = camera.find(name)
    if element is None:
        raise ValueError(f"no <{name}> in camera {camera.attrib['serial']}")
    return {key: float(value) for key, value in element.attrib.items()}


def fit_to_video(intrinsics: dict[str, Any], size: list[int], into: tuple[int, int]) -> dict[str, Any]:
    """Intrinsics of a calibrated picture that was scaled into a video, with bars above and below or at the sides.

    Two of the four videos were written again like this: 1088 columns became 1080, with 7 black rows at either end.
    """
    scale = min(into[0] / size[0], into[1] / size[1])
    left, top = ((video - scale * picture) / 2 for video, picture in zip(into, size, strict=True))
    return {
        "fx": scale * intrinsics["fx"],
        "fy": scale * intrinsics["fy"],
        "cx": scale * intrinsics["cx"] + left,
        "cy": scale * intrinsics["cy"] + top,
        "distortion": intrinsics["distortion"],
    }


def video_size(path: Path) -> tuple[int, int]:
    """Width and height of a video's first frame.

    Raises:
        FootfallError: it cannot be decoded.
    """
    try:
        height, width = decord.VideoReader(str(path), num_threads=1)[0].shape[:2]
    except (RuntimeError, decord.DECORDError) as error:
        raise FootfallError(str(path), got=error, expected="a video", do="copy it again") from error
    return width, height


def manifest_rows(raw: Path) -> list[dict[str, Any]]:
    """One row per camera of `raw/Calib.qca.txt`.

    Raises:
        FootfallError: the calibration or a camera's video is missing.
    """
    rows = []
    for serial, camera in read_cameras(raw / "Calib.qca.txt").items():
        video = raw / f"{serial}.mp4"
        if not video.is_file():
            raise FootfallError(f"camera {serial}", got=f"no {video}", expected="its video", do="check --raw")
        rows.append(
            {
                "id": f"pose2sim-{serial}",
                "path": str(video.resolve()),
                "licence": LICENCE,
                "source": "Pose2Sim, Demo_SinglePerson",
                "intrinsics": fit_to_video(camera["intrinsics"], camera["size"], video_size(video)),
                "world_from_cam": camera["world_from_cam"],
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Write the manifest; 0 when it is written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with the videos and Calib.qca.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for manifest.jsonl")
    args = parser.parse_args(arguments)
    try:
        rows = manifest_rows(args.raw)
        write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    except FootfallError as error:
        print(f"prepare_pose2sim: {error}", file=sys.stderr)
        return 2
    print(f"{len(rows)} cameras: {args.out / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
