"""`footfall evaluate CHECKPOINT_OR_LABELS --data D --out report.json [key=value ...]`: score against truth.

`footfall evaluate --ablation --data COLLECTION --out table.json [key=value ...]`: the teacher's own tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall evaluate`."""
    parser.add_argument(
        "predictions", metavar="CHECKPOINT_OR_LABELS", nargs="?",
        help="folder of footfall label or run, a folder of results, a single result, or a checkpoint",
    )  # fmt: skip
    parser.add_argument(
        "--ablation", action="store_true",
        help="the teacher's table of terms instead (table=terms, robustness, quality or rendered); no predictions",
    )  # fmt: skip
    parser.add_argument(
        "--data", required=True, type=Path,
        help="collection with truth, or its manifest.jsonl; with --ablation a synthetic collection's name or folder",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="report.json; a Markdown table is written beside it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the report, print the table."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from distill.evaluate import EvaluateConfig, evaluate, markdown_table, write_report

    if args.out.suffix != ".json":
        raise FootfallError(f"--out {args.out}", got="another ending", expected="a .json file", do="name it so")
    if args.ablation:
        return _ablation(args)
    if args.predictions is None:
        raise FootfallError(
            "footfall evaluate", got="nothing to score", expected="a checkpoint, labels or results",
            do="name one, or ask for the teacher's own table with --ablation",
        )  # fmt: skip
    config = load_config(EvaluateConfig, None, args.overrides)
    predictions = Path(args.predictions)
    provenance = _provenance(args.predictions)
    if _is_checkpoint(args.predictions):
        provenance |= _weights(args.predictions)
        predictions = _stream_all(args.predictions, args.data, args.out.with_suffix(""))
    report = evaluate(predictions, args.data, config, provenance=provenance)
    markdown = write_report(args.out, report)
    print(markdown_table(report))
    print(f"written to {args.out} and {markdown}")
    return 0


def _ablation(args: argparse.Namespace) -> int:
    """Run one of the teacher's tables and print it."""
    from distill.config import load_config
    from distill.errors import FootfallError
    from teacher.benchmark.tables import BenchmarkConfig, make_table

    if args.predictions is not None:
        raise FootfallError(
            "footfall evaluate --ablation", got=f"predictions {args.predictions}",
            expected="none: the tables solve the clips themselves", do="leave them out, or leave out --ablation",
        )  # fmt: skip
    config = load_config(BenchmarkConfig, None, args.overrides)
    print(make_table(str(args.data), config, args.out))
    print(f"written to {args.out} and {args.out.with_suffix('.md')}")
    return 0


def _is_checkpoint(name: str) -> bool:
    """A student's or an exported folder, a shipped name, or ORG/NAME on the Hub."""
    from distill.hub import is_hub_id
    from distill.models.shipped import is_shipped

    folder = Path(name)
    if folder.exists():
        return (folder / "model.safetensors").is_file() or (folder / "export.json").is_file()
    return is_shipped(name) or is_hub_id(name)


def _weights(checkpoint: str) -> dict[str, str]:
    """Hash of a student's weights, so that a card can tell whether a report is about them."""
    from distill.models.pretrained import find_student
    from distill.models.student_files import read_config

    if (Path(checkpoint) / "export.json").is_file():
        return {}
    return {"weights_sha256": read_config(find_student(checkpoint))["weights_sha256"]}


def _stream_all(checkpoint: str, data: Path, out: Path) -> Path:
    """Stream every clip of the data through the checkpoint into `out/ID`, skipping none."""
    from distill.evaluate import find_truths
    from teacher.run_video import RunConfig, run_video

    for clip_id, truth in find_truths(data).items():
        summary = run_video(truth.parent / "video.mp4", checkpoint, out / clip_id, RunConfig())
        print(f"{clip_id}: {summary['frames']} frames streamed")
    return out


def _provenance(predictions: str) -> dict[str, Any]:
    """What produced the numbers."""
    import platform

    import numpy
    import scipy
    import torch

    from distill.provenance import code_commit

    return {
        "evaluated": predictions,
        "commit": code_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }
