"""`footfall export CHECKPOINT`: graphs that run without training code, with parity and latency records."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall export`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a student's folder, or its id on the Hub")
    parser.add_argument("--format", choices=("pt2", "onnx", "aoti"), default="pt2", help="kind of graph")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for graphs and records")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields of ExportConfig")


def run(args: argparse.Namespace) -> int:
    """Export, print parity and latency."""
    from distill.config import load_config
    from distill.export import ExportConfig, export_student, read_parity_input
    from distill.files import read_json
    from distill.models.student import Student

    config = load_config(ExportConfig, overrides=args.overrides)
    student = Student.from_pretrained(args.checkpoint)
    images, people = read_parity_input(student, config)
    differences = export_student(
        student, args.out, file_format=args.format, images=images, people=people, runs=config.runs
    )
    latency = read_json(args.out / "latency.json")
    print(f"{args.out}: encoder and pair graph ({args.format}), images {images.shape[-1]}x{images.shape[-2]}")
    print(f"largest difference from eager execution: {max(differences.values()):.1e}")
    times = ", ".join(f"{name} {ms:.1f}" for name, ms in latency["median_ms"].items())
    print(f"median ms on {latency['processor']}, {latency['threads']} threads: {times}")
    return 0
