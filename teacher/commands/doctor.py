"""`footfall doctor`: what is installed, what is missing, what that would enable and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Final

from distill.errors import FootfallError, is_installed

ENABLES: Final = {
    "people": "people found, followed and masked in video (BlazePose)",
    "teacher": "footfall label: cameras and scene from video (COLMAP)",
    "synthetic": "synthetic clips, drawn by OpenGL or by rays",
    "demo": "footfall demo: the whole loop and its page",
    "track": "curves of a training run in TensorBoard (tracker=tensorboard)",
    "export": "footfall export --format onnx (pt2 needs no extra)",
    "deepspeed": "training with ZeRO (configs/accelerate/zero2.yaml)",
    "s3": "shards in S3-compatible storage (data.shards=s3://...)",
    "neural": "depth and masks by networks of transformers (docs/neural.md)",
    "smplx": "SMPL-X bodies from your own licensed file (the package's licence is non-commercial)",
    "gaussians": "3D Gaussians drawn by gsplat on a CUDA GPU (elsewhere our own renderer draws them)",
    "convert": "footfall convert --to usd (the other formats need no extra)",
    "view": "footfall view: results in the browser",
    "rerun": "footfall view --rerun and footfall convert --to rrd: results in Rerun's viewer",
    "collect": "datasets/web_video: shots, repeats and segments of downloaded videos",
    "docs": "make docs: this documentation as a site",
    "ray": "labelling on a cluster (planned)",
    "dev": "this repository's tests, lint and types",
}
"""Extra -> what it is for; a test holds the list to pyproject.toml."""

Rows = Iterator[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`footfall doctor` takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print all sections."""
    sections = {
        "machine": machine_rows(),
        "extras": extra_rows(),
        "weights": weight_rows(),
        "licensed files (never required)": body_file_rows(),
    }
    for title, rows in sections.items():
        print(title)
        for name, found in rows:
            print(f"  {name:<12} {found}", flush=True)
    return 0


def machine_rows() -> Rows:
    """Versions, processor, accelerator, renderer."""
    from distill.provenance import code_commit

    yield "footfall", f"{importlib.metadata.version('footfall')}, code {code_commit()}"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield "torch", torch_found()
    yield "renderer", renderer_found()


def torch_found() -> str:
    """Version of torch and the devices it sees."""
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        return f"{torch.__version__}, CUDA on {', '.join(names)}"
    if torch.version.cuda is None:
        return f"{torch.__version__}, a build for CPU only: a CUDA GPU would need another build of torch"
    return f"{torch.__version__}, built for CUDA {torch.version.cuda}, but no device answers: work runs on the CPU"


def renderer_found() -> str:
    """Which renderer synthetic clips are drawn with, or why none is there."""
    from distill.synthetic.render import gl_is_available

    if gl_is_available():
        from distill.synthetic.render_gl import open_context

        return f"OpenGL by {open_context().info['GL_RENDERER']}"
    if is_installed("embreex"):
        return "rays (Embree); no OpenGL context opens (libEGL and a driver, e.g. Mesa's, would draw faster)"
    return f"none; {pip_line('synthetic')}"


def extra_rows() -> Rows:
    """One row for each extra: what is there, or what is missing and what it would enable."""
    for extra, purpose in ENABLES.items():
        missing = [package for package in sorted(packages_of(extra)) if installed_version(package) is None]
        if missing:
            yield extra, f"no {', '.join(missing)}: {purpose}; {pip_line(extra)}"
        else:
            yield extra, f"complete: {purpose}"


def packages_of(extra: str) -> set[str]:
    """Distributions that an extra of footfall brings itself or through other extras of footfall."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    for line in importlib.metadata.requires("footfall") or []:
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "footfall":
            found |= {name for other in requirement.extras for name in packages_of(other)}
        else:
            found.add(requirement.name)
    return found


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip_line(extra: str) -> str:
    """How to install an extra."""
    return f"run: pip install 'footfall[{extra}]'"


def weight_rows() -> Rows:
    """Each weight file that something here may use, with its licence."""
    from distill.metrics.lpips import BACKBONE, HEADS
    from distill.models.registry import BACKBONES, TINY_WEIGHTS
    from distill.models.shipped import SHIPPED, is_shipped
    from distill.people.weights import ALL_WEIGHTS, cache_dir, is_cached

    for weight in ALL_WEIGHTS:
        state = "in the cache" if is_cached(weight) else "not here; fetched by itself when people are first looked for"
        yield "people", f"{weight.id} ({weight.licence}): {state}"
    yield "", f"cache: {cache_dir()}"
    shipped = "shipped" if TINY_WEIGHTS.is_file() else "not shipped in this build: starts from a fixed random seed"
    for entry in BACKBONES.values():
        state = shipped
        if entry.hub_id is not None:
            here = hub_has(entry.hub_id, entry.revision)
            get = f"not here; run: hf download {entry.hub_id} --revision {entry.revision}"
            state = "in the Hub's cache" if here else get
        yield entry.name, f"({entry.licence}; {entry.terms}): {state}"
    for name in SHIPPED:
        how = f"shipped; run it with --checkpoint {name}"
        yield "student", f"{name}: {how if is_shipped(name) else 'not shipped in this build'}"
    get = f"put {BACKBONE} (torchvision) and {HEADS} (package lpips) into a folder, pass images.lpips_weights=FOLDER"
    yield "LPIPS", f"not shipped, never fetched; {get}"


def hub_has(hub_id: str, revision: str | None) -> bool:
    """Whether the Hub's cache holds a repository's weights at a revision; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "model.safetensors", revision=revision), str)


def body_file_rows() -> Rows:
    """Users' own body files in the cache's folder `bodies`, each with the word that loads it."""
    from distill.body import load_body_model
    from distill.people.weights import cache_dir

    folder = cache_dir() / "bodies"
    files = sorted(path for path in folder.glob("*") if path.suffix in (".npz", ".pkl"))
    for path in files:
        kind = "smplx" if "smplx" in path.name.lower() else "smpl"
        try:
            body = load_body_model(f"{kind}:{path}")
            yield kind, f"{body.num_vertices} vertices; use it as {kind}:{path}"
        except FootfallError as error:
            yield kind, str(error)
    if not files:
        yield "none", f"in {folder}; files elsewhere work too, as smpl:FILE or smplx:FILE; the free body needs none"
