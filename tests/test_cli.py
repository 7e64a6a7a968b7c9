"""The command line: its whole surface, its exit codes, and that it starts fast."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.errors import FootfallError
from teacher.cli import VERBS, build_parser, main

SURFACE = {
    "demo": {"--video", "--out", "overrides"},
    "label": {
        "inputs",
        "overrides",
        "--out",
        "--config",
        "--init",
        "--blur-faces",
        "--ray",
        "--only",
        "--retry",
        "--since",
    },
    "status": {"folder"},
    "verify": {"folder", "overrides"},
    "forget": {"source", "folder", "overrides"},
    "evaluate": {"predictions", "--ablation", "--data", "--out", "overrides"},
    "export": {"checkpoint", "--format", "--out", "overrides"},
    "run": {"video", "--checkpoint", "--out", "--offline", "overrides"},
    "serve": {"--checkpoint", "overrides"},
    "convert": {"result", "--to", "--out", "overrides"},
    "view": {"results", "--rerun", "overrides"},
    "bench": {"name", "overrides"},
    "push": {"folder", "id", "overrides"},
    "pull": {"id"},
    "doctor": set[str](),
}
"""Verb -> its words. A new setting is a field of a config (`key=value`), not an option."""

COMMANDS = Path(__file__).resolve().parent.parent / "teacher" / "commands"


def words_of(verb: str) -> set[str]:
    """Options and positional arguments of a verb."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"teacher.commands.{verb}").add_arguments(parser)
    return {action.option_strings[-1] if action.option_strings else action.dest for action in parser._actions}


@pytest.mark.parametrize("verb", sorted(SURFACE))
def test_words_of_each_verb(verb: str) -> None:
    assert words_of(verb) == SURFACE[verb]


def test_verbs_are_those_of_the_design() -> None:
    design = "demo label status verify forget evaluate export run serve view convert push pull doctor bench"
    assert set(VERBS) == set(design.split())
    assert set(VERBS) == set(SURFACE)
    assert {path.stem for path in COMMANDS.glob("*.py")} - {"__init__"} == set(SURFACE)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for verb, purpose in VERBS.items():
        assert f"  {verb} " in listed
        assert purpose in " ".join(listed.split())


@pytest.mark.parametrize("verb", sorted(SURFACE))
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert VERBS[verb].split()[0] in shown
    assert all(word in shown for word in SURFACE[verb] if word.startswith("--"))


def test_no_verb_and_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["labell"]) == 2
    assert "invalid choice: 'labell'" in capsys.readouterr().err


def outcome(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> int:
    """Exit code of `footfall status .` when its work is `run`."""
    monkeypatch.setattr("teacher.commands.status.run", run)
    return main(["status", "."])


def test_mistake_of_the_user_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        raise FootfallError("file\nx", got=1, expected=2, do="mend it")

    assert outcome(monkeypatch, run) == 2
    assert capsys.readouterr().err == "footfall: file x: got 1; expected 2; mend it\n"


def test_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert outcome(monkeypatch, run) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outcome(monkeypatch, run)


def test_help_needs_no_torch() -> None:
    code = "import sys; from teacher.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_closed_pipe_is_quiet() -> None:
    """`footfall doctor | head -1`: the reader leaves before everything is written."""
    command = f"{sys.executable} -m teacher.cli doctor | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""


def test_parser_imports_the_module_of_its_verb_only() -> None:
    code = (
        "import sys; from teacher.cli import build_parser; build_parser('status');"
        "sys.exit(any(m.startswith('teacher.commands.') and m != 'teacher.commands.status' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert build_parser("status").parse_args(["status", "x"]).folder == Path("x")
