"""Features of the frozen backbone, kept on disk so that later epochs and runs need not compute them again.

    DIR/IDENTITY/ab/abcdef....features      crc32 of what follows (4 bytes), then safetensors

One entry per frame (`features`, the encoder's tokens) and one per ordered pair of frames (`tokens_a`, `tokens_b`: the
last decoder layer; `points_a`: thinned points of view a, if the losses read them), all float16. An entry's name is a
hash of the picture file, the network size and whether it is mirrored, so equal frames share it and changed ones never
meet it. IDENTITY is a hash of the backbone's weights, its preprocessing and its precision: another backbone finds other
entries. A damaged entry counts as missing and is written again.

The cache refuses to grow beyond its budget and forgets nothing by itself: training reads everything once per epoch,
and an order of last use would throw each entry away just before it is wanted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from distill.models.backbones import Backbone

PREPROCESSING_VERSION: Final = 2
"""Raised whenever `window.make_window` turns the same picture file into other pixels."""

SUFFIX: Final = ".features"
_CRC_BYTES: Final = 4

log = logging.getLogger(__name__)


def identity_of(backbone: Backbone, *, precision: str, points: bool) -> dict[str, Any]:
    """All that decides what a backbone makes of given pixels.

    Args:
        backbone: with its provenance (weights' hash) and preprocessing.
        precision: of the computation, in accelerate's words ("no", "bf16", "fp16").
        points: whether entries of pairs hold points.
    """
    return {
        "backbone": asdict(backbone.provenance),
        "preprocessing": asdict(backbone.preprocessing),
        "version": PREPROCESSING_VERSION,
        "precision": precision,
        "points": points,
    }


class FeatureCache:
    """Reads and writes entries below one folder. Copies in reading processes only read."""

    def __init__(self, folder: Path, budget_gb: float, identity: Mapping[str, Any], *, writers: int = 1) -> None:
        """Open or create a cache.

        Args:
            folder: may be shared by runs and by backbones; the budget is for all of them together.
            budget_gb: 1e9 bytes.
            identity: `identity_of` the backbone.
            writers: processes that write at the same time; each may use an equal part of what is left.
        """
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(folder) / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        self.left = max(0, int(budget_gb * 1e9) - _bytes_below(Path(folder))) // writers
        """Bytes that this process may still write."""
        self.full = False
        """Whether an entry was refused for want of room."""
        self.points = bool(identity["points"])

    @staticmethod
    def frame_key(picture: bytes, size: tuple[int, int], *, mirrored: bool) -> str:
        """Name of a frame's entry: picture file, network (width, height), plain or mirrored."""
        digest = hashlib.sha256(picture)
        digest.update(f"|{size[0]}x{size[1]}|{mirrored}".encode())
        return digest.hexdigest()

    @staticmethod
    def pair_key(frame_a: str, frame_b: str) -> str:
        """Name of the entry of an ordered pair of frames."""
        return hashlib.sha256(f"{frame_a}>{frame_b}".encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """One entry, or None if it is missing or damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        if zlib.crc32(data[_CRC_BYTES:]).to_bytes(_CRC_BYTES, "little") != data[:_CRC_BYTES]:
            log.warning("feature cache: entry %s is damaged and will be computed again", key[:12])
            return None
        try:
            return load(data[_CRC_BYTES:])
        except SafetensorError:  # four zero bytes are the checksum of nothing
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors as float16, atomically, unless that would exceed the budget or they do not fit float16."""
        halves = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in tensors.items()}
        if not all(torch.isfinite(half).all() for half in halves.values()):
            return
        data = save(halves)
        if len(data) + _CRC_BYTES > self.left:
            self._refuse()
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        # Not `files.atomic_path`: an entry lost in a power cut is only missing, so nothing waits for the disk.
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(zlib.crc32(data).to_bytes(_CRC_BYTES, "little") + data)
            Path(temporary).replace(path)
        except OSError as error:  # a full disk must not end a run that can do without
            Path(temporary).unlink(missing_ok=True)
            log.warning("feature cache: %s", error)
            self.left = 0
            return
        self.left -= len(data) + _CRC_BYTES

    def read_window(self, keys: Sequence[str]) -> dict[str, Tensor] | None:
        """Everything for a window of V frames, or None if any of it is missing.

        Returns:
            `features` [V, N, C]; with Q = V (V - 1) / 2 pairs in the order of `itertools.combinations`:
            `pair_tokens` [Q, 2, N, D], and `pair_points` [Q, h, w, 3] if this cache holds points. All float16.
        """
        frames, pairs = [], []
        for key in keys:
            if (entry := self.read(key)) is None:
                return None
            frames.append(entry["features"])
        for a, b in combinations(keys, 2):
            if (entry := self.read(self.pair_key(a, b))) is None:
                return None
            pairs.append(entry)
        found = {
            "features": torch.stack(frames),
            "pair_tokens": torch.stack([torch.stack((pair["tokens_a"], pair["tokens_b"])) for pair in pairs]),
        }
        if self.points:
            found["pair_points"] = torch.stack([pair["points_a"] for pair in pairs])
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _refuse(self) -> None:
        if not self.full:
            log.warning("feature cache %s: the budget is used up; what is missing is computed each time", self.folder)
        self.full = True


def _bytes_below(folder: Path) -> int:
    """Size of all entries, of every backbone."""
    return sum(path.stat().st_size for path in folder.glob(f"*/*/*{SUFFIX}"))
