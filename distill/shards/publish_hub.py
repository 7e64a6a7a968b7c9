"""Labels into a dataset repository of the Hub. Large files go up one by one; one commit then shows them all at once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, RepoFile, constants

from distill.errors import FootfallError
from distill.hub import explain, is_hub_id
from distill.hub_push import PUSH_ERRORS, find_token, plain_uploads
from distill.shards.publish import File, PublishConfig, Published, stale_files

COMMIT_FILES: Final = 1000
"""Files in one commit; earlier commits only add shards that no manifest names yet."""


def publish_hub(target: str, files: list[File], manifest: Mapping[str, Any], config: PublishConfig) -> Published:
    """Upload to `hf://datasets/ORG/NAME`; `publish.publish` has checked the labels.

    Raises:
        FootfallError: no such kind of address, no right to write, a public repository, out of reach.
    """
    name = target.removeprefix("hf://datasets/").rstrip("/")
    if not target.startswith("hf://datasets/") or "@" in name or not is_hub_id(name):
        raise FootfallError(
            f"push to {target}", got=name, expected="hf://datasets/ORG/NAME", do="correct it, without a revision"
        )
    api = HfApi(token=find_token(name))
    try:
        api.create_repo(name, repo_type="dataset", private=config.private, exist_ok=True)
        is_private = api.dataset_info(name).private is not False
        if config.private and not is_private:
            raise FootfallError(
                f"push to {name}", got="a repository that is public", expected="a private one (private=true)",
                do="add private=false to publish there, or choose another name",
            )  # fmt: skip
        there = _listed(api, name)
        gone = stale_files(target, there, files, manifest, config)
        send = [file for file in files if there.get(file.name) != file.sha256]
        with plain_uploads():
            commit = _upload(api, name, send, gone)
    except FootfallError:
        raise
    except PUSH_ERRORS as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise explain(f"push to {name}", cause) from None  # the original may quote the request's headers
    where = f"{constants.ENDPOINT}/datasets/{name} ({'private' if is_private else 'public'}), revision {commit}"
    url, kept = f"hf://datasets/{name}@{commit}", len(files) - len(send)
    return Published(url=url, where=where, sent=len(send), kept=kept, deleted=len(gone))


def _listed(api: HfApi, name: str) -> dict[str, str]:
    """Path -> SHA-256 of large files ("" of small ones, which are sent anew)."""
    found: dict[str, str] = {}
    for item in api.list_repo_tree(name, repo_type="dataset", recursive=True):
        if isinstance(item, RepoFile):
            found[item.path] = item.lfs.sha256 if item.lfs is not None else ""
    return found


def _upload(api: HfApi, name: str, send: list[File], gone: list[str]) -> str:
    """The files' bytes, then the commit; its id."""
    adds: list[CommitOperationAdd] = []
    for file in send:
        data: str | io.BytesIO = str(file.path) if file.path is not None else io.BytesIO(file.data)
        operation = CommitOperationAdd(file.name, data)
        api.preupload_lfs_files(name, [operation], repo_type="dataset")  # what is there is not sent again
        adds.append(operation)
    while len(adds) > COMMIT_FILES:
        part, adds = adds[:COMMIT_FILES], adds[COMMIT_FILES:]
        api.create_commit(name, part, repo_type="dataset", commit_message="footfall labels, in parts")
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [*adds]
    operations += [CommitOperationDelete(path) for path in gone]
    if not operations:
        return str(api.dataset_info(name).sha)
    return str(api.create_commit(name, operations, repo_type="dataset", commit_message="footfall labels").oid)
