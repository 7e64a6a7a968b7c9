"""The pictures of docs/gallery.md and docs/view.md, all of one drawn clip.

    python benchmarks/gallery.py docs/pictures [--work FOLDER]        (or: make gallery)

Two people are drawn, filmed by a carried camera, labelled by the teacher and streamed through the checkpoint that
ships; then pictures are taken of results and, where Chromium is installed, of the page of `footfall view`.
What is done stays in FOLDER, so that a second call only takes the pictures again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from scipy.spatial import cKDTree

from distill.body import load_body_model
from distill.errors import FootfallError
from distill.pictures.overlay import overlay, sheet
from distill.pictures.plots import plot_top_down
from distill.render import Gaussians
from distill.render.ply import write_gaussians
from distill.results import load_result
from distill.synthetic import ClipSpec, write_collection
from distill.video import Decoder
from distill.viewer import ViewConfig, Viewer, open_viewer
from distill.viewer.recording import record
from teacher import label
from teacher.run_video import RunConfig, run_video

SPEC: Final = ClipSpec(id="gallery", seed=12, frames=60, fps=20.0, people=2, camera="walk", motion="walk")
WINDOW: Final[Any] = {"width": 1200, "height": 600}
"""Pixels of the page."""
PORT: Final = 8790
SOFTWARE: Final = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""Chromium without a GPU."""
SETTLE: Final = 8.0
"""Seconds that Chromium is given to draw what was sent, on a processor alone that may be busy."""


def make_results(work: Path) -> dict[str, Path]:
    """Draw, label and stream the clip; returns the folders of truth, teacher and student."""
    clip = work / SPEC.id
    write_collection(work, [SPEC])
    labels, student = work / "labels", work / "student"
    label([clip / "video.mp4"], labels, overrides=["workers=1"])
    (teacher,) = (labels / "clips").glob("*/joint")
    if not (student / "meta.json").is_file():
        run_video(clip / "video.mp4", "tiny", student, RunConfig())
    truth = work / "truth"
    if not truth.is_dir():
        shutil.copytree(clip / "truth", truth)
        write_gaussians(truth / "gaussians.ply", gaussians_of(truth))
    for name, folder in (("teacher", teacher), ("student", student)):
        beside = work / name
        if folder != beside:
            shutil.copytree(folder, beside, dirs_exist_ok=True)
    shutil.copy(clip / "video.mp4", work / "video.mp4")  # where the page looks for it
    return {name: work / name for name in ("truth", "teacher", "student")}


def gaussians_of(truth: Path) -> Gaussians:
    """The points of a result as round Gaussians, each as wide as half the way to its third neighbour."""
    result = load_result(truth)
    points = torch.from_numpy(result.scene_points).float()
    distance = torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), k=4)[0][:, 3]).float()
    count = len(points)
    return Gaussians(
        means=points, quats=torch.tensor([1.0, 0, 0, 0]).expand(count, -1).clone(),
        scales=(0.5 * distance).clamp(0.005, 0.15)[:, None].expand(-1, 3).clone(),
        opacities=torch.full((count,), 0.8), colors=torch.from_numpy(result.scene_rgb).float() / 255,
    )  # fmt: skip


def draw_overlays(results: dict[str, Path], video: Path, path: Path) -> None:
    """Rows of four frames: the frames, then truth, teacher and student on them."""
    decoder, body = Decoder(video, fps=None), load_body_model("anny")
    frames = [5, 22, 38, 55]
    pictures = [next(iter(decoder.frames(range(frame, frame + 1))))[1] for frame in frames]
    tiles = [Image.fromarray(picture) for picture in pictures if picture is not None]
    for name, folder in results.items():
        result = load_result(folder)
        for frame, picture in zip(frames, pictures, strict=True):
            assert picture is not None
            tiles.append(overlay(picture, result, frame, body, label=name))
    sheet([tile.resize((320, 180), Image.Resampling.LANCZOS) for tile in tiles], columns=4).save(path, quality=80)


