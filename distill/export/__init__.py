"""Export a student to graphs that run without this package's training code or configs (docs/export.md).

    encoder     images [1, 3, H, W] -> features [1, N, C]
    detect      features -> candidate people: log odds, boxes
    identify    features, boxes of people -> who they are
    look        images, boxes of people -> looks, what their own pixels show
    pair        features of two frames and prompts (`PAIR_INPUTS`) -> the fields of PairPrediction
    points      features of two frames -> points of the first and their confidence, if the backbone has any
    body.npz    joints and feet of the body that the pair graph answers in
    export.json, parity.json, latency.json    sizes, names, licence; difference from eager; milliseconds

Graphs end in .pt2, .onnx or .aoti.pt2. They are apart so that a stream encodes each frame and looks at each person
once. Image size is fixed; the numbers of pairs and people are not.
"""

from distill.export.config import PRECISIONS, ExportConfig
from distill.export.inputs import example_input, example_prompts, read_frames, read_parity_input
from distill.export.loaded import ExportedStudent, load_exported
from distill.export.parts import PAIR_INPUTS, PAIR_OUTPUTS
from distill.export.write import TOLERANCES, export_student, record_parity
from distill.runner.network import EXPORT_FORMAT

__all__ = [
    "EXPORT_FORMAT", "PAIR_INPUTS", "PAIR_OUTPUTS", "PRECISIONS", "TOLERANCES", "ExportConfig", "ExportedStudent",
    "example_input", "example_prompts", "export_student", "load_exported", "read_frames", "read_parity_input",
    "record_parity",
]  # fmt: skip
