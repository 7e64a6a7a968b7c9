"""Publishing labels: everything is checked before the first byte leaves; the index and the manifest go last.

A push that was cut off is gone on with by the same command: what is there already, by its hash, is not sent again.
Until the manifest arrives, readers there see the labels that were there before, or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from distill.files import read_json, sha256_of
from distill.shards.blurred import COPY_NAME, blurred_copy, clear_clips
from distill.shards.card import CARD_NAME, make_card
from distill.shards.manifest import MANIFEST_NAME, check_manifest
from distill.shards.rows import INDEX_NAME
from distill.shards.statistics import PAGE_NAME, PICTURES_NAME
from distill.shards.verify import verify

LAST: Final = (f"shards/{INDEX_NAME}", CARD_NAME, MANIFEST_NAME)
"""Sent last, in this order."""


@dataclass(kw_only=True)
class PublishConfig:
    """`footfall push` of labels."""

    private: bool = True
    """On the Hub: make the repository private. `false` publishes it; only then may an existing one be public."""
    clear_faces: bool = False
    """Upload frames as they are. Else faces are blurred: those that were not at ingest (`footfall label --blur-faces`)
    are in a copy of the labels, `DIR/blurred`, which is what is uploaded."""
    unknown_licences: bool = False
    """Also upload clips whose licence is unknown."""
    delete: bool = False
    """Delete shards at the target that never were in this folder (those that were, and are replaced, always go)."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file to be published."""

    name: str
    """Path below the target."""
    path: Path | None
    """On this disk; None for `data`."""
    data: bytes
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a push did."""

    url: str
    """Where the labels can be read from now: `find_shards` takes it."""
    where: str
    """For people."""
    sent: int
    """Files."""
    kept: int
    """Files that were there already."""
    deleted: int


def publish(out: Path, target: str, config: PublishConfig | None = None) -> Published:
    """Check a folder of labels and bring a target into agreement with it.

    Args:
        out: folder of labels.
        target: `hf://datasets/ORG/NAME` or `s3://BUCKET/PREFIX`.
        config: what may be sent.

    Raises:
        FootfallError: labels with faults, unknown licences, faces that cannot be blurred here, a target of another kind
            or with other labels, no right to write, out of reach.
    """
    settings = config or PublishConfig()
    kind = target.partition("://")[0]
    if kind not in ("hf", "s3"):
        raise FootfallError(
            f"push {out}", got=target, expected="hf://datasets/ORG/NAME or s3://BUCKET/PREFIX for labels",
            do="correct the target",
        )  # fmt: skip
    manifest = check_labels(out, settings)
    if not settings.clear_faces and (clear_clips(manifest) or (out / COPY_NAME / MANIFEST_NAME).is_file()):
        out = blurred_copy(out)
        manifest = check_labels(out, settings)
    files = list_files(out, manifest)
    if kind == "hf":
        from distill.shards.publish_hub import publish_hub

        return publish_hub(target, files, manifest, settings)
    from distill.shards.publish_s3 import publish_s3

    return publish_s3(target, files, manifest, settings)


def check_labels(out: Path, config: PublishConfig) -> dict[str, Any]:
    """The manifest of labels that may be published.

    Raises:
        FootfallError: what may not.
    """
    report = verify(str(out))
    if report.findings or report.older:
        got, how = f"{report.older} samples of an older schema version", "migrate"
        if report.findings:
            got, how = f"{report.findings[0].where}: {report.findings[0].what}", "repair"
        raise FootfallError(
            f"push {out}", got=got, expected="labels without a fault, of this schema version",
            do=f"run: footfall verify {out} {how}=true",
        )  # fmt: skip
    manifest = check_manifest(read_json(out / MANIFEST_NAME), str(out / MANIFEST_NAME))
    licences = {clip: row["licence"].strip().lower() for clip, row in manifest["clips"].items()}
    unknown = sorted(clip for clip, licence in licences.items() if licence in ("", "unknown"))
    if unknown and not config.unknown_licences:
        raise FootfallError(
            f"push {out}", got=f"{len(unknown)} clips without a licence, such as {unknown[0]}",
            expected="a licence for every clip",
            do="name it in the manifest of videos (column licence) and label again, or say unknown_licences=true if "
            "nobody else will read them",
        )  # fmt: skip
    return manifest


def list_files(out: Path, manifest: Mapping[str, Any]) -> list[File]:
    """Files to publish, in the order in which they go. Workspaces and withdrawals stay here."""
    files = [_known(out, f"shards/{row['name']}", row) for row in manifest["shards"]]
    for clip, row in sorted((manifest.get("gaussians") or {}).items()):
        files += [_known(out, f"gaussians/{clip}/{name}", facts) for name, facts in sorted(row["files"].items())]
    pictures = sorted((out / PICTURES_NAME).glob("*"))
    files += [_hashed(out, path) for path in [out / PAGE_NAME, *pictures] if path.is_file()]
    card = make_card(manifest).encode()
    made = {CARD_NAME: File(name=CARD_NAME, path=None, data=card, sha256=_sha256(card), bytes=len(card))}
    return [*files, *(made.get(name) or _hashed(out, out / name) for name in LAST)]


def _known(out: Path, name: str, facts: Mapping[str, Any]) -> File:
    return File(name=name, path=out / name, data=b"", sha256=facts["sha256"], bytes=facts["bytes"])


def _hashed(out: Path, path: Path) -> File:
    name = path.relative_to(out).as_posix()
    return File(name=name, path=path, data=b"", sha256=sha256_of(path), bytes=path.stat().st_size)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stale_files(
    target: str, there: Mapping[str, str], files: list[File], manifest: Mapping[str, Any], config: PublishConfig
) -> list[str]:
    """Names of labels at the target that are not in the folder any more: shards, Gaussians, pictures of the page.

    Args:
        target: for messages.
        there: name -> SHA-256 of what lies there.
        files: what shall lie there.
        manifest: of the folder; its `replaced` shards may go.
        config: whether others may go too.

    Raises:
        FootfallError: shards that never were in this folder: another folder's labels.
    """
    ours = {file.name for file in files}
    replaced = manifest.get("replaced") or {}
    gone = [name for name in sorted(there) if name.startswith(("shards/", "gaussians/", "statistics/"))]
    gone = [name for name in gone if name not in ours]
    current = {(f"shards/{row['name']}", row["sha256"]) for row in manifest["shards"]}
    strange = [
        name for name, digest in sorted(there.items())
        if name.startswith("shards/") and name.endswith(".tar")
        and replaced.get(name.removeprefix("shards/")) != digest and (name, digest) not in current
    ]  # fmt: skip
    if strange and not config.delete:
        raise FootfallError(
            f"push to {target}", got=f"{len(strange)} shards that never were in this folder, such as {strange[0]}",
            expected="an empty place, or an earlier push of this folder",
            do="choose another place, or say delete=true to replace what is there",
        )  # fmt: skip
    return gone
