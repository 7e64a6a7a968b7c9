"""Small JOSH3R models and their files, for several test files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.models.josh3r import Josh3r, Josh3rConfig
from distill.models.mast3r import Mast3rConfig, initialise

BACKBONE = Mast3rConfig(
    enc_dim=24, enc_depth=1, enc_heads=2, dec_dim=16, dec_depth=3, dec_heads=2, hooks=(0, 1, 1, 3),
    dpt_dim=8, dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8), descriptor_dim=6, long_side=96,
)  # fmt: skip
SIZES = Josh3rConfig(dim=16, heads=4, mlp_ratio=2.0, roi_points=(5, 3), roi_channels=6, rot_dim=6)
WORDS: dict[str, Any] = {
    "mast3r_dim": 16, "num_heads": 4, "mlp_ratio": 2, "roi_size": [5, 3], "roi_conv_channels": 6, "n_rel_rot": 6,
    "hooks": [0, 1, 1, 3],
    "mast3r": {
        "constructor": {
            "pos_embed": "RoPE100", "head_type": "catmlp+dpt", "output_mode": "pts3d+desc6", "two_confs": True,
            "depth_mode": ["exp", "-inf", "inf"], "conf_mode": ["exp", 1, "inf"], "desc_conf_mode": ["exp", 0, "inf"],
            "img_size": [64, 96], "enc_embed_dim": 24, "enc_depth": 1, "enc_num_heads": 2, "dec_embed_dim": 16,
            "dec_depth": 3, "dec_num_heads": 2,
        },
        "width_overrides": {"dpt_feature_dim": 8, "dpt_last_dim": 8, "dpt_layer_dims": [8, 8, 8, 8]},
    },
}  # fmt: skip
"""`BACKBONE` and `SIZES` in the words of `config.json`."""


def small_josh3r(seed: int = 0) -> Josh3r:
    """Random weights everywhere, also in layers that start at zero and in the statistics of batch norm."""
    generator = torch.Generator().manual_seed(seed)
    model = Josh3r(SIZES, BACKBONE)
    initialise(model.mast3r, seed)
    for name, tensor in model.state_dict().items():
        if name.startswith("mast3r.") or not tensor.is_floating_point():
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        scale = 1 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
        tensor.copy_(1 + 0.1 * drawn.abs() if name.endswith("running_var") else scale * drawn)
    return model.eval()


def with_extras(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the published class saves it: second names of MASt3R's tensors, and a body model's buffers."""
    extra = {"smpl.v_template": torch.zeros(6, 3), "smpl.parents": torch.zeros(24, dtype=torch.long)}
    for name, tensor in state.items():
        for level in range(1, 5):
            if f"scratch.layer{level}_rn." in name:
                extra[name.replace(f"layer{level}_rn.", f"layer_rn.{level - 1}.")] = tensor.clone()
    assert len(extra) == 2 + 8
    return {**state, **extra}


def write_folder(folder: Path, state: dict[str, Tensor], words: dict[str, Any] | None = None) -> Path:
    """`model.safetensors` and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(WORDS if words is None else words))
    return folder
