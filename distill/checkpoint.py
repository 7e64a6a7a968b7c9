"""Checkpoints of a run, and going on from one.

    RUN/
        pretrained/            what users load: config.json, model.safetensors (averaged heads), README.md
        state/                 what training needs to go on
            training.json      format, step, seconds, processes, config
            model.safetensors  heads as they are trained, not averaged
            average.safetensors  their running average
            optimiser.safetensors, optimiser.json
            rng-N.safetensors, position-N.json     random state of process N, and where in the data it is
        state.old/             the checkpoint before, only while a new one is put in place
        log/                   config.yaml, log.jsonl, tracker files

Nothing here is pickled. The frozen backbone is in none of these files: only its id, revision and hash. `state/` is
written beside and moved into place, so a run killed at any moment leaves a complete checkpoint. Under
DeepSpeed or FSDP, whose states are divided among processes, accelerate's own files (pickled) replace model and
optimiser inside `state/`.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.files import read_json, write_json, write_text

STATE_FORMAT: Final = "footfall-training/1"


@dataclass(kw_only=True)
class Position:
    """Where in the data a process is."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that were used."""


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Save tensors, moved to the CPU."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def write_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """State of an optimiser as tensors and JSON."""
    state = optimiser.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    write_tensors(folder / "optimiser.safetensors", tensors)
    write_json(folder / "optimiser.json", {"state": numbers, "param_groups": state["param_groups"]})


def read_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """Restore what `write_optimiser` wrote."""
    stored = read_json(folder / "optimiser.json")
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**load_file(folder / "optimiser.safetensors"), **stored["state"]}.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": stored["param_groups"]})


def write_rng(path: Path) -> None:
    """Random state of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    write_tensors(path, states)


def read_rng(path: Path) -> None:
    """Restore what `write_rng` wrote."""
    states = load_file(path)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def put_in_place(new: Path, run: Path) -> None:
    """Make the folder `new` the run's `state/`; at every moment one complete state exists."""
    state, old = run / "state", run / "state.old"
    if state.exists():  # otherwise a run was killed between the two renames, and `old` is all there is
        shutil.rmtree(old, ignore_errors=True)
        state.rename(old)
    new.rename(state)
    shutil.rmtree(old, ignore_errors=True)


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of a log.jsonl that come after `step`: they will be made again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the last line of a run that was killed while writing it
        return math.inf


def find_state(run: Path) -> Path | None:
    """The run's last complete state, or None."""
    for folder in (run / "state", run / "state.old"):
        if (folder / "training.json").is_file():
            return folder
    return None


def read_training(state: Path) -> dict[str, Any]:
    """`training.json` of a state.

    Raises:
        FootfallError: another format.
    """
    content = read_json(state / "training.json")
    if content.get("format") != STATE_FORMAT:
        raise FootfallError(
            str(state), got=f"format {content.get('format')!r}", expected=STATE_FORMAT,
            do="resume it with the release that wrote it, or start a new run",
        )  # fmt: skip
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint.

    Raises:
        FootfallError: missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FootfallError(
            str(path), got=error, expected="safetensors of this run", do="restore the file or start a new run"
        ) from error


RESUME_CONSEQUENCES: Final = {
    "data": "the data from here on is another",
    "loss": "the loss from here on is another",
    "optim": "the learning rate from here on is another",
    "steps": "the learning rate from here on follows another schedule",
    "seed": "the order from here on is another",
}
"""Settings that may change at resume, and what that means. `student` may not; the rest does not matter."""


def compare_configs(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each setting that changed since the checkpoint and matters.

    Raises:
        FootfallError: the student itself is another.
    """
    if stored["student"] != now["student"]:
        raise FootfallError(
            "resume", got="another student than the checkpoint's", expected="the same `student` settings",
            do="start a new run (another name), or undo the change",
        )  # fmt: skip
    changes = []
    for key, consequence in RESUME_CONSEQUENCES.items():
        for path, before, after in _differences(stored[key], now[key], key):
            changes.append(f"{path}: {before} -> {after} ({consequence})")
    return changes


def _differences(before: Any, after: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(set(before) | set(after))
        return [d for key in keys for d in _differences(before.get(key), after.get(key), f"{path}.{key}")]
    return [] if before == after else [(path, before, after)]
