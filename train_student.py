"""Train a student: `accelerate launch train_student.py --config configs/student/base.yaml [key=value ...]`."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from distill.config import load_config
from distill.errors import FootfallError


def main() -> int:
    """Parse, validate, build, train. Mistakes of the user are one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file; defaults are complete without one")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint (resume=true)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")
    args = parser.parse_args()
    try:
        from distill.train_config import TrainConfig

        overrides = [*args.overrides, *(["resume=true"] if args.resume else [])]
        config = load_config(TrainConfig, args.config, overrides)  # before anything is started
        from distill.gaussian_trainer import GaussianTrainer
        from distill.josh3r_trainer import Josh3rTrainer
        from distill.trainer import Trainer

        trainers = {"footfall": Trainer, "josh3r": Josh3rTrainer, "gaussians": GaussianTrainer}
        trainers[config.model](config).train()
    except FootfallError as error:
        print(f"train_student: {error}", file=sys.stderr)
        return 2
    # A wrapped model keeps its process group. Left to the interpreter's end, gloo's threads find no interpreter any
    # more and abort a process that has done all its work.
    gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
