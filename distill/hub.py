"""Students on the Hub: which files are fetched, at which commit, and what is refused.

Only the files of a student are ever downloaded, each by its exact name: nothing that a repository holds besides
can reach the disk. `config.json` comes first and says whether the rest is worth fetching; the commit that it came
from pins the other files, so that no two come from different revisions. Files lie in the Hub's own cache
(`HF_HOME`), which `HF_HUB_OFFLINE=1` reads without asking anybody; `HF_ENDPOINT` names another server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from distill.errors import FootfallError
from distill.models.student_files import CARD, CONFIG, OPTIONAL, WEIGHTS, check_folder, read_config

HUB_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,
    ValueError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)
"""What the Hub's library raises; the bases of its error bring those of the HTTP library it uses."""
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".t7", ".h5")
"""Endings of weights that can hold programs. A repository that mixes them with a student is refused."""
_ID: Final = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}", re.ASCII)
_REVISION: Final = re.compile(r"[\w][\w./+-]{0,199}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A student's files in the Hub's cache."""

    folder: Path
    id: str
    """ORG/NAME."""
    commit: str
    """Full commit that all files come from."""
    left: list[str]
    """Other files of the repository, which were not downloaded; empty when everything was in the cache."""


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ORG/NAME or ORG/NAME@REVISION."""
    return _ID.fullmatch(text.split("@", 1)[0]) is not None and not text.startswith(".")


def split_revision(text: str, revision: str | None = None) -> tuple[str, str | None]:
    """ "ORG/NAME@REVISION" -> ("ORG/NAME", "REVISION"); without "@" the given revision, None for the main branch.

    Raises:
        FootfallError: not an id, a revision that is none, or two revisions that differ.
    """
    name, at, named = text.partition("@")
    if not is_hub_id(name):
        raise FootfallError(
            f"Hub id {text!r}", got="another form", expected="ORG/NAME or ORG/NAME@REVISION", do="correct it"
        )
    if at and revision is not None and named != revision:
        raise FootfallError(
            f"student {text}", got=f"revision {revision!r} besides", expected="one revision", do="leave one out"
        )
    chosen = named if at else revision
    if chosen is not None and (not _REVISION.fullmatch(chosen) or ".." in chosen):
        raise FootfallError(
            f"student {name}", got=f"revision {chosen!r}", expected="a commit, tag or branch", do="correct it"
        )
    return name, chosen


def fetch_student(id_and_revision: str, revision: str | None = None, *, whole: bool = False) -> Snapshot:
    """Bring a student's files into the Hub's cache, or find them there.

    Args:
        id_and_revision: ORG/NAME, or ORG/NAME@REVISION.
        revision: commit, tag or branch; None takes the main branch. A full commit that is in the cache is not
            asked for again.
        whole: also the card and the other files for people; without it `config.json` and the weights only.

    Raises:
        FootfallError: not there, not allowed, not reachable and not cached, not a student of this format, or a
            repository with pickles or with names that lead out of its folder.
    """
    name, chosen = split_revision(id_and_revision, revision)
    what = f"student {name}" + (f"@{chosen}" if chosen else "")
    try:
        config = Path(hf_hub_download(name, CONFIG, revision=chosen))
        read_config(config.parent)  # before the weights are asked for
        commit, left, wanted = config.parent.name, list[str](), [WEIGHTS, CARD] if whole else [WEIGHTS]
        if constants.HF_HUB_OFFLINE:
            wanted = [WEIGHTS]  # whatever else is in the cache lies beside them already
        elif not all(_is_cached(name, file, commit) for file in wanted):
            listed = _listed(name, commit)
            left = sorted(set(listed) - {CONFIG, WEIGHTS, *OPTIONAL, ".gitattributes"})
            wanted = [WEIGHTS, *(file for file in OPTIONAL if whole and file in listed)]
        for file in wanted:
            hf_hub_download(name, file, revision=commit)
    except FootfallError:
        raise
    except HUB_ERRORS as error:
        raise explain(what, error) from error
    return Snapshot(folder=config.parent, id=name, commit=commit, left=left)


def pull(id_and_revision: str) -> Snapshot:
    """Fetch all files of a student and check them against each other; damaged ones in the cache are fetched again.

    Raises:
        FootfallError: as `fetch_student`, or weights that are not those of the config even when fetched anew.
    """
    snapshot = fetch_student(id_and_revision, whole=True)
    try:
        check_folder(snapshot.folder)
    except FootfallError:
        if constants.HF_HUB_OFFLINE:
            raise
        try:
            for file in (CONFIG, WEIGHTS):
                hf_hub_download(snapshot.id, file, revision=snapshot.commit, force_download=True)
        except HUB_ERRORS as error:
            raise explain(f"student {snapshot.id}", error) from error
        check_folder(snapshot.folder)
    return snapshot


def check_names(what: str, names: list[str]) -> None:
    """Raise `FootfallError` if one of a repository's file names leads out of its folder, or is a pickle's."""
    for name in names:
        parts = PurePosixPath(name).parts
        if not name.isprintable() or "\\" in name or name.startswith(("/", "~")) or ".." in parts or ":" in name:
            raise FootfallError(
                what, got=f"a file named {name!r}", expected="names inside the repository",
                do="do not use this repository; nothing was taken from it",
            )  # fmt: skip
        if name.lower().endswith(PICKLES):
            raise FootfallError(
                what, got=f"{name}, which may be a pickle and run a program when it is read",
                expected="safetensors and JSON only", do="ask its owner to remove that file",
            )  # fmt: skip


def explain(what: str, error: BaseException) -> FootfallError:
    """What went wrong between us and the Hub, for the user. Never holds a token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    server = constants.ENDPOINT
    log_in = "run `hf auth login` or set HF_TOKEN to a token that may read it"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return FootfallError(
                what, got="not in the cache, and HF_HUB_OFFLINE=1", expected="files fetched before",
                do="go online once and pull it, or give a folder",
            )  # fmt: skip
        cause = error.__cause__ or error
        return FootfallError(
            what, got=f"no answer from {server} that can be used, and nothing in the cache: {_first_line(cause)}",
            expected="a Hub that answers", do="check the network and HF_ENDPOINT, or give a folder",
        )  # fmt: skip
    if isinstance(error, GatedRepoError):
        return FootfallError(
            what, got="a gated repository", expected="terms that you accepted", do=f"accept them on its page, {log_in}"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return FootfallError(
            what, got=f"no such repository at {server}, or a private one that this token (if any) may not see",
            expected="a folder, a shipped name or a repository", do=f"check the name; if it is private, {log_in}",
        )  # fmt: skip
    if isinstance(error, RevisionNotFoundError):
        return FootfallError(what, got="no such revision", expected="a commit, tag or branch", do="check it")
    if isinstance(error, EntryNotFoundError):
        return FootfallError(
            what, got=f"a repository without {CONFIG} or {WEIGHTS}", expected="a student pushed by footfall",
            do="check the name and the revision",
        )  # fmt: skip
    if status == 403:
        return FootfallError(what, got="forbidden", expected="a token with the right to do this", do=log_in)
    return FootfallError(
        what, got=f"{_first_line(error)} (from {server})", expected="files, whole",
        do="try again; what is complete is kept",
    )  # fmt: skip


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]


def _listed(name: str, commit: str) -> list[str]:
    """Names of a repository's files at a commit, checked."""
    files = [file.rfilename for file in HfApi().model_info(name, revision=commit).siblings or []]
    check_names(f"student {name}", files)
    return files


def _is_cached(name: str, file: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(name, file, revision=commit), str)
