"""Publishing a student: everything is checked before the first byte leaves, and one commit brings all files.

A push that fails leaves the repository as it was (at worst newly made and empty), and the same command goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token

from distill.errors import FootfallError
from distill.files import read_json
from distill.hub import HUB_ERRORS, explain, split_revision
from distill.models.card import make_card
from distill.models.pretrained import load_student, write_record
from distill.models.student_files import CARD, CONFIG, OPTIONAL, RECORD, WEIGHTS, read_config
from distill.training_record import read_report

PUSH_ERRORS: Final[tuple[type[Exception], ...]] = (*HUB_ERRORS, RuntimeError)
"""The library wraps what stops an upload in RuntimeError."""
_XET_HOSTS: Final = ("huggingface.co", "hf.co")
"""Hosts known to offer Xet storage; others may offer plain Git LFS only."""


@dataclass(kw_only=True)
class PushConfig:
    """`footfall push`."""

    private: bool = True
    """Make the repository private. `false` publishes it; only then may an existing one be public."""
    reports: list[str] = field(default_factory=list)
    """Reports of `footfall evaluate` about these weights, written into the card first."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where a student lies now."""

    url: str
    id: str
    commit: str
    private: bool


def push(folder: Path, id: str, config: PushConfig | None = None) -> Pushed:
    """Load and check a student's folder, then publish it as ORG/NAME.

    Args:
        folder: written by `save_student`, e.g. RUN/pretrained.
        id: ORG/NAME; made if it is not there.
        config: visibility, and reports for the card.

    Raises:
        FootfallError: anything that a reader would refuse to load, unexpected files, weights of a backbone, a card
            without licence, no token or none that may write, a server that does not answer.
    """
    settings = config or PushConfig()
    name, revision = split_revision(id)
    if revision is not None:
        raise FootfallError(f"push to {id}", got=f"revision {revision}", expected="ORG/NAME", do="leave it out")
    files = list_files(folder)
    load_student(folder)  # whatever a reader would refuse is refused here, weights of a backbone too
    if settings.reports:
        add_reports(folder, [Path(report) for report in settings.reports])
    check_licence(folder / CARD)
    token = find_token(name)
    api = HfApi(token=token)
    try:
        api.create_repo(name, private=settings.private, exist_ok=True)
        is_private = api.model_info(name).private is not False
        if settings.private and not is_private:
            raise FootfallError(
                f"push to {name}", got="a repository that is public", expected="a private one (private=true)",
                do="add private=false to publish there, or choose another name",
            )  # fmt: skip
        with plain_uploads():
            made = api.create_commit(
                name,
                [CommitOperationAdd(file, str(folder / file)) for file in files],
                commit_message=f"footfall student {read_config(folder)['weights_sha256'][:12]}",
            )
    except FootfallError:
        raise
    except PUSH_ERRORS as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise explain(f"push to {name}", cause) from None  # the original may quote the request's headers
    return Pushed(url=f"{constants.ENDPOINT}/{name}", id=name, commit=made.oid, private=is_private)


def list_files(folder: Path) -> list[str]:
    """Names of the files to publish.

    Raises:
        FootfallError: something in the folder that does not belong to a student, or no student.
    """
    read_config(folder)
    allowed = (WEIGHTS, CONFIG, *OPTIONAL)
    strange = sorted(path.name for path in folder.iterdir() if path.name not in allowed or not path.is_file())
    if strange:
        raise FootfallError(
            f"push {folder}", got=f"unexpected {', '.join(strange[:5])}", expected=f"only {', '.join(allowed)}",
            do="move it elsewhere: what is published is exactly what a reader needs",
        )  # fmt: skip
    return [name for name in allowed if (folder / name).is_file()]


def check_licence(card: Path) -> None:
    """Raise `FootfallError` unless a card's front matter names a licence, and for "other" which one."""
    wanted = "a line `license: ...` in its front matter (https://huggingface.co/docs/hub/repositories-licenses)"
    do = "decide under which terms these weights may be used, look at the chain in the card, and write it there"
    if not card.is_file():
        raise FootfallError(str(card), got="no card", expected=wanted, do="save the student again")
    try:
        data = ModelCard.load(card).data
    except ValueError as error:
        raise FootfallError(str(card), got=error, expected=wanted, do="mend the lines between the dashes") from error
    licence: Any = data.license
    if not isinstance(licence, str) or licence.strip().lower() in ("", "unknown"):
        raise FootfallError(str(card), got=f"licence {licence!r}", expected=wanted, do=do)
    if licence == "other" and not data.license_name:
        raise FootfallError(str(card), got="license: other alone", expected="license_name besides", do=do)


def add_reports(folder: Path, reports: Sequence[Path]) -> None:
    """Write evaluation reports into a student's record and card, in place of those there.

    Raises:
        FootfallError: no recorded run, a report of another kind or about other weights, or a card that was edited
            by hand, which would be lost.
    """
    config = read_config(folder)
    if not (folder / RECORD).is_file():
        raise FootfallError(
            f"reports for {folder}", got=f"no {RECORD}", expected="a student saved by train_student.py",
            do="write the numbers into README.md by hand, with their protocol",
        )  # fmt: skip
    record = read_json(folder / RECORD)
    if (folder / CARD).is_file() and (folder / CARD).read_text(encoding="utf-8") != make_card(config, record):
        raise FootfallError(
            str(folder / CARD), got="a card edited by hand", expected="the one that was made, to make it anew",
            do="add the numbers by hand too, or delete the card to have it made again",
        )  # fmt: skip
    write_record(folder, config, {**record, "reports": [read_report(path) for path in reports]})


def find_token(name: str) -> str:
    """The token to write `name` with.

    Raises:
        FootfallError: offline, or none.
    """
    if constants.HF_HUB_OFFLINE:
        raise FootfallError(
            f"push to {name}", got="HF_HUB_OFFLINE=1", expected="a connection", do="unset it and push again"
        )
    token = get_token()
    if token is None:
        raise FootfallError(
            f"push to {name}", got="no token", expected="a token with the right to write",
            do="run `hf auth login`, or set HF_TOKEN",
        )  # fmt: skip
    return token


@contextlib.contextmanager
def plain_uploads() -> Iterator[None]:
    """Upload by Git LFS to servers that are not known to have Xet storage.

    The library takes Xet wherever it is installed, also where the server has none; its switch is a constant that it
    reads from the environment once, when it is imported.
    """
    host = urlsplit(constants.ENDPOINT).hostname or ""
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or not host.endswith(_XET_HOSTS)
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