def draw_page(results: dict[str, Path], folder: Path, chromium: str) -> None:
    """The page of `footfall view`: one result, three side by side, and its confidence."""
    alone = open_viewer([results["truth"]], ViewConfig(port=PORT))
    shoot(alone, folder / "view.png", chromium, lambda viewer: look(viewer, 30, away=1.0))
    alone.stop()
    three = open_viewer(list(results.values()), ViewConfig(port=PORT, apart=8.0))
    shoot(three, folder / "view_side_by_side.png", chromium, beside)
    shoot(three, folder / "view_uncertainty.png", chromium, by_confidence)
    three.stop()


def look(viewer: Viewer, frame: int, *, away: float, aside: float = 1.0) -> None:
    """Move time, and the visitor to `away` times the usual distance, `aside` metres to the right of the first result.

    The controls cover the right of the page, so what is looked at should lie a little to the left of its middle.
    """
    viewer.slider.value = frame
    (client,) = viewer.server.get_clients().values()
    eye, middle = viewer.overview()
    shift = aside * viewer.rightwards()
    client.camera.position, client.camera.look_at = middle + away * (eye - middle) + shift, middle + shift


def beside(viewer: Viewer) -> None:
    """Truth, teacher and student beside one another; only the truth has Gaussians."""
    viewer.layers["gaussians"].value = False
    look(viewer, 30, away=2.3, aside=10.5)


def by_confidence(viewer: Viewer) -> None:
    """Bodies and paths by confidence, without scene and closer together."""
    viewer.apart.value = 4.0
    for layer in ("points", "gaussians", "camera", "camera path"):
        viewer.layers[layer].value = False
    viewer.layers["uncertainty"].value = True
    look(viewer, 30, away=1.2, aside=5.2)


def shoot(viewer: Viewer, path: Path, chromium: str, prepare: Callable[[Viewer], None]) -> None:
    """Open the page, do something to it and save what Chromium shows, in 256 colours."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=SOFTWARE)
        page: Any = browser.new_page(viewport=WINDOW)
        page.goto(viewer.url)
        page.wait_for_selector("canvas", timeout=60_000)
        while not viewer.server.get_clients():
            time.sleep(0.1)
        time.sleep(SETTLE)
        prepare(viewer)
        (client,) = viewer.server.get_clients().values()
        client.flush()
        time.sleep(SETTLE)
        page.screenshot(path=path, timeout=120_000)
        browser.close()
    shrink(path)


def draw_rerun(result: Path, path: Path, chromium: str) -> None:
    """What Rerun's viewer makes of a recording of a result, as it arranges it itself."""
    from playwright.sync_api import sync_playwright

    recording = record([result], result.with_suffix(".rrd"), ViewConfig())
    program = [str(Path(sys.executable).with_name("rerun")), str(recording), "--web-viewer", "--hide-welcome-screen"]
    viewer = subprocess.Popen([*program, f"--web-viewer-port={PORT + 1}", f"--port={PORT + 2}"])
    try:
        with sync_playwright() as run:
            browser = run.chromium.launch(executable_path=chromium, args=SOFTWARE)
            page = browser.new_page(viewport={"width": 900, "height": 560})
            time.sleep(SETTLE)
            page.goto(
                f"http://127.0.0.1:{PORT + 1}/?url=rerun%2Bhttp%3A%2F%2F127.0.0.1%3A{PORT + 2}%2Fproxy&renderer=webgl"
            )
            time.sleep(5 * SETTLE)  # its page is 30 MB of WebAssembly
            page.screenshot(path=path, timeout=120_000)
            browser.close()
    finally:
        viewer.terminate()
        viewer.wait()
    shrink(path)


def shrink(path: Path) -> None:
    """A screenshot in 256 colours."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Draw everything; 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder for the pictures")
    parser.add_argument("--work", type=Path, help="folder for clip and results; default: a temporary one")
    args = parser.parse_args(arguments)
    args.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        try:
            results = make_results(work)
        except FootfallError as error:
            print(f"gallery: {error}", file=sys.stderr)
            return 2
        draw_overlays(results, work / "video.mp4", args.pictures / "overlays.jpg")
        loaded = {name: load_result(folder) for name, folder in results.items()}
        plot_top_down(args.pictures / "above.png", loaded, reference="truth")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if chromium is None:
            print("gallery: no Chromium, so no pictures of the page (apt-get install chromium)", file=sys.stderr)
        else:
            draw_page(results, args.pictures, chromium)
            draw_rerun(results["student"], args.pictures / "rerun.png", chromium)
    print(f"pictures are in {args.pictures}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
