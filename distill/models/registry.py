"""Which backbones there are, under which licence, and how each is built.

To add one, write a function `build(entry, revision) -> Backbone` and put an `Entry` into `BACKBONES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distill.errors import FootfallError, require
from distill.files import read_json, sha256_of
from distill.models.backbones import Backbone, Preprocessing, Provenance
from distill.models.da3.config import PATCH, is_da3
from distill.models.da3.files import load_da3
from distill.models.da3.model import IMAGENET_MEAN, IMAGENET_STD
from distill.models.mast3r import Mast3r, Mast3rConfig, initialise
from distill.models.mast3r_files import load_mast3r, model_from_weights, read_weights
from distill.models.torch_files import find_weights

WEIGHTS_DIR: Final = Path(__file__).parent / "weights"
TINY_WEIGHTS: Final = WEIGHTS_DIR / "tiny_backbone.safetensors"
"""Shipped weights of `tiny`; the JSON file beside them says how they were made."""

TINY: Final = Mast3rConfig(
    enc_dim=144,
    enc_depth=5,
    enc_heads=3,
    dec_dim=96,
    dec_depth=4,
    dec_heads=3,
    hooks=(0, 2, 3, 4),
    dpt_dim=24,
    dpt_last_dim=16,
    dpt_layer_dims=(16, 24, 32, 48),
    descriptor_dim=0,
    long_side=224,
)
"""MASt3R's architecture at 2.9 M parameters. One CPU core at 224x128: 5 ms to encode a frame,
7 ms to decode a pair, 15 ms more for the points of both views."""

_COMMIT: Final = re.compile("[0-9a-f]{40}")

TINY_SEED: Final = 0
"""Seed of the initialisation that `tiny` falls back to when no weights are shipped."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One backbone that can be asked for by name."""

    name: str
    build: Callable[[Entry, str | None], Backbone]
    licence: str
    """Licence of the weights, as an SPDX identifier."""
    terms: str
    """What the licence and those of the weights' origins mean for a student that is trained on them."""
    source: str
    """One line for people: what it is and where it comes from."""
    preprocessing: Preprocessing
    hub_id: str | None = None
    """Repository on the Hub, if the weights are there."""
    revision: str | None = None
    """Pinned commit on the Hub."""
    sha256: str | None = None
    """Of the weights file at that revision; a file that differs is refused."""


def build_tiny(entry: Entry, revision: str | None) -> Backbone:
    """The shipped weights if there are any, else the seeded initialisation (its provenance says so)."""
    if TINY_WEIGHTS.is_file():
        model = model_from_weights(TINY, read_weights(TINY_WEIGHTS), TINY_WEIGHTS.name)
        digest = sha256_of(TINY_WEIGHTS)
        _check_hash(str(TINY_WEIGHTS), digest, read_json(TINY_WEIGHTS.with_suffix(".json"))["sha256"])
    else:
        model = Mast3r(TINY)
        initialise(model, TINY_SEED)
        digest = f"seed:{TINY_SEED}"
    model.provenance = Provenance(id=entry.name, revision=None, sha256=digest, licence=entry.licence)
    return model


def build_published(entry: Entry, revision: str | None) -> Backbone:
    """A checkpoint with official files (MASt3R's or Depth Anything 3's), from the Hub's cache or the Hub."""
    assert entry.hub_id is not None
    folder, commit = _hub_folder(entry.hub_id, revision or entry.revision)
    digest = sha256_of(find_weights(folder))
    if entry.sha256 is not None and commit == entry.revision:
        _check_hash(f"{entry.hub_id} model.safetensors", digest, entry.sha256)
    model = load_folder(folder)
    model.provenance = Provenance(id=entry.name, revision=commit, sha256=digest, licence=entry.licence)
    return model


def load_folder(folder: Path) -> Backbone:
    """A folder of official files; its `config.json`, if it has one, says of which network.

    Raises:
        FootfallError: missing or damaged files, an unknown network, weights that do not fit.
    """
    words = folder / "config.json"
    return load_da3(folder) if words.is_file() and is_da3(read_json(words)) else load_mast3r(folder)


