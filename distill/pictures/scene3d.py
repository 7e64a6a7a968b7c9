"""A 3D view of results that needs nothing but a browser: points, people, cameras, a time slider.

The page carries its data and about a hundred lines of canvas code; it loads nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.geometry.conventions import SMPL_PARENTS
from distill.pictures.overlay import colour_of
from distill.pictures.plots import rigid_between
from distill.results import Result

Array = NDArray[Any]
MAX_POINTS: Final = 6000


def scene_data(results: Mapping[str, Result], *, reference: str) -> dict[str, Any]:
    """What the viewer draws, as JSON-able values; every result is moved rigidly into `reference`'s world."""
    layers = []
    for name, result in results.items():
        move = np.eye(4) if name == reference else rigid_between(results[reference], result)
        joints = result.joints_world @ move[:3, :3].T + move[:3, 3]
        people = [
            {
                "colour": colour_of(k),
                "joints": [
                    np.round(joints[t, k], 3).tolist() if result.motion.present[t, k] else None
                    for t in range(len(joints))
                ],
            }
            for k in range(len(result.motion.ids))
        ]
        layers.append({"name": name, "people": people, "cameras": _frusta(result, move)})
    points, rgb = _thin(results[reference])
    return {
        "layers": layers,
        "points": np.round(points, 3).tolist(),
        "rgb": rgb.tolist(),
        "parents": SMPL_PARENTS,
        "frames": len(results[reference].cameras.timestamps),
    }


def _thin(result: Result) -> tuple[Array, Array]:
    """At most `MAX_POINTS` scene points, evenly picked, within reach of the people."""
    roots = result.world_from_body[..., :3, 3][result.motion.present]
    centre = roots.mean(0) if len(roots) else np.zeros(3)
    near = np.linalg.norm(result.scene_points - centre, axis=-1) < 15.0
    points, rgb = result.scene_points[near], result.scene_rgb[near]
    step = max(1, len(points) // MAX_POINTS)
    return points[::step], rgb[::step]


def _frusta(result: Result, move: Array) -> list[list[list[float]]]:
    """Per frame: the camera centre and the four corners of an image plane at 0.4 m."""
    width, height = result.cameras.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rays = np.concatenate((corners, np.ones((4, 1))), 1) @ np.linalg.inv(result.cameras.K).T * 0.4
    local = np.concatenate((np.zeros((1, 3)), rays))
    world = np.einsum("tij,nj->tni", move[:3, :3] @ result.cameras.world_from_cam[:, :3, :3], local)
    centres = result.cameras.world_from_cam[:, :3, 3] @ move[:3, :3].T + move[:3, 3]
    return np.round(world + centres[:, None], 3).tolist()


def scene_html(data: dict[str, Any], element: str = "scene") -> str:
    """A `<div>` with canvas, slider and layer switches, and the script that runs it."""
    payload = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return _TEMPLATE.replace("%ID%", element).replace("%DATA%", payload)


_TEMPLATE: Final = """
<div id="%ID%" class="scene"><canvas width="900" height="520"></canvas>
<div class="controls"><button>pause</button><input type="range" min="0" value="0"><span></span></div></div>
<script>(() => {
const data = %DATA%;
const root = document.getElementById("%ID%"), canvas = root.querySelector("canvas"), g = canvas.getContext("2d");
const slider = root.querySelector("input"), clock = root.querySelector("span"), button = root.querySelector("button");
slider.max = data.frames - 1;
const visible = data.layers.map(() => true);
data.layers.forEach((layer, i) => {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox"; box.checked = true;
  box.onchange = () => { visible[i] = box.checked; draw(); };
  label.append(box, " " + layer.name); root.querySelector(".controls").append(label);
});
const roots = data.layers.flatMap(l => l.people).flatMap(p => p.joints).filter(j => j).map(j => j[0]);
const mean = k => roots.reduce((sum, p) => sum + p[k], 0) / Math.max(roots.length, 1);
const eye = data.layers[0].cameras[0][0], target = [mean(0), mean(1), mean(2)];
let yaw = Math.atan2(eye[1] - target[1], eye[0] - target[0]) + 0.6, pitch = 0.45;
let distance = 1.5 * Math.hypot(eye[0] - target[0], eye[1] - target[1]) + 2, time = 0, playing = true;
function view(p) {
  const x = p[0] - target[0], y = p[1] - target[1], z = p[2] - target[2];
  const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
  const right = -sy * x + cy * y, towards = cy * x + sy * y;
  const up = cp * z - sp * towards, depth = distance - (cp * towards + sp * z);
  return depth < 0.1 ? null : [450 + 700 * right / depth, 260 - 700 * up / depth, depth];
}
function line(a, b, colour, width, dash) {
  const p = view(a), q = view(b);
  if (!p || !q) return;
  g.strokeStyle = colour; g.lineWidth = width; g.setLineDash(dash);
  g.beginPath(); g.moveTo(p[0], p[1]); g.lineTo(q[0], q[1]); g.stroke();
}
const dashes = [[], [6, 4], [2, 3]];
function draw() {
  g.fillStyle = "#fff"; g.fillRect(0, 0, 900, 520);
  for (let k = -6; k <= 6; k++) {
    const x = Math.round(target[0]), y = Math.round(target[1]);
    line([x - 6, y + k, 0], [x + 6, y + k, 0], "#e4e4e4", 1, []);
    line([x + k, y - 6, 0], [x + k, y + 6, 0], "#e4e4e4", 1, []);
  }
  data.points.forEach((p, i) => {
    const q = view(p);
    if (q) { g.fillStyle = `rgb(${data.rgb[i]})`; g.fillRect(q[0], q[1], 2, 2); }
  });
  data.layers.forEach((layer, i) => {
    if (!visible[i]) return;
    const dash = dashes[i % 3], c = layer.cameras[Math.min(time, layer.cameras.length - 1)];
    for (let k = 1; k <= 4; k++) { line(c[0], c[k], "#555", 1, dash); line(c[k], c[k % 4 + 1], "#555", 1, dash); }
    for (const person of layer.people) {
      const joints = person.joints[Math.min(time, person.joints.length - 1)], colour = `rgb(${person.colour})`;
      for (let t = 1; t <= time; t++)
        if (person.joints[t] && person.joints[t - 1])
          line(person.joints[t - 1][0], person.joints[t][0], colour, 1, dash);
      if (joints) data.parents.forEach((p, j) => { if (p >= 0) line(joints[p], joints[j], colour, 3 - i * 0.7, dash); });
    }
  });
  slider.value = time; clock.textContent = ` frame ${time} `;
}
slider.oninput = () => { time = +slider.value; playing = false; button.textContent = "play"; draw(); };
button.onclick = () => { playing = !playing; button.textContent = playing ? "pause" : "play"; };
canvas.onpointermove = e => {
  if (e.buttons) { yaw -= e.movementX * 0.01; pitch = Math.min(1.5, Math.max(0.02, pitch + e.movementY * 0.01)); draw(); }
};
canvas.onwheel = e => { e.preventDefault(); distance *= Math.exp(e.deltaY * 0.001); draw(); };
setInterval(() => { if (playing) { time = (time + 1) % data.frames; draw(); } }, 70);
draw();
})();</script>
"""
