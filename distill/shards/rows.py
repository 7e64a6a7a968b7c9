"""The index: one row per sample, `shards/index.jsonl`, in the order of the shards.

A row says where a sample lies (shard, offset, bytes, SHA-256 of those bytes), where it came from, and the few numbers
that statistics are made of. It is a pure function of the sample and its place, so an index can be made again from the
shards. One JSON object a line, keys sorted: it is read line by line, however long it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import atomic_path
from distill.shards.schema import Sample

INDEX_NAME: Final = "index.jsonl"
MAX_LINE_BYTES: Final = 1 << 20


@dataclass(kw_only=True)
class Row:
    """One sample."""

    key: str
    shard: str
    """File name."""
    offset: int
    """Of the sample's first tar header in the shard, bytes."""
    bytes: int
    """Of the sample in the shard, tar headers and padding included."""
    sha256: str
    """Of these bytes."""
    clip: str
    first_frame: int
    frames: int
    start_s: float
    end_s: float
    """Times of the first and the last frame in the video."""
    source: str
    source_id: str
    source_sha256: str
    licence: str
    blurred: bool
    decision: str
    weight: float
    """Quality, as in the sample's meta."""
    weights: list[str]
    """Networks with a part in the label; the manifest's clip has their hashes and licences."""
    people: int
    """Persons with a label, seen or not."""
    stature_m: list[float]
    """Standing heights."""
    speed_mps: float
    """Mean speed over ground of the people while they are seen, m/s."""
    camera_mps: float
    """Mean speed of the camera, m/s."""
    camera_dps: float
    """Mean turning of the camera, degrees per second."""


_TYPES: Final = {field.name: field.type for field in fields(Row)}
_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "str": str, "int": int, "float": (int, float), "bool": bool, "list[str]": list, "list[float]": list,
}  # fmt: skip


def make_row(sample: Sample, *, shard: str, offset: int, piece: bytes) -> Row:
    """The row of a sample whose tar blocks `piece` lie at `offset` of `shard`."""
    meta, arrays = sample.meta, sample.arrays
    seconds = float(arrays["timestamps"][-1] - arrays["timestamps"][0])
    centres = arrays["world_from_cam_trans"].astype(np.float64)
    return Row(
        key=sample.key, shard=shard, offset=offset, bytes=len(piece), sha256=hashlib.sha256(piece).hexdigest(),
        clip=meta["clip"], first_frame=meta["first_frame"], frames=len(arrays["timestamps"]),
        start_s=float(arrays["timestamps"][0]), end_s=float(arrays["timestamps"][-1]), source=meta["source"],
        source_id=meta["source_id"], source_sha256=meta["source_sha256"], licence=meta["licence"],
        blurred=meta["blurred"], decision=str(meta["quality"].get("decision", "")),
        weight=float(meta["quality"].get("weight", 1.0)), weights=sorted(meta["weights"]),
        people=len(arrays["stature"]), stature_m=[round(float(value), 3) for value in arrays["stature"]],
        speed_mps=_rounded(_people_speed(arrays)),
        camera_mps=_rounded(float(np.linalg.norm(np.diff(centres, axis=0), axis=-1).sum()) / seconds if seconds else 0),
        camera_dps=_rounded(_turned_deg(arrays["world_from_cam_quat"]) / seconds if seconds else 0),
    )  # fmt: skip


def _people_speed(arrays: dict[str, NDArray[Any]]) -> float:
    """Mean speed of the pelvis in the world, over people and pairs of frames in which they are seen, m/s."""
    rotation = _matrices(arrays["world_from_cam_quat"])
    pelvis = np.einsum("tij,tpj->tpi", rotation, arrays["joints_cam"][:, :, 0].astype(np.float64))
    pelvis += arrays["world_from_cam_trans"][:, None]
    both = arrays["present"][1:] & arrays["present"][:-1]
    seconds = np.diff(arrays["timestamps"])[:, None]
    steps = np.linalg.norm(np.diff(pelvis, axis=0), axis=-1)
    good = both & (seconds > 0)
    return float((steps / np.where(seconds > 0, seconds, 1))[good].mean()) if good.any() else 0.0


def _turned_deg(quat: NDArray[Any]) -> float:
    """Sum of the angles between consecutive rotations [T, 4] wxyz, degrees."""
    dots = np.abs((quat[1:].astype(np.float64) * quat[:-1]).sum(-1))
    return float(np.degrees(2 * np.arccos(np.clip(dots, 0, 1))).sum())


def _matrices(quat: NDArray[Any]) -> NDArray[Any]:
    """Rotations [T, 3, 3] of unit quaternions [T, 4] wxyz."""
    w, x, y, z = np.moveaxis(quat.astype(np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _rounded(value: float) -> float:
    return round(value, 4)


def write_index(path: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """Write an index atomically; returns its facts for the manifest: name, rows, bytes, sha256."""
    digest, count, size = hashlib.sha256(), 0, 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for row in rows:
            line = json.dumps(asdict(row), sort_keys=True, allow_nan=False).encode() + b"\n"
            stream.write(line)
            digest.update(line)
            count, size = count + 1, size + len(line)
    return {"name": path.name, "rows": count, "bytes": size, "sha256": digest.hexdigest()}


def read_index(readline: Callable[[int], bytes], where: str) -> Iterator[Row]:
    """Rows of an index, checked one by one; `readline` gives the next line, of at most so many bytes.

    Raises:
        FootfallError: a line that is no row.
    """
    number = 0
    while line := readline(MAX_LINE_BYTES):
        number += 1
        try:
            yield _row(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise FootfallError(
                f"index {where} line {number}", got=error, expected="one row per sample",
                do="run: footfall verify DIR repair=true",
            ) from None  # fmt: skip


def _row(values: Any) -> Row:
    row = Row(**values)
    for name, kind in _TYPES.items():
        value = getattr(row, name)
        if not isinstance(value, _KINDS[str(kind)]) or (isinstance(value, bool) and kind != "bool"):
            raise ValueError(f"{name} is {value!r}")
    if row.offset < 0 or row.bytes <= 0 or row.frames < 1:
        raise ValueError("an offset, size or number of frames that cannot be")
    return row
