"""The shards' contract, version 2: all that the teacher and the student share.

A shard is a tar file of samples. A sample is a chunk of at most `MAX_FRAMES` consecutive frames of one clip:

    KEY.json           meta: schema version, clip, first frame, provenance, quality (see `META_FIELDS`)
    KEY.safetensors    the arrays of `FIELDS`
    KEY.0000.jpg ...   frames, RGB
    KEY.0000.png ...   identity maps of the same frames: uint8, 0 background, k+1 person k

T frames, P people (constant within a sample). No pickle anywhere.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError
from distill.geometry.conventions import CONTACT_SITES, WORLDS

SCHEMA_VERSION: Final = 2
"""1: the first. 2: `source_id`, `consent` and `blurred` in the meta; `upgrade_meta` reads 1."""
MAX_FRAMES: Final = 32
MAX_PIXELS: Final = 64_000_000
"""No frame is larger; a larger one is refused before it is decompressed."""

Array = NDArray[Any]


@dataclass(kw_only=True, frozen=True)
class Field:
    """One array of a sample."""

    dtype: str
    shape: tuple[int | str, ...]
    """Numbers, or names: T frames, P people, B shape coefficients, h and w of the depth maps."""
    unit: str
    frame: str
    """Frame in which it is expressed, or "-"."""
    meaning: str


FIELDS: Final[dict[str, Field]] = {
    "timestamps": Field(dtype="float64", shape=("T",), unit="s", frame="-", meaning="time in the video"),
    "K": Field(dtype="float32", shape=(3, 3), unit="px", frame="camera", meaning="intrinsics of the frames"),
    "world_from_cam_quat": Field(
        dtype="float32", shape=("T", 4), unit="1", frame="world <- camera", meaning="wxyz"),
    "world_from_cam_trans": Field(
        dtype="float32", shape=("T", 3), unit="m", frame="world <- camera", meaning="camera centre"),
    "camera_valid": Field(dtype="bool", shape=("T",), unit="-", frame="-", meaning="measured, not filled in"),
    "present": Field(dtype="bool", shape=("T", "P"), unit="-", frame="-", meaning="person is seen"),
    "box_xyxy": Field(dtype="float32", shape=("T", "P", 4), unit="px", frame="image", meaning="bounding box"),
    "betas": Field(dtype="float32", shape=("P", "B"), unit="1", frame="-", meaning="shape coefficients"),
    "body_quat": Field(
        dtype="float32", shape=("T", "P", 23, 4), unit="1", frame="parent <- joint", meaning="wxyz"),
    "cam_from_body_quat": Field(
        dtype="float32", shape=("T", "P", 4), unit="1", frame="camera <- body", meaning="wxyz"),
    "cam_from_body_trans": Field(
        dtype="float32", shape=("T", "P", 3), unit="m", frame="camera <- body", meaning="pelvis"),
    "joints_cam": Field(dtype="float32", shape=("T", "P", 24, 3), unit="m", frame="camera", meaning="SMPL joints"),
    "contact_prob": Field(
        dtype="float32", shape=("T", "P", len(CONTACT_SITES)), unit="1", frame="-", meaning="CONTACT_SITES"),
    "stature": Field(dtype="float32", shape=("P",), unit="m", frame="-", meaning="standing height"),
    "frame_weight": Field(
        dtype="float32", shape=("T", "P"), unit="1", frame="-", meaning="trust in this label, 0 to 1"),
    "depth": Field(
        dtype="float16", shape=("T", "h", "w"), unit="m", frame="camera", meaning="z of the background, 0 unknown; "
        "h = w = 0 when the clip has none"),
}  # fmt: skip

META_FIELDS: Final = (
    "schema_version", "clip", "first_frame", "size", "body_model", "world", "source", "licence", "source_sha256",
    "teacher_commit", "config_hash", "weights", "quality", "source_id", "consent", "blurred",
)  # fmt: skip
"""Keys of KEY.json. `weights`: id -> {sha256, licence}; `quality`: {decision, weight, reasons}; `source_id`: who may
withdraw (`source_sha256` where nothing else is known); `consent`: notes; `blurred`: whether faces are."""

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,160}")


@dataclass(kw_only=True)
class Sample:
    """A chunk of a clip; frames and masks stay compressed until they are wanted."""

    key: str
    """Unique; letters, digits, '_' and '-' (a dot would end it)."""
    meta: dict[str, Any]
    arrays: dict[str, Array]
    frames: list[bytes] = field(default_factory=list)
    """T JPEG files."""
    masks: list[bytes] = field(default_factory=list)
    """T PNG files."""

    def image(self, index: int) -> Array:
        """[H, W, 3] uint8 RGB."""
        return _decode(self.frames[index], "RGB")

    def picture(self, index: int, wanted: tuple[int, int]) -> tuple[Image.Image, int]:
        """A frame for use at about `wanted` (width, height), and the factor 1, 2, 4 or 8 by which it is smaller.

        JPEG can be decoded at a fraction of its size, at a fraction of the cost; it never gets smaller than wanted.
        """
        image = _open(self.frames[index])
        size = image.size
        image.draft("RGB", wanted)
        factor = round(size[0] / image.width)
        return image.convert("RGB"), factor

    def frame_size(self, index: int) -> tuple[int, int]:
        """(width, height) in a frame's header."""
        return _open(self.frames[index]).size

    def mask_size(self, index: int) -> tuple[int, int]:
        """(width, height) in a mask's header."""
        return _open(self.masks[index]).size

    def mask(self, index: int) -> Array:
        """[H, W] uint8 identity map."""
        return _decode(self.masks[index], "L")


