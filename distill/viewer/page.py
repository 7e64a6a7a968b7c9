"""The page: a time slider, play, layers, side by side, the camera's own view, a screenshot."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from distill.errors import FootfallError, require
from distill.geometry.rotations import quat_from_matrix
from distill.viewer.clip import read_clips
from distill.viewer.config import ViewConfig
from distill.viewer.frames import Frames, find_video
from distill.viewer.nodes import LAYERS, ClipNodes

TICK: Final = 1 / 30
"""Seconds between two steps while playing."""
FIELD_OF_VIEW: Final = 0.8
"""Radians from top to bottom: viser's own 75 degrees stretch people at the edges."""
HEIGHT: Final = 720
"""Pixels of a screenshot."""


class Viewer:
    """A running page."""

    def __init__(self, results: Sequence[Path], config: ViewConfig) -> None:
        """Read the results and begin to serve; see `open_viewer`."""
        if not results:
            raise FootfallError("footfall view", got="no result", expected="one or more", do="name their folders")
        clips = read_clips(list(results), config.body)
        frames = [
            Frames(find_video(config.video, clip.source.folder), clip.source.result.cameras.size) for clip in clips
        ]
        viser = require("viser", extra="view")
        self.server: Any = viser.ViserServer(host=config.host, port=config.port, label="footfall", verbose=False)
        self.server.scene.set_up_direction("+z")
        self.nodes = [
            ClipNodes(
                self.server, clip, number=number, limit=config.points, threshold=config.contact_threshold, frames=frame
            )
            for number, (clip, frame) in enumerate(zip(clips, frames, strict=True))
        ]
        self._lock = threading.Lock()  # callbacks come from several threads
        self._stop = threading.Event()
        self.times = clips[0].source.times
        self._add_controls(config)
        self.server.on_client_connect(self._welcome)
        self.show(0)
        self._player = threading.Thread(target=self._play, daemon=True)
        self._player.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def show(self, frame: int) -> None:
        """Move all results to the time of a frame of the first."""
        seconds = float(self.times[frame])
        with self._lock, self.server.atomic():
            for node in self.nodes:
                node.show(seconds + self.nodes[0].clip.source.start - node.clip.source.start)
            self.clock.content = f"{seconds:.3f} s"

    def stop(self) -> None:
        """End the page."""
        self._stop.set()
        self._player.join()
        self.server.stop()

    def wait(self) -> None:
        """Serve until interrupted."""
        self._stop.wait()

    def _add_controls(self, config: ViewConfig) -> None:
        gui, last = self.server.gui, len(self.times) - 1
        self.slider = gui.add_slider("frame", min=0, max=max(1, last), step=1, initial_value=0)
        self.clock = gui.add_markdown("0.000 s")
        self.playing = gui.add_checkbox("play", False)
        self.speed = gui.add_slider("speed", min=0.1, max=2.0, step=0.1, initial_value=1.0)
        self.slider.on_update(lambda _: self.show(min(self.slider.value, last)))
        with gui.add_folder("layers"):
            self.layers = {layer: gui.add_checkbox(layer, layer != "uncertainty") for layer in LAYERS}
        for layer, box in self.layers.items():
            box.on_update(lambda _, layer=layer: self._toggle(layer))
        if len(self.nodes) > 1:
            with gui.add_folder("results"):
                for node in self.nodes:
                    box = gui.add_checkbox(node.clip.name, True)
                    box.on_update(lambda event, node=node: setattr(node.root, "visible", event.target.value))
                self.apart = gui.add_slider("apart, m", min=0.0, max=100.0, step=0.5, initial_value=config.apart)
                self.apart.on_update(lambda _: self._spread(self.apart.value))
            self._spread(config.apart)
        gui.add_button("through the camera").on_click(lambda event: self.look_through_camera(event.client))
        gui.add_button("screenshot").on_click(lambda event: send_screenshot(event.client))

    def _toggle(self, layer: str) -> None:
        for node in self.nodes:
            if layer == "uncertainty":
                node.colour_by_confidence(self.layers[layer].value)
            else:
                node.groups[layer].visible = self.layers[layer].value
        self.show(min(self.slider.value, len(self.times) - 1))

    def _spread(self, metres: float) -> None:
        for number, node in enumerate(self.nodes):
            node.move_aside(number * metres * self.rightwards())

    def _welcome(self, client: Any) -> None:
        """A new visitor looks at the middle of the first result from the side where the camera is, a little above."""
        eye, middle = self.overview()
        client.camera.position, client.camera.look_at = eye, middle
        client.camera.fov = FIELD_OF_VIEW

    def overview(self) -> tuple[Any, Any]:
        """Eye and what it looks at, [3] each, on the page."""
        clip = self.nodes[0].clip
        page, way = clip.page_from_world, clip.source.result.cameras.world_from_cam
        places = [person.bone_places[:, 0] for person in clip.people]
        middle = np.median(np.concatenate(places), axis=0) if places else (way[0] @ [0, 0, 3, 1])[:3]
        middle, eye = (page[:3, :3] @ point + page[:3, 3] for point in (middle, way[0, :3, 3]))
        away = (eye - middle) * [1, 1, 0]
        distance = max(2.5, float(np.linalg.norm(away)))
        back = away / max(float(np.linalg.norm(away)), 1e-6)
        return middle + distance * (1.8 * back + [0, 0, 0.6]), middle

    def rightwards(self) -> Any:
        """[3] level unit vector to the right of a visitor who has just come: where further results are moved."""
        eye, middle = self.overview()
        ahead = (middle - eye)[:2]
        length = float(np.linalg.norm(ahead))
        return np.array([ahead[1], -ahead[0], 0]) / length if length > 1e-6 else np.array([1.0, 0, 0])

    def look_through_camera(self, client: Any) -> None:
        """Move a visitor into the first result's camera at the present frame; its picture would hide the view."""
        self.layers["camera"].value = False
        clip = self.nodes[0].clip
        cameras, frame = clip.source.result.cameras, min(self.slider.value, len(self.times) - 1)
        pose = clip.page_from_world @ cameras.world_from_cam[frame]
        with client.atomic():
            client.camera.wxyz = quat_from_matrix(torch.from_numpy(pose[:3, :3].copy())).numpy()
            client.camera.position = pose[:3, 3]
            client.camera.fov = float(2 * np.arctan(cameras.size[1] / (2 * cameras.K[1, 1])))

    def _play(self) -> None:
        """Move the slider with the clock while "play" is ticked."""
        begun, began_at = 0.0, 0.0
        was_playing = False
        while not self._stop.wait(TICK):
            if not self.playing.value:
                was_playing = False
                continue
            if not was_playing:
                begun, began_at = time.perf_counter(), float(self.times[min(self.slider.value, len(self.times) - 1)])
                was_playing = True
            seconds = began_at + (time.perf_counter() - begun) * self.speed.value
            if seconds > self.times[-1]:
                begun, began_at, seconds = time.perf_counter(), 0.0, 0.0
            frame = int(np.searchsorted(self.times, seconds, side="right")) - 1
            if frame != self.slider.value:
                self.slider.value = frame  # its callback shows the frame


def send_screenshot(client: Any) -> None:
    """Give a visitor what they see as a PNG of the shape of their window."""
    picture = client.get_render(height=HEIGHT, width=round(HEIGHT * client.camera.aspect), transport_format="png")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    client.send_file_download("footfall.png", stream.getvalue())


def open_viewer(results: Sequence[Path], config: ViewConfig | None = None) -> Viewer:
    """Serve a page with results; returns at once, the page runs until `stop`.

    Args:
        results: folders of results (`distill.results`); time and view follow the first.
        config: settings.

    Raises:
        FootfallError: no result, one that cannot be read, a missing video or body file, or viser is not installed.
    """
    return Viewer(results, config or ViewConfig())
