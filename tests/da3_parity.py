"""Numbers of the official Depth Anything 3 with random weights, and how they were made; see tests/test_da3.py.

The weights are not stored: each tensor is drawn from its own name. To make the numbers again, unpack the official
package (Apache-2.0) somewhere and give that folder; its heavy dependencies are not needed, but addict, einops and
omegaconf are:

    pip download --no-deps depth-anything-3==0.1.1 && unzip -q depth_anything_3-0.1.1-py3-none-any.whl -d official
    PYTHONPATH=official:. python tests/da3_parity.py
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

FILE: Final = Path(__file__).parent / "data" / "da3_parity.safetensors"
MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def published_words(size: str) -> dict[str, Any]:
    """`config.json` of DA3-SMALL ("small") or DA3-BASE ("base"), with its keys in their order."""
    dim, features, channels = {
        "small": (384, 64, [48, 96, 192, 384]), "base": (768, 128, [96, 192, 384, 768])
    }[size]  # fmt: skip
    net = {
        "__object__": _made_by("dinov2.dinov2", "DinoV2"), "name": f"vit{size[0]}", "out_layers": [5, 7, 9, 11],
        "alt_start": 4, "qknorm_start": 4, "rope_start": 4, "cat_token": True,
    }  # fmt: skip
    head = {
        "__object__": _made_by("dualdpt", "DualDPT"), "dim_in": 2 * dim, "output_dim": 2, "features": features,
        "out_channels": channels,
    }  # fmt: skip
    config = {
        "__object__": _made_by("da3", "DepthAnything3Net"), "net": net, "head": head,
        "cam_enc": {"__object__": _made_by("cam_enc", "CameraEnc"), "dim_out": dim},
        "cam_dec": {"__object__": _made_by("cam_dec", "CameraDec"), "dim_in": 2 * dim},
    }  # fmt: skip
    return {"model_name": f"da3-{size}", "config": config}


def small_words() -> dict[str, Any]:
    """A network of another shape: some outputs after blocks that read one view, positions on 5 x 5 tokens."""
    words = published_words("small") | {"process_res": 84}
    shape = {"embed_dim": 48, "depth": 8, "num_heads": 4, "img_size": 70, "out_layers": [2, 3, 6, 7]}
    start = dict.fromkeys(("alt_start", "qknorm_start", "rope_start"), 2)
    words["config"]["net"].update(shape, **start)
    words["config"]["head"].update(dim_in=96, features=16, out_channels=[8, 12, 16, 24])
    words["config"]["cam_enc"]["dim_out"], words["config"]["cam_dec"]["dim_in"] = 48, 96
    return words


def _made_by(module: str, name: str) -> dict[str, str]:
    return {"path": f"depth_anything_3.model.{module}", "name": name, "args": "as_params"}


def drawn_weights(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Weights by name (without the prefix "model."), of about unit gain; one seed per name."""
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name: str, shape: torch.Size) -> Tensor:
    norm_of_all_levels = "head.scratch.output_conv2_aux.0.2."
    seed_name = norm_of_all_levels + name.rsplit(".", 1)[1] if "output_conv2_aux" in name and ".2." in name else name
    drawn = np.random.RandomState(zlib.crc32(seed_name.encode())).standard_normal(int(np.prod(shape)))
    if name.endswith("gamma"):
        drawn = 0.5 + 0.1 * drawn
    elif name.endswith(("cls_token", "camera_token", "pos_embed")):
        drawn *= 0.5
    elif name == "cam_dec.fc_fov.0.bias":
        drawn = 1 + 0.1 * drawn
    elif len(shape) == 1:
        is_norm = "norm" in name or seed_name.startswith(norm_of_all_levels)
        drawn = 1 + 0.1 * drawn if is_norm and name.endswith("weight") else 0.05 * drawn
    else:
        transposed = "resize_layers.0" in name or "resize_layers.1" in name
        drawn /= np.sqrt(shape[0] if transposed else np.prod(shape[1:]))
    return torch.from_numpy(drawn).float().reshape(shape)


def drawn_images(seed: int, views: int, size: tuple[int, int]) -> Tensor:
    """Images [views, 3, H, W] of 8 bits in [0, 1]; `size` is (width, height)."""
    drawn = np.random.RandomState(seed).randint(0, 256, (views, 3, size[1], size[0]))
    return torch.from_numpy(drawn).float() / 255