def _open(data: bytes) -> Image.Image:
    """A picture whose pixels are not decoded yet."""
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:  # the header alone tells the size
        raise ValueError(f"image of {image.size} pixels")
    return image


def _decode(data: bytes, mode: str) -> Array:
    with _open(data) as image:
        return np.asarray(image.convert(mode))


def check_sample(sample: Sample) -> None:
    """Raise `ValueError` naming the first thing that breaks the contract."""
    if not _KEY.fullmatch(sample.key):
        raise ValueError(f"key {sample.key!r}")
    missing = [name for name in META_FIELDS if name not in sample.meta]
    if missing:
        raise ValueError(f"meta without {missing[0]!r}")
    if sample.meta["world"] not in WORLDS:
        raise ValueError(f"world {sample.meta['world']!r}")
    _check_origin(sample.meta)
    if set(sample.arrays) != set(FIELDS):
        raise ValueError(f"arrays {sorted(set(sample.arrays) ^ set(FIELDS))} are missing or unknown")
    sizes: dict[str, int] = {}
    for name, rule in FIELDS.items():
        array = sample.arrays[name]
        if array.dtype != np.dtype(rule.dtype):
            raise ValueError(f"{name} is {array.dtype}, not {rule.dtype}")
        if array.ndim != len(rule.shape):
            raise ValueError(f"{name} has shape {array.shape}, not {rule.shape}")
        for length, wanted in zip(array.shape, rule.shape, strict=True):
            if length != (sizes.setdefault(wanted, length) if isinstance(wanted, str) else wanted):
                raise ValueError(f"{name} has shape {array.shape}, not {rule.shape} with {sizes}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    if not 1 <= sizes["T"] <= MAX_FRAMES:
        raise ValueError(f"{sizes['T']} frames")
    if not len(sample.frames) == len(sample.masks) == sizes["T"]:
        raise ValueError(f"{len(sample.frames)} frames and {len(sample.masks)} masks for T = {sizes['T']}")


def _check_origin(meta: dict[str, Any]) -> None:
    """Facts that withdrawal, splits and uploads rely on have the right kind."""
    for name in ("clip", "source", "source_id", "source_sha256", "licence", "consent", "teacher_commit"):
        if not isinstance(meta[name], str):
            raise ValueError(f"meta {name} is {type(meta[name]).__name__}, not text")
    for name in ("config_hash", "weights", "quality"):
        if not isinstance(meta[name], dict):
            raise ValueError(f"meta {name} is {type(meta[name]).__name__}, not a table")
    if not isinstance(meta["blurred"], bool) or not isinstance(meta["first_frame"], int) or meta["first_frame"] < 0:
        raise ValueError("meta blurred or first_frame")
    if not meta["clip"] or not meta["source_id"]:
        raise ValueError("meta without a clip or a source_id")


def upgrade_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Meta of this version from this one's or an older one's; arrays and pictures never changed.

    Version 1 did not say who may withdraw (its video alone then), nor anything of consent or blurred faces.

    Raises:
        FootfallError: a version that this release does not know.
    """
    version = meta["schema_version"]
    if version == 1:
        source_id = meta["source_sha256"] or meta["clip"]
        return {**meta, "schema_version": SCHEMA_VERSION, "source_id": source_id, "consent": "", "blurred": False}
    if version != SCHEMA_VERSION:
        raise FootfallError(
            f"shard sample of clip {meta.get('clip')}", got=f"schema version {version}",
            expected=f"version 1 to {SCHEMA_VERSION}", do="read it with a newer release, or pack the clips again",
        )  # fmt: skip
    return meta


def to_members(sample: Sample) -> dict[str, bytes]:
    """Tar members of a sample, in order: name -> bytes."""
    check_sample(sample)
    members = {
        f"{sample.key}.json": json.dumps(sample.meta, sort_keys=True, allow_nan=False).encode(),
        f"{sample.key}.safetensors": safetensors.numpy.save(
            {name: np.ascontiguousarray(sample.arrays[name]) for name in FIELDS}
        ),
    }
    for index, (frame, mask) in enumerate(zip(sample.frames, sample.masks, strict=True)):
        members[f"{sample.key}.{index:04d}.jpg"] = frame
        members[f"{sample.key}.{index:04d}.png"] = mask
    return members


def from_members(raw: dict[str, Any]) -> Sample:
    """A sample from what webdataset yields: "__key__", and extension -> bytes.

    Raises:
        FootfallError: a schema version that is not known (nothing in this shard can be read).
        ValueError: this sample is damaged.
    """
    try:
        meta = upgrade_meta(json.loads(raw["json"]))
        arrays = safetensors.numpy.load(raw["safetensors"])
        count = len(arrays["timestamps"])
        sample = Sample(
            key=raw["__key__"],
            meta=meta,
            arrays={name: arrays[name] for name in arrays},
            frames=[raw[f"{k:04d}.jpg"] for k in range(count)],
            masks=[raw[f"{k:04d}.png"] for k in range(count)],
        )
    except FootfallError:
        raise
    except Exception as error:  # whatever a damaged file makes the parsers raise
        raise ValueError(f"{raw.get('__key__')}: {type(error).__name__}: {error}") from error
    check_sample(sample)
    return sample
