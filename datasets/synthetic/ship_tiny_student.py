"""Put a trained student into the package, as the checkpoint `tiny`: heads in float16, card from its run and reports.

python datasets/synthetic/ship_tiny_student.py RUN
footfall evaluate tiny --data data/footsteps/footsteps-v1 --out report.json
python datasets/synthetic/ship_tiny_student.py RUN report.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import torch

from distill.errors import FootfallError
from distill.models.pretrained import load_student, save_student, write_card
from distill.models.registry import WEIGHTS_DIR
from distill.models.shipped import SHIPPED

LIMIT_MB: Final = 20
"""Student and backbone together, in the repository and in the wheel."""


def ship(run: Path, reports: list[Path], folder: Path = SHIPPED["tiny"]) -> float:
    """Write the student of a run to `folder` with its card; returns megabytes of weights, backbone included.

    Raises:
        FootfallError: larger than the limit, or a report about other weights.
    """
    save_student(load_student(run / "pretrained"), folder, dtype=torch.float16)
    size = sum(path.stat().st_size for path in (*folder.iterdir(), *WEIGHTS_DIR.glob("tiny_backbone*"))) / 1e6
    if size > LIMIT_MB:
        raise FootfallError(
            str(folder),
            got=f"{size:.1f} MB with the backbone",
            expected=f"at most {LIMIT_MB}",
            do="train smaller heads",
        )
    write_card(folder, run, reports=reports)
    return size


def main() -> None:
    """Ship the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished training run")
    parser.add_argument("reports", nargs="*", type=Path, metavar="REPORT", help="reports of footfall evaluate on tiny")
    arguments = parser.parse_args()
    try:
        size = ship(arguments.run, arguments.reports)
    except FootfallError as error:
        raise SystemExit(f"ship_tiny_student: {error}") from error
    print(f"{SHIPPED['tiny']}: {size:.1f} MB with the backbone")


if __name__ == "__main__":
    main()
