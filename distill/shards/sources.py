"""Which shards there are: folders, globs, URLs, and the manifest that counts what is in them."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import webdataset as wds

from distill.errors import FootfallError
from distill.files import read_json
from distill.shards.remote import open_url, shown
from distill.shards.schema import SCHEMA_VERSION
from distill.shards.writer import MANIFEST_FORMAT

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ShardSet:
    """Shards to read, and how many samples are in them if a manifest says so."""

    urls: list[str]
    samples: int | None
    """Total over all shards, or None if there is no manifest."""


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
    urls = sorted(str(p) for p in path.glob("*.tar")) if path.is_dir() else sorted(glob.glob(spec))  # noqa: PTH207
    if not urls:
        raise _none(spec)
    return ShardSet(urls=urls, samples=_total(urls))


def _remote(spec: str) -> ShardSet:
    urls = list(wds.shardlists.expand_urls(spec))
    if all(url.partition("?")[0].endswith(".tar") for url in urls):
        return ShardSet(urls=urls, samples=_total(urls))
    if "?" in spec:
        raise FootfallError(
            f"data.shards={shown(spec)}", got="a folder with a query", expected="shards, or a folder without one",
            do="list the shards, as in {000000..000009}.tar",
        )  # fmt: skip
    folder = spec.rstrip("/").removesuffix("/shards")
    try:
        content = _read_manifest(f"{folder}/manifest.json")
    except OSError as error:
        raise FootfallError(
            f"{shown(folder)}/manifest.json", got=error, expected="a manifest that can be read",
            do="try again, or list the shards, as in {000000..000009}.tar",
        ) from None  # fmt: skip
    urls = [f"{folder}/shards/{shard['name']}" for shard in content["shards"]]
    if not urls:
        raise _none(spec)
    return ShardSet(urls=urls, samples=sum(shard["samples"] for shard in content["shards"]))


def _total(urls: Iterable[str]) -> int | None:
    """Samples in shards of any number of folders; None unless each has a manifest."""
    total = 0
    manifests: dict[str, dict[str, dict[str, Any]] | None] = {}
    for url in urls:
        folder, _, name = url.partition("?")[0].rpartition("/")
        if folder not in manifests:
            manifests[folder] = _rows_beside(folder)
        rows = manifests[folder]
        if rows is None or name not in rows:
            return None
        _check_size(url, rows[name])
        total += rows[name]["samples"]
    return total


def _rows_beside(folder: str) -> dict[str, dict[str, Any]] | None:
    """A manifest's row for each shard in `folder`, or None if there is no manifest."""
    if "://" in folder:
        try:
            content = _read_manifest(f"{folder.rpartition('/')[0]}/manifest.json")
        except OSError:
            return None
        except FootfallError as error:
            if "schema" in str(error):
                raise
            return None
    else:
        path = Path(folder).parent / "manifest.json"
        if not path.is_file():
            return None
        content = _checked(read_json(path), str(path))
    return {shard["name"]: shard for shard in content["shards"]}


def _read_manifest(url: str) -> dict[str, Any]:
    with open_url(url) as stream:
        data = stream.read()
    try:
        content = json.loads(data)
    except ValueError:
        raise FootfallError(
            shown(url), got="something else", expected="a JSON file", do="check the address of the folder"
        ) from None
    return _checked(content, shown(url))


def _checked(content: Any, where: str) -> dict[str, Any]:
    found = content if isinstance(content, dict) else {}
    if found.get("format") != MANIFEST_FORMAT or found.get("schema_version") != SCHEMA_VERSION:
        raise FootfallError(
            f"manifest {where}", got=f"{found.get('format')} schema {found.get('schema_version')}",
            expected=f"{MANIFEST_FORMAT} schema {SCHEMA_VERSION}", do="pack the clips again with this release",
        )  # fmt: skip
    return found


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