def known_cameras(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """world_from_cam [1, 2, 4, 4] and K [1, 2, 3, 3]: the second camera is turned by 0.3 rad and moved."""
    world_from_cam = torch.eye(4).repeat(1, 2, 1, 1)
    cos, sin = float(np.cos(0.3)), float(np.sin(0.3))
    world_from_cam[0, 1, :3] = torch.tensor([[cos, 0, sin, 0.4], [0, 1, 0, -0.1], [-sin, 0, cos, 0.2]])
    K = torch.tensor([[60.0, 0, size[0] / 2], [0, 55.0, size[1] / 2], [0, 0, 1]]).repeat(1, 2, 1, 1)
    return world_from_cam, K


CASES: Final[dict[str, tuple[str, int, tuple[int, int], bool]]] = {
    "two_views": ("tiny", 2, (84, 56), False),
    "three_views": ("tiny", 3, (70, 70), False),
    "known_cameras": ("tiny", 2, (56, 84), True),
    "small": ("small", 2, (84, 56), False),
    "base": ("base", 2, (84, 56), False),
}
"""Case -> words, views, image (width, height), whether the cameras are given."""


def words_of(name: str) -> dict[str, Any]:
    """Words of a case's network."""
    return small_words() if name == "tiny" else published_words(name)


def thinned(case: str, name: str, value: Tensor) -> Tensor:
    """What is kept of an output: depth and last tokens of the first case, of all else every 7th pixel or patch."""
    whole = case == "two_views" and name in ("depth", "depth_conf", "tokens_3")
    if whole or name in ("camera", "world_from_cam", "K"):
        return value
    if name.startswith("tokens"):
        return value[:, ::7]
    return value[:, ::7, ::7]


@torch.no_grad()
def official_outputs(case: str) -> dict[str, Tensor]:
    """Run the official network on a case: outputs by name, views as rows."""
    from depth_anything_3.model.utils.transform import pose_encoding_to_extri_intri

    words, views, size, given = CASES[case]
    model = _official_network(words_of(words)).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(drawn_weights(shapes))
    images = ((drawn_images(len(case), views, size) - MEAN) / STD)[None]
    token = None
    if given:
        world_from_cam, K = known_cameras(size)
        token = model.cam_enc(torch.linalg.inv(world_from_cam), K, (size[1], size[0]))
    features, _ = model.backbone(images, cam_token=token, export_feat_layers=[], ref_view_strategy="first")
    dense = model.head(features, size[1], size[0], patch_start_idx=0)
    outputs = {f"tokens_{number}": layer[0][0] for number, layer in enumerate(features)}
    outputs |= {"depth": dense["depth"][0], "depth_conf": dense["depth_conf"][0]}
    outputs |= {"rays": dense["ray"][0], "ray_conf": dense["ray_conf"][0]}
    outputs["camera"] = model.cam_dec(features[-1][1])[0]
    world_from_cam, K = pose_encoding_to_extri_intri(outputs["camera"][None], (size[1], size[0]))
    outputs |= {"world_from_cam": world_from_cam[0], "K": K[0]}
    return {name: thinned(case, name, value).contiguous().clone() for name, value in outputs.items()}


def _official_network(words: dict[str, Any]) -> Any:
    """The official classes; `net` may state sizes that the official factory fixes by name."""
    from depth_anything_3.cfg import create_object
    from depth_anything_3.model.dinov2.vision_transformer import DinoVisionTransformer
    from omegaconf import OmegaConf

    config = json.loads(json.dumps(words["config"]))
    net = config["net"]
    sizes = {word: net.pop(word) for word in ("embed_dim", "depth", "num_heads", "img_size") if word in net}
    model = create_object(OmegaConf.create(config))
    if sizes:
        start = {word: net[word] for word in ("alt_start", "qknorm_start", "rope_start")}
        model.backbone.pretrained = DinoVisionTransformer(patch_size=14, cat_token=True, **sizes, **start)
    return model


if __name__ == "__main__":
    numbers = {f"{case}/{name}": value for case in CASES for name, value in official_outputs(case).items()}
    save_file(numbers, FILE, metadata={"made_by": "depth-anything-3 0.1.1", "torch": torch.__version__})
    print(f"{FILE}: {len(numbers)} arrays, {FILE.stat().st_size} bytes")
