"""Checkpoints of a run, and going on from one.

    RUN/
        pretrained/            what users load: config.json, model.safetensors (averaged heads), README.md
        state/                 what training needs to go on
            training.json      format, step, seconds, processes, how they divide the weights, config
            model.safetensors  heads as they are trained, not averaged
            average.safetensors  their running average
            optimiser.safetensors, optimiser.json
            rng-N.safetensors, position-N.json     random state of process N, and where in the data it is
        state.old/             the checkpoint before, only while a new one is put in place
        log/                   config.yaml, log.jsonl, tracker files

Nothing here is pickled. The frozen backbone is in none of these files: only its id, revision and hash. `state/` is
written beside and moved into place, so a run killed at any moment leaves a complete checkpoint. Tensors are whole
however they are divided in training, so FSDP's checkpoints are the same files. Only DeepSpeed keeps its optimiser to
itself: `state/accelerate/`, accelerate's own files (pickled), takes the place of `optimiser.*` there.
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

from distill.average import divided_like, whole
from distill.errors import FootfallError
from distill.files import read_json, write_json, write_text

STATE_FORMAT: Final = "footfall-training/1"
RUN_ENTRIES: Final = ("pretrained", "state", "state.new", "state.old", "log")
"""What a run's folder may hold."""


@dataclass(kw_only=True)
class Position:
    """Where in the data a process is."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that were used."""


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Save tensors, moved to the CPU."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimiser: whole tensors as "PARAMETER.NAME", and what JSON can hold. Collective under FSDP2."""
    state = optimiser.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = whole(value)
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def write_optimiser(folder: Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Write what `optimiser_state` gave."""
    write_tensors(folder / "optimiser.safetensors", tensors)
    write_json(folder / "optimiser.json", content)


def read_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """Restore what `write_optimiser` wrote, divided as the parameters are now. Collective under FSDP2."""
    stored = read_json(folder / "optimiser.json")
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in sorted({**load_file(folder / "optimiser.safetensors"), **stored["state"]}.items()):
        index, _, entry = name.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and entry != "step":
            value = divided_like(value.reshape(parameter.shape), parameter)  # a scalar may be a vector of one now
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


def check_folder(run: Path, *, resume: bool) -> Path | None:
    """The state to go on from, or None for a new run.

    Raises:
        FootfallError: the folder cannot be used: a checkpoint is there and `resume` is off, it is a file or lies
            below one, or it holds something else.
    """
    state = find_state(run)
    if state is not None and not resume:
        raise FootfallError(
            f"run {run}", got="a checkpoint of an earlier run", expected="a new run or --resume",
            do="add --resume (or resume=true) to go on, or choose another name",
        )  # fmt: skip
    blocked = next((path for path in (run, *run.parents) if path.exists() and not path.is_dir()), None)
    others = run.iterdir() if run.is_dir() and state is None else ()
    foreign = sorted(path.name for path in others if path.name not in RUN_ENTRIES)
    if blocked is not None or foreign:
        raise FootfallError(
            f"run {run}", got=f"{blocked} is a file" if blocked else f"a folder that holds {', '.join(foreign[:3])}",
            expected="a folder of a run, or none yet", do="choose another name or out",
        )  # fmt: skip
    return state


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
