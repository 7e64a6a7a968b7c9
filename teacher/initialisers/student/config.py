"""Settings of the student that labelling may start from; no torch is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from distill.errors import FootfallError
from distill.stream import StreamConfig

PREFIX: Final = "student:"
"""What stands before the checkpoint in `--init`."""
SLOTS: Final = ("cameras", "depth", "bodies", "contacts")
"""Stages that a student can fill."""


@dataclass(kw_only=True)
class StudentInitConfig:
    """A student's pass over the clip, for stages with `use=student`."""

    checkpoint: str = ""
    """Folder of a student, shipped name, or Hub id; empty: no student. `--init student:CHECKPOINT` sets it."""
    device: str = "auto"
    """Where the network runs: "cpu", "cuda", "cuda:1"; "auto" takes a CUDA device if there is one."""
    depth_stride: int = 2
    """Every n-th pixel of the network's points is kept as depth."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """The stream."""

    def __post_init__(self) -> None:
        if self.depth_stride < 1:
            raise ValueError(f"student.depth_stride: got {self.depth_stride}, expected at least 1")


def init_overrides(init: str) -> list[str]:
    """What `--init` stands for, as settings; they go before the user's own, which may take some back.

    Raises:
        FootfallError: not `student:CHECKPOINT`.
    """
    checkpoint = init.removeprefix(PREFIX)
    if not init.startswith(PREFIX) or not checkpoint:
        raise FootfallError(
            f"--init {init}", got=repr(init), expected="student:CHECKPOINT",
            do="name a folder, a shipped student or a Hub id, such as student:tiny",
        )  # fmt: skip
    return [f"student.checkpoint={checkpoint}", *(f"{slot}.use=student" for slot in SLOTS)]


def check_student(checkpoint: str, uses: dict[str, str]) -> None:
    """Whether stages that start from a student have one.

    Raises:
        ValueError: one of `uses` (slot -> initialiser) is "student", and there is no checkpoint.
    """
    wanting = [f"{slot}.use" for slot, use in uses.items() if use == "student"]
    if wanting and not checkpoint:
        raise ValueError(f"{wanting[0]}=student needs student.checkpoint=FOLDER_NAME_OR_HUB_ID (or --init)")
