"""`footfall evaluate CHECKPOINT_OR_LABELS --data D --out report.json [key=value ...]`: score against truth.

`footfall evaluate RENDERS --data CLIPS --out report.json [images.KEY=value ...]`: rendered frames against real ones.

`footfall evaluate --ablation --data COLLECTION --out table.json [key=value ...]`: the teacher's own tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.evaluate_images import ImagesConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall evaluate`."""
    parser.add_argument(
        "predictions", metavar="CHECKPOINT_OR_LABELS", nargs="?",
        help="folder of footfall label or run, a folder of results, a single result, a checkpoint, or rendered frames",
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
    from distill.renders import find_renders

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
    if not _is_checkpoint(args.predictions) and find_renders(predictions, []):
        return _pictures(args, config.images, provenance)
    if _is_checkpoint(args.predictions):
        provenance |= _weights(args.predictions)
        predictions = _stream_all(args.predictions, args.data, args.out.with_suffix(""))
    report = evaluate(predictions, args.data, config, provenance=provenance)
    markdown = write_report(args.out, report)
    print(markdown_table(report))
    if config.images.render:
        _draw(args, predictions, config.images, provenance)
    print(f"written to {args.out} and {markdown}")
    return 0


def _pictures(args: argparse.Namespace, config: ImagesConfig, provenance: dict[str, Any]) -> int:
    """Score folders of rendered frames, write the report, print the table."""
    from distill.evaluate_images import evaluate_renders

    _write_images(args.out, evaluate_renders(Path(args.predictions), args.data, config, provenance=provenance))
    return 0


def _draw(args: argparse.Namespace, predictions: Path, config: ImagesConfig, provenance: dict[str, Any]) -> None:
    """Draw the Gaussians of the results beside the report, and score the pictures in a report of their own."""
    from distill.evaluate import find_predictions
    from distill.evaluate_images import draw_and_evaluate
    from distill.image_targets import find_image_targets

    data = args.data.parent if args.data.is_file() else args.data
    results = find_predictions(predictions, list(find_image_targets(data)))
    folder = args.out.with_name(f"{args.out.stem}-renders")
    report = draw_and_evaluate(results, data, config, folder, provenance=provenance)
    _write_images(args.out.with_name(f"{args.out.stem}-images.json"), report)


def _write_images(path: Path, report: dict[str, Any]) -> None:
    from distill.evaluate_images import images_table
    from distill.files import write_json, write_text

    write_text(path.with_suffix(".md"), images_table(report))
    write_json(path, report)
    print(images_table(report))
    print(f"written to {path} and {path.with_suffix('.md')}")


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
