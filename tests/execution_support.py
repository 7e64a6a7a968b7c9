"""Initialisers that misbehave, registered as anybody's would be: they hang, eat, die, stumble or fill the disk."""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.synthetic import collection, write_collection
from teacher.initialisers.people import run as run_landmarks
from teacher.initialisers.registry import Outcome, Report, register
from teacher.workspace import ClipFolder


def write_tiny(folder: Path, *names: str) -> Path:
    """Draw tiny clips; returns the manifest."""
    specs = collection(f"tiny:{len(names)}")
    return write_collection(folder, [replace(spec, id=name) for spec, name in zip(specs, names, strict=True)])


@register("people", "misbehaving", needs=("frames",), licence="Apache-2.0")
def run(clip: ClipFolder, config: Any, report: Report) -> Outcome:
    """What the clip's name says; a clip of another name is treated as usual."""
    if clip.id == "hangs":
        ctypes.CDLL(None).pause()  # in C, as a decoder hangs
    if clip.id == "eats":
        held = []
        while True:
            held.append(np.ones(1 << 24))
    if clip.id == "vanishes":
        os.kill(os.getpid(), signal.SIGKILL)
    if clip.id == "fills" and not (clip.root / "filled").exists():
        (clip.root / "filled").touch()
        with (clip.stage_dir("people") / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))
    if clip.id == "stumbles" and not (clip.root / "stumbled").exists():
        (clip.root / "stumbled").touch()
        raise ZeroDivisionError("once")
    return run_landmarks(clip, config, report)
