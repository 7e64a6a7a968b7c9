"""Which shards there are: folders, globs, URLs, and the manifest that counts what is in them."""

from __future__ import annotations

import glob
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import webdataset as wds

from distill.errors import FootfallError
from distill.files import read_json
from distill.shards.manifest import MANIFEST_NAME, check_manifest
from distill.shards.remote import open_url, shown
from distill.untrusted import MAX_JSON_BYTES, parse_json

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ShardSet:
    """Shards to read, and how many samples are in them if a manifest says so."""

    urls: list[str]
    samples: int | None
    """Total over all shards, or None if there is no manifest."""
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """Folder of shards -> the manifest beside it, where there is one."""
    wanted: dict[str, frozenset[str]] | None = None
    """Shard -> clips to read of it (`split.split_shards`); None reads all."""


def find_shards(spec: str) -> ShardSet:
    """Resolve where shards are.

    Args:
        spec: a folder of labels or of shards, a file or a glob; or a URL (`https://`, `s3://BUCKET/...`,
            `hf://datasets/ORG/NAME[@REVISION]/...`) of a shard, of shards in braces (`{000000..000009}.tar`), or of a
            folder of labels, whose manifest.json then says which shards it has.

    Raises:
        FootfallError: nothing is found, or the manifest beside the shards is of another schema.
    """
    if "://" in spec:
        return _remote(spec)
    path = Path(spec)
    if (path / "shards").is_dir():  # a labelling folder
        path = path / "shards"
    urls = _in_folder(path) if path.is_dir() else sorted(glob.glob(spec))  # noqa: PTH207
    if not urls:
        raise _none(spec)
    return _counted(urls)


def _in_folder(folder: Path) -> list[str]:
    """Shards of a local folder: those that its manifest names and that are there; all where there is no manifest."""
    found = sorted(p for p in folder.glob("*.tar") if not p.name.startswith("."))
    rows = _rows_of(_manifest_beside(str(folder)))
    if rows is not None and found:
        strange = [path.name for path in found if path.name not in rows]
        missing = sorted(set(rows) - {path.name for path in found})
        for names, what in ((strange, "not in its manifest and left out"), (missing, "in its manifest but not there")):
            if names:
                log.warning("%s: %s %s; run footfall verify on it", folder, ", ".join(names[:5]), what)
        found = [folder / name for name in rows if name not in missing]  # in the manifest's order, as from afar
    return [str(path) for path in found]


def _remote(spec: str) -> ShardSet:
    urls = list(wds.shardlists.expand_urls(spec))
    if all(url.partition("?")[0].endswith(".tar") for url in urls):
        return _counted(urls)
    if "?" in spec:
        raise FootfallError(
            f"data.shards={shown(spec)}", got="a folder with a query", expected="shards, or a folder without one",
            do="list the shards, as in {000000..000009}.tar",
        )  # fmt: skip
    folder = spec.rstrip("/").removesuffix("/shards")
    try:
        content = read_manifest(folder)
    except OSError as error:
        raise FootfallError(
            f"{shown(folder)}/manifest.json", got=error, expected="a manifest that can be read",
            do="try again, or list the shards, as in {000000..000009}.tar",
        ) from None  # fmt: skip
    urls = [f"{folder}/shards/{shard['name']}" for shard in content["shards"]]
    if not urls:
        raise _none(spec)
    total = sum(shard["samples"] for shard in content["shards"])
    return ShardSet(urls=urls, samples=total, manifests={f"{folder}/shards": content})


def folder_of(url: str) -> str:
    """The folder of a shard."""
    return url.partition("?")[0].rpartition("/")[0]


def _counted(urls: list[str]) -> ShardSet:
    """Shards of any number of folders, counted if each folder has a manifest that names them."""
    manifests = {folder: _manifest_beside(folder) for folder in dict.fromkeys(map(folder_of, urls))}
    known = {folder: content for folder, content in manifests.items() if content is not None}
    rows = {folder: _rows_of(content) or {} for folder, content in manifests.items()}
    total: int | None = 0
    for url in urls:
        row = rows[folder_of(url)].get(url.partition("?")[0].rpartition("/")[2])
        if row is None:
            total = None
        else:
            _check_size(url, row)
            total = None if total is None else total + row["samples"]
    return ShardSet(urls=urls, samples=total, manifests=known)


def _manifest_beside(folder: str) -> dict[str, Any] | None:
    """The manifest of a folder of shards, or None if there is none."""
    if "://" in folder:
        try:
            return read_manifest(folder.rpartition("/")[0])
        except OSError:
            return None
        except FootfallError as error:
            if "schema" in str(error):
                raise
            return None
    path = Path(folder).parent / MANIFEST_NAME
    return check_manifest(read_json(path), str(path)) if path.is_file() else None


def _rows_of(manifest: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    """A manifest's row for each shard."""
    return None if manifest is None else {shard["name"]: shard for shard in manifest["shards"]}


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of labels at a URL, checked.

    Raises:
        FootfallError: none there, or none of ours.
        OSError: out of reach.
    """
    url = f"{folder}/{MANIFEST_NAME}"
    with open_url(url) as stream:
        data = stream.read(MAX_JSON_BYTES)
    try:
        content = parse_json(data)
    except ValueError:
        raise FootfallError(
            shown(url), got="something else", expected="a JSON file", do="check the address of the folder"
        ) from None
    return check_manifest(content, shown(url))


def _check_size(url: str, row: dict[str, Any]) -> None:
    """Say early that a local shard was cut short; what is whole in it is read nevertheless."""
    path = Path(url)
    if "://" not in url and path.is_file() and path.stat().st_size != row["bytes"]:
        log.warning(
            "shard %s has %d bytes, its manifest says %d: copy it again", url, path.stat().st_size, row["bytes"]
        )


def _none(spec: str) -> FootfallError:
    return FootfallError(
        f"data.shards={shown(spec)}", got="no .tar file", expected="shards made by footfall label",
        do="label some clips first, or correct the path",
    )  # fmt: skip
