"""The files of a student's folder, and every check that needs no network to be built.

config.json         {"format", "student": StudentConfig, "backbone": Provenance, "weights_sha256"}
model.safetensors   the heads; never the backbone
README.md           card for people
training.json       what the card was made from (`training_record`); only after a recorded run
LICENSE, NOTICE     where somebody put them
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from distill.errors import FootfallError
from distill.files import read_json, sha256_of

STUDENT_FORMAT: Final = "footfall-student/2"
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
CARD: Final = "README.md"
RECORD: Final = "training.json"
OPTIONAL: Final = (CARD, RECORD, "LICENSE", "NOTICE")
"""Files that a student's folder may hold besides `CONFIG` and `WEIGHTS`."""


def read_config(folder: Path) -> dict[str, Any]:
    """A student's `config.json`.

    Raises:
        FootfallError: missing, not JSON, of another format or without one of its parts.
    """
    where = f"student {folder}"
    if not (folder / CONFIG).is_file():
        there = sorted(path.name for path in folder.iterdir())[:6] if folder.is_dir() else "no such folder"
        raise FootfallError(
            where, got=f"no {CONFIG} ({there})", expected=f"{CONFIG} and {WEIGHTS}",
            do="give the folder `pretrained` of a run, or one that was pulled or saved",
        )  # fmt: skip
    stored = read_json(folder / CONFIG)
    found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
    if found != STUDENT_FORMAT:
        raise FootfallError(
            where, got=f"format {found!r}", expected=STUDENT_FORMAT,
            do="load it with the release that wrote it, or train again",
        )  # fmt: skip
    parts = {"student": dict, "backbone": dict, "weights_sha256": str}
    wrong = [name for name, kind in parts.items() if not isinstance(stored.get(name), kind)]
    if "backbone" not in wrong and not isinstance(stored["backbone"].get("sha256"), str):
        wrong.append("backbone.sha256")
    if wrong:
        raise FootfallError(
            f"{where}: {CONFIG}", got=f"no {', '.join(wrong)}", expected=", ".join(parts), do="restore the file"
        )
    return stored


def check_folder(folder: Path) -> dict[str, Any]:
    """Check format, wholeness and hash of a student's folder; returns its config. Nothing is built.

    Raises:
        FootfallError: anything missing, damaged or exchanged.
    """
    stored = read_config(folder)
    path = folder / WEIGHTS
    tensor_shapes(path)  # says "truncated" where a hash would only say "different"
    digest = sha256_of(path)
    if digest != stored["weights_sha256"]:
        raise FootfallError(
            str(path), got=f"sha256 {digest}", expected=f"{stored['weights_sha256']} (by {CONFIG})",
            do="save, copy or pull both files again; one of them is not the other's",
        )  # fmt: skip
    return stored


def tensor_shapes(path: Path) -> dict[str, torch.Size]:
    """Names and shapes in a safetensors file, from its header.

    Raises:
        FootfallError: missing, truncated or something else.
    """
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        hint = f"; {others[0]} may be a pickle and is never read" if others else ""
        raise FootfallError(
            str(path), got=f"no such file{hint}", expected="weights as safetensors", do="save or pull them again"
        )
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: torch.Size(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FootfallError(
            str(path), got=f"a truncated or damaged file ({error})", expected="weights as safetensors",
            do="save, copy or pull it again",
        ) from error  # fmt: skip


def check_tensors(path: Path, wanted: Mapping[str, torch.Size], backbone: Mapping[str, Any]) -> None:
    """Raise `FootfallError` unless a file holds exactly the tensors `wanted`.

    Args:
        path: safetensors file.
        wanted: name -> shape of the heads.
        backbone: tensors of the frozen backbone, which must not be in the file.
    """
    found = tensor_shapes(path)
    frozen = sorted(name for name in found if name.startswith("backbone.") or name in backbone.keys() - wanted.keys())
    if frozen:
        raise FootfallError(
            str(path), got=f"{len(frozen)} tensors of a backbone, e.g. {frozen[0]}",
            expected="heads only: a backbone has a licence and a place of its own", do="save it with save_pretrained",
        )  # fmt: skip
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [f"{k} {list(found[k])} for {list(wanted[k])}" for k in wanted if k in found and found[k] != wanted[k]]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {word}, e.g. {names[0]}" for word, names in problems.items() if names)
        raise FootfallError(
            str(path), got=f"tensors of another model: {text}", expected="the heads described by config.json",
            do="take both files from the same place and the same release",
        )  # fmt: skip
