"""Turn EMDB's sequences into clip folders, a manifest for `footfall label` and truth for `footfall evaluate`.

python datasets/emdb/prepare_emdb.py --raw EMDB --smpl SMPL --out data/emdb --subset emdb2

EMDB holds P0 ... P9 as unpacked, SMPL the body files SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}. Without --smpl there is no
truth, only frames and splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.files import write_text
from distill.image_targets import write_image_target
from distill.metrics.renders import neuman_split
from distill.results import Result, save_result
from teacher.readers.outside import array_of
from teacher.readers.pickled import load_pickled
from teacher.targets import check_projection, link_frames, load_gendered, manifest_row, true_person, true_result

Array = NDArray[Any]
FPS = 30.0
LICENCE = "EMDB: research only, not to be passed on"
LEAST_FRAMES = 10
"""Fewer cannot be split."""
WORST = 0.002
"""Largest median distance of projected joints from the file's own, as a share of the diagonal (4.8 px of 1440 x 1920),
before the conventions are doubted."""
JOINTGS = (
    "P0_08_outdoor_remove_jacket", "P1_16_outdoor_warmup", "P2_23_outdoor_hug_tree", "P3_31_outdoor_workout",
    "P4_34_mvs_a", "P5_39_mvs_b", "P6_48_outdoor_walk_downhill", "P7_61_outdoor_sit_lie_walk", "P8_62_mvs_a",
    "P9_72_outdoor_jump",
)  # fmt: skip
"""The sequences of JOintGS (arXiv 2602.04317, launch script); the paper takes the first 200 frames of each."""
SUBSETS = ("all", "emdb1", "emdb2", "jointgs")


def find_sequences(raw: Path, subset: str) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and content of the pickle of every sequence in a subset.

    Raises:
        FootfallError: there is none, or a file is not what dataset.md of EMDB describes.
    """
    found = []
    for file in sorted(raw.glob("P[0-9]/*/*_data.pkl")):
        data = load_pickled(file)
        if not isinstance(data, Mapping) or not {"name", "emdb1", "emdb2", "camera", "smpl"} <= set(data):
            raise FootfallError(str(file), got="other content", expected="an annotation of EMDB", do="unpack it again")
        if subset == "all" or (data["name"] in JOINTGS if subset == "jointgs" else bool(data[subset])):
            found.append((file.parent, dict(data)))
    if not found:
        raise FootfallError(
            f"--raw {raw}", got=f"no sequence of the subset {subset}", expected="P0 ... P9 with *_data.pkl",
            do="check the folder",
        )  # fmt: skip
    return found


def read_sequence(data: Mapping[str, Any], where: str, limit: int | None) -> dict[str, Array]:
    """The arrays of one annotation, checked, for the first `limit` frames.

    Raises:
        FootfallError: one is missing or has another shape.
    """
    total = int(data["n_frames"])
    smpl, camera = data["smpl"], data["camera"]
    arrays = {
        "extrinsics": array_of(where, camera, "extrinsics", (total, 4, 4)),
        "root": array_of(where, smpl, "poses_root", (total, 3)),
        "body": array_of(where, smpl, "poses_body", (total, 69)),
        "trans": array_of(where, smpl, "trans", (total, 3)),
        "good": array_of(where, data, "good_frames_mask", (total,)),
        "kp2d": array_of(where, data, "kp2d", (total, 24, 2)),
    }
    count = total if limit is None else min(limit, total)
    if count < LEAST_FRAMES:
        raise FootfallError(where, got=f"{count} frames", expected=f"{LEAST_FRAMES} or more", do="leave it out")
    arrays = {name: array[:count] for name, array in arrays.items()}
    arrays["betas"] = array_of(where, smpl, "betas", (10,))
    arrays["K"] = array_of(where, camera, "intrinsics", (3, 3)) + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return arrays


