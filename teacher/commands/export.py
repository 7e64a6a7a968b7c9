"""`footfall export CHECKPOINT`: graphs that run without training code, with parity and latency records."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall export`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a student's folder, or its id on the Hub")
    parser.add_argument("--format", choices=("pt2", "onnx", "aoti"), default="pt2", help="kind of graph")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for graphs and records")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Export, print parity and latency."""
    from distill.config import load_config
    from distill.export import ExportConfig, export_student, read_parity_input
    from distill.export.files import check_format
    from distill.files import read_json
    from distill.models.student import Student

    config = load_config(ExportConfig, overrides=args.overrides)
    check_format(args.format, config.precision)
    student = Student.from_pretrained(args.checkpoint)
    images, people = read_parity_input(student, config)
    differences = export_student(
        student, args.out, file_format=args.format, images=images, people=people, runs=config.runs,
        precision=config.precision,
    )  # fmt: skip
    latency = read_json(args.out / "latency.json")
    size = f"{images.shape[-1]}x{images.shape[-2]}"
    print(f"{args.out}: {len(latency['ms']) // 2} graphs ({args.format}, {config.precision}), images {size}")
    print(f"largest difference from eager execution: {max(differences.values()):.1e}")
    print(f"milliseconds (p50, p95, p99) on {latency['hardware']['cpu']}, {latency['threads']} threads:")
    for name, ms in latency["ms"].items():
        print(f"  {name:15} {ms['p50']:8.2f} {ms['p95']:8.2f} {ms['p99']:8.2f}")
    return 0
