"""What a clip may cost before its worker is killed, and how often it is tried."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TAKEN_SHARE = 0.9
"""Share of a machine's memory that all its workers may use together, if the limit is left to footfall."""


@dataclass(kw_only=True)
class LimitsConfig:
    """Limits of one clip. They hold in worker processes, not with in_process=true."""

    clip_minutes: float = 240.0
    """A clip that takes longer (on one worker, all stages together) is stopped, minutes."""
    clip_gb: float = 0.0
    """A clip whose processes hold more memory (resident, together) is stopped, 1e9 bytes; 0: nine tenths of the
    machine's memory, divided by its workers."""
    tries: int = 3
    """Times that a clip is begun whose worker vanished, was stopped at a limit or met an internal error; then it is
    set aside. A reason that lies in the clip itself (no person in it) is final at once."""

    def __post_init__(self) -> None:
        if self.clip_minutes <= 0 or self.clip_gb < 0 or self.tries < 1:
            raise ValueError("limits: clip_minutes > 0, clip_gb >= 0 and tries >= 1 are expected")

    def clip_bytes(self, workers: int) -> int:
        """The memory limit of one clip in bytes on this machine."""
        return int(self.clip_gb * 1e9) if self.clip_gb else int(TAKEN_SHARE * machine_bytes() / max(workers, 1))


def machine_bytes() -> int:
    """Memory that this machine, or the container's group, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text(encoding="ascii").strip()).isdigit():
        total = min(total, int(text))
    return total
