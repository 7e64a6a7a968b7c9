"""`footfall doctor`: what is installed, what is missing, what that would enable and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from distill.errors import FootfallError, is_installed

ENABLES: Final = {
    "people": "people found, followed and masked in video (BlazePose)",
    "teacher": "footfall label: cameras and scene from video (COLMAP)",
    "synthetic": "synthetic clips, drawn by OpenGL or by rays",
    "demo": "footfall demo: the whole loop and its page",
    "track": "curves of a training run in TensorBoard (tracker=tensorboard)",
    "onnx": "exported graphs run by onnxruntime, without a student's own code",
    "export": "footfall export --format onnx (pt2 needs no extra)",
    "deepspeed": "training with ZeRO (configs/accelerate/zero2.yaml)",
    "s3": "shards in S3-compatible storage (data.shards=s3://...)",
    "neural": "depth and masks by networks of transformers (docs/neural.md)",
    "smplx": "SMPL-X bodies from your own licensed file (the package's licence is non-commercial)",
    "gaussians": "3D Gaussians drawn by gsplat on a CUDA GPU (elsewhere our own renderer draws them)",
    "convert": "footfall convert --to usd (the other formats need no extra)",
    "serve": "footfall serve: a stream for other programs (HTTP and WebSocket)",
    "view": "footfall view: results in the browser",
    "rerun": "footfall view --rerun and footfall convert --to rrd: results in Rerun's viewer",
    "collect": "datasets/web_video: shots, repeats and segments of downloaded videos",
    "docs": "make docs: this documentation as a site",
    "ray": "footfall label --ray ADDRESS: labelling spread over a cluster",
    "dev": "this repository's tests, lint and types",
}
"""Extra -> what it is for; a test holds the list to pyproject.toml."""

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "firefox")
LEAST_GB: Final = 5.0
"""Free space below which is said to be little."""

Rows = Iterator[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`footfall doctor` takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print all sections."""
    sections = {
        "machine": machine_rows(),
        "programs": program_rows(),
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
    """Versions, processor, memory, free space, accelerator, decoder, renderer."""
    from distill.provenance import code_commit

    yield "footfall", f"{importlib.metadata.version('footfall')}, code {code_commit()}"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield "memory", f"{memory_gb():.0f} GB"
    yield from disk_rows()
    yield "torch", torch_found()
    yield "decoder", decoder_found()
    yield "renderer", renderer_found()


def memory_gb() -> float:
    """All memory of the machine, 1e9 bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def disk_rows() -> Rows:
    """Free space where results, weights and temporary files go."""
    from distill.people.weights import cache_dir

    for what, folder in (("here", Path.cwd()), ("cache", cache_dir()), ("temporary", Path(tempfile.gettempdir()))):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        advice = "" if free >= LEAST_GB else f": less than {LEAST_GB:.0f} GB, free some or name another folder"
        yield "disk", f"{free:.1f} GB free {what} ({folder}){advice}"


def decoder_found() -> str:
    """What videos are read with; it is part of the base install, but has no build for every platform."""
    try:
        import decord
    except (ImportError, OSError) as error:
        return f"none ({error}): no video can be read, folders of images can; run: pip install 'decord2>=3.4'"
    return f"decord {decord.__version__}: H.264, H.265, VP9, AV1 in mp4, mov, mkv, webm; folders of images need none"


def program_rows() -> Rows:
    """Programs that are not Python packages."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    get = "none on this machine: footfall view is then looked at from another, by ssh -L; tests of the page and"
    yield "browser", browser or f"{get} make gallery need one (apt-get install chromium)"
    blender = shutil.which("blender")
    yield "Blender", blender or "not on PATH: only for --to blender and its test; from blender.org, or pip install bpy"
    git = shutil.which("git")
    yield "git", git or "not on PATH: records then cannot name the commit of the code (apt-get install git)"


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
    from distill.people.weights import ALL_WEIGHTS, FACE_DETECTOR, cache_dir, is_cached

    for weight in (*ALL_WEIGHTS, FACE_DETECTOR):
        when = "faces are first blurred" if weight is FACE_DETECTOR else "people are first looked for"
        state = "in the cache" if is_cached(weight) else f"not here; fetched by itself when {when}"
        yield "people", f"{weight.id} ({weight.licence}): {state}"
    yield "", f"cache: {cache_dir()}"
    shipped = "shipped" if TINY_WEIGHTS.is_file() else "not shipped in this build: starts from a fixed random seed"
    for entry in BACKBONES.values():
        state = shipped
        if entry.hub_id is not None:
            here = hub_has(entry.hub_id, entry.revision)
            get = f"not here; run: hf download {entry.hub_id} --revision {entry.revision}"
            state = "in the Hub's cache" if here else f"{get}; it would be the backbone of a larger student"
        yield entry.name, f"({entry.licence}; {entry.terms}): {state}"
    for name in SHIPPED:
        how = f"shipped; run it with --checkpoint {name}"
        yield "student", f"{name}: {how if is_shipped(name) else 'not shipped in this build'}"
    yield from network_rows()
    get = f"put {BACKBONE} (torchvision) and {HEADS} (package lpips) into a folder, pass images.lpips_weights=FOLDER"
    yield "LPIPS", f"not shipped, never fetched; {get}"


def network_rows() -> Rows:
    """Networks of others that a setting turns on, with the setting."""
    from teacher.initialisers.depth_models import DepthModelConfig
    from teacher.initialisers.masks_sam import MasksConfig

    depth, masks = DepthModelConfig().model, MasksConfig().model
    for slot, model, setting in (("depth", depth, "depth.use=transformers"), ("masks", masks, "people.masks.use=sam")):
        state = "in the Hub's cache" if hub_has(model, None) else f"not here; run: hf download {model}"
        yield slot, f"{model} (licence: its card), for {setting}: {state}"
    get = "name your own file, --checkpoint josh3r:FILE; published without a licence, on a non-commercial backbone"
    yield "JOSH3R", f"never fetched; {get}"


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
