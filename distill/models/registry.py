"""Which backbones there are, under which licence, and how each is built.

To add one, write a function `build(entry, revision) -> Backbone` and put an `Entry` into `BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distill.errors import FootfallError, require
from distill.files import read_json, sha256_of
from distill.models.backbones import Backbone, Preprocessing, Provenance
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

TINY_SEED: Final = 0
"""Seed of the initialisation that `tiny` falls back to when no weights are shipped."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One backbone that can be asked for by name."""

    name: str
    build: Callable[[Entry, str | None], Backbone]
    licence: str
    """Licence of the weights."""
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


def build_mast3r(entry: Entry, revision: str | None) -> Backbone:
    """A checkpoint with MASt3R's official files, from the Hub's cache or the Hub."""
    assert entry.hub_id is not None
    pinned = revision or entry.revision
    folder = _hub_folder(entry.hub_id, pinned)
    digest = sha256_of(folder / "model.safetensors")
    if entry.sha256 is not None and pinned == entry.revision:
        _check_hash(f"{entry.hub_id} model.safetensors", digest, entry.sha256)
    model = load_mast3r(folder)
    model.provenance = Provenance(id=entry.name, revision=pinned, sha256=digest, licence=entry.licence)
    return model


BACKBONES: Final = {
    entry.name: entry
    for entry in (
        Entry(
            name="tiny",
            build=build_tiny,
            licence="Apache-2.0",
            source="MASt3R's architecture at 3 M parameters, trained by footfall on synthetic worlds; shipped",
            preprocessing=Preprocessing(long_side=TINY.long_side, multiple=16),
        ),
        Entry(
            name="mast3r",
            build=build_mast3r,
            licence="CC-BY-NC-SA-4.0",
            source="MASt3R ViT-L metric, non-commercial, further terms of its training sets apply",
            preprocessing=Preprocessing(long_side=512, multiple=16),
            hub_id="naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
            revision="06e7259f34c3060f322df5cb0c7b9094f57e41fc",
            sha256="0a615eb05fa9db654050aa655945ee5696e7c6c1b7f93f1ee8c37249010f6feb",
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
        model = load_mast3r(folder)
        digest = sha256_of(find_weights(folder))
        model.provenance = Provenance(id=name, revision=None, sha256=digest, licence="unknown")
        return model
    if name.count("/") == 1 and not folder.is_absolute() and not name.startswith("."):
        preprocessing = Preprocessing(long_side=512, multiple=16)
        source = "a repository with MASt3R's official files"
        entry = Entry(
            name=name, build=build_mast3r, licence="unknown", source=source, preprocessing=preprocessing, hub_id=name
        )
        return build_mast3r(entry, revision)
    raise FootfallError(
        f"backbone {name!r}", got="unknown", expected=f"one of {list_backbones()}, timm:MODEL, ORG/NAME or a folder",
        do="check the name",
    )  # fmt: skip


def _check_hash(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise FootfallError(what, got=f"sha256 {got}", expected=expected, do="restore or download the file again")


def _hub_folder(repository: str, revision: str | None) -> Path:
    """Folder of a snapshot in the Hub's cache, downloaded if it may be (HF_HUB_OFFLINE forbids it)."""
    hub = require("huggingface_hub", extra="dev")
    try:
        return Path(
            hub.snapshot_download(repository, revision=revision, allow_patterns=["config.json", "model.safetensors"])
        )
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise FootfallError(
            f"backbone {repository}", got=type(error).__name__, expected="config.json and model.safetensors",
            do="go online once, or give a folder that holds both files",
        ) from error  # fmt: skip
