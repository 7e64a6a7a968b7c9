"""Pages say what is there: links lead somewhere, and commands in them exist."""

import re
import tomllib
from pathlib import Path

import pytest

from teacher.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "model_cards").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_pages_are_built(page: Path) -> None:
    """A verb in a code span or block."""
    named = re.findall(r"(?:^|`)footfall ([a-z]+)\b", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {verb for verb in named if verb not in VERBS} == set()
    if page == ROOT / "README.md":
        assert set(named) >= {"label", "status", "evaluate", "export", "run", "doctor"}


def test_every_extra_is_in_the_readme() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("| extra | for |")[1].split("\n\n")[0].splitlines()[2:]
    )
    assert sorted(name for row in rows for name in re.findall(r"`([a-z0-9]+)`", row.split("|")[1])) == sorted(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_are_there(page: Path) -> None:
    """Tests that hold an answer, benchmarks that made a number, configs."""
    named = re.findall(r"`((?:tests|benchmarks|configs)/[\w/.-]+\.(?:py|yaml))`", page.read_text(encoding="utf-8"))
    assert sorted({name for name in named if not (ROOT / name).is_file()}) == []