_DA3_PREPROCESSING: Final = Preprocessing(long_side=504, multiple=PATCH, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_DA3_TERMS: Final = "commercial use allowed if the licence and notices go along; so are its code and DINOv2"

BACKBONES: Final = {
    entry.name: entry
    for entry in (
        Entry(
            name="tiny",
            build=build_tiny,
            licence="Apache-2.0",
            terms="commercial use allowed; trained on synthetic worlds only",
            source="MASt3R's architecture at 3 M parameters, trained by footfall on synthetic worlds; shipped",
            preprocessing=Preprocessing(long_side=TINY.long_side, multiple=16),
        ),
        Entry(
            name="mast3r",
            build=build_published,
            licence="CC-BY-NC-SA-4.0",
            terms="no commercial use; share alike; further terms of its training sets apply",
            source="MASt3R ViT-L metric",
            preprocessing=Preprocessing(long_side=512, multiple=16),
            hub_id="naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
            revision="06e7259f34c3060f322df5cb0c7b9094f57e41fc",
            sha256="0a615eb05fa9db654050aa655945ee5696e7c6c1b7f93f1ee8c37249010f6feb",
        ),
        # Revisions and hashes of Depth Anything 3 were not read on the Hub but in lock files of independent public
        # projects that agree; file sizes and config.json follow from our code to the byte (tests/test_da3.py).
        Entry(
            name="da3-base",
            build=build_published,
            licence="Apache-2.0",
            terms=_DA3_TERMS,
            source="Depth Anything 3 base, 135 M parameters, points of unknown scale",
            preprocessing=_DA3_PREPROCESSING,
            hub_id="depth-anything/DA3-BASE",
            revision="f4a6c9b3c95e41c82048423d3493a81ec3fa810e",
            sha256="e01067dc1659613083d9145a9a2547ccdbe6ccbbf83c4fe7b3e8a4e2bdae78b5",
        ),
        Entry(
            name="da3-small",
            build=build_published,
            licence="Apache-2.0",
            terms=_DA3_TERMS,
            source="Depth Anything 3 small, 34 M parameters, points of unknown scale",
            preprocessing=_DA3_PREPROCESSING,
            hub_id="depth-anything/DA3-SMALL",
            revision="e08cab65ca0ec38e7826075418411ab90cab4da3",
            sha256="364492e38a3a06d221ac75da7f6621ada3f2361cd24fde11ba79091e9f40efcf",
        ),
    )
}
"""Registered backbones by name."""


def list_backbones() -> list[str]:
    """Names that `load_backbone` knows, besides `timm:MODEL`, Hub ids and folders."""
    return sorted(BACKBONES)


def build(name: str, revision: str | None) -> Backbone:
    """See `backbones.load_backbone`."""
    if name in BACKBONES:
        entry = BACKBONES[name]
        return entry.build(entry, revision)
    if name.startswith("timm:"):
        from distill.models.timm_backbone import build_timm

        return build_timm(name, revision)
    folder = Path(name)
    if folder.is_dir():
        model = load_folder(folder)
        digest = sha256_of(find_weights(folder))
        model.provenance = Provenance(id=name, revision=None, sha256=digest, licence=licence_of(digest))
        return model
    if name.count("/") == 1 and not folder.is_absolute() and not name.startswith("."):
        return _build_repository(name, revision)
    raise FootfallError(
        f"backbone {name!r}", got="unknown", expected=f"one of {list_backbones()}, timm:MODEL, ORG/NAME or a folder",
        do="check the name",
    )  # fmt: skip


def licence_of(sha256: str) -> str:
    """Licence of a weights file by its hash: "unknown" unless it is one of the registry's."""
    return next((entry.licence for entry in BACKBONES.values() if entry.sha256 == sha256), "unknown")


def _build_repository(repository: str, revision: str | None) -> Backbone:
    """A repository on the Hub that is not registered: its hash is recorded, nobody knows what it should be."""
    folder, commit = _hub_folder(repository, revision)
    digest = sha256_of(find_weights(folder))
    model = load_folder(folder)
    model.provenance = Provenance(id=repository, revision=commit, sha256=digest, licence=licence_of(digest))
    return model


def _check_hash(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise FootfallError(what, got=f"sha256 {got}", expected=expected, do="restore or download the file again")


def _hub_folder(repository: str, revision: str | None) -> tuple[Path, str | None]:
    """Folder and commit of a snapshot in the Hub's cache, downloaded if it may be (HF_HUB_OFFLINE forbids it)."""
    hub = require("huggingface_hub", extra="dev")
    try:
        patterns = ["config.json", "model.safetensors"]
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        pinned = f" --revision {revision}" if revision else ""
        raise FootfallError(
            f"backbone {repository}", got=type(error).__name__, expected="config.json and model.safetensors",
            do=f"go online and run: hf download {repository}{pinned}; or give a folder that holds both files",
        ) from error  # fmt: skip
    # The cache names a snapshot by its commit, also where a branch or a tag was asked for.
    return folder, folder.name if _COMMIT.fullmatch(folder.name) else revision