def truth_of(arrays: Mapping[str, Array], body: BodyModel, size: tuple[int, int], where: str) -> Result:
    """The sequence as a result, in the world of its first camera.

    Raises:
        FootfallError: the joints do not project onto the file's own.
    """
    good = arrays["good"].astype(bool)
    person = true_person(
        body, betas=arrays["betas"], root=arrays["root"], pose=arrays["body"], transl=arrays["trans"], present=good
    )
    truth = true_result(
        [person], body_model="smpl", K=arrays["K"], size=size, timestamps=np.arange(len(good)) / FPS,
        cam_from_world=arrays["extrinsics"].astype(np.float64), meta={"clip": where, "source": "EMDB"},
    )  # fmt: skip
    check_projection(
        truth.motion.joints_cam[:, 0], arrays["K"], arrays["kp2d"], good, most=WORST * float(np.hypot(*size)),
        where=where, do="check that --smpl holds the files of this gender; if it does, EMDB's conventions have changed",
    )  # fmt: skip
    return truth


def copy_masks(folder: Path, masks: Path, name: str, count: int) -> None:
    """Write identity maps from the user's masks `MASKS/NAME/%05d.png` (above 0: the person).

    Raises:
        FootfallError: a mask is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        source = masks / name / f"{index:05d}.png"
        if not source.is_file():
            raise FootfallError(str(source), got="no such mask", expected=f"{count} of them", do="check --masks")
        with Image.open(source) as image:
            Image.fromarray((np.asarray(image.convert("L")) > 0).astype(np.uint8)).save(folder / f"{index:06d}.png")


def compare_with_protocol(names: set[str]) -> str:
    """How the sequences with the flag emdb2 compare with the list that the peers share (`recipe.yaml`)."""
    listed = {str(name) for name in OmegaConf.load(Path(__file__).parent / "recipe.yaml").protocol.emdb2}
    missing, more = sorted(listed - names), sorted(names - listed)
    parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"not in the list: {', '.join(more)}"] * bool(more)
    return (
        f"emdb2: {len(listed & names)} of the protocol's {len(listed)} sequences; {'; '.join(parts) or 'all of them'}"
    )


def prepare(args: argparse.Namespace) -> int:
    """Write all clips of the subset and the manifest; returns how many."""
    rows = []
    sequences = find_sequences(args.raw, args.subset)
    if args.subset == "emdb2":
        print(compare_with_protocol({str(data["name"]) for _, data in sequences}))
    for folder, data in sequences:
        name = str(data["name"])
        arrays = read_sequence(data, name, args.frames)
        count, out = len(arrays["trans"]), args.out / name
        size = link_frames(out / "frames", [folder / "images" / f"{index:05d}.jpg" for index in range(count)])
        if args.masks is not None:
            copy_masks(out / "masks", args.masks, name, count)
        write_image_target(
            out, parts=neuman_split(count), rule=f"NeuMan's, of the first {count} frames",
            mask_source="none" if args.masks is None else f"the user's ({args.masks})",
        )  # fmt: skip
        if args.smpl is not None:
            body = load_gendered(args.smpl, "smpl", str(data["gender"]))
            save_result(out / "truth", truth_of(arrays, body, size, name))
        rows.append(manifest_row(name, arrays["K"], licence=LICENCE, source="EMDB", fps=FPS))
        print(f"{name}: {count} frames, {int(arrays['good'].sum())} good")
    write_text(args.out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the clips; 0 when all are written, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with P0 ... P9")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.jsonl")
    parser.add_argument("--smpl", type=Path, help="folder with SMPL_{FEMALE,MALE,NEUTRAL}.{npz,pkl}, for the truth")
    parser.add_argument("--masks", type=Path, help="your masks of the person: NAME/%%05d.png")
    parser.add_argument("--subset", choices=SUBSETS, default="all", help="which sequences")
    parser.add_argument("--frames", type=int, help="only the first so many of each")
    args = parser.parse_args(arguments)
    try:
        print(f"{prepare(args)} clips: {args.out / 'manifest.jsonl'}")
    except FootfallError as error:
        print(f"prepare_emdb: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
