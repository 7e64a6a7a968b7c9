"""Tiny networks of `transformers` with random weights, saved as their real files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CARD = "---\nlicense: apache-2.0\n---\nA tiny random network for tests.\n"


def save(model: Any, processor: Any, folder: Path) -> Path:
    """Write model and processor beside a model card."""
    folder.mkdir(parents=True)
    for parameter in model.parameters():  # as they come, so small that the picture is lost in rounding
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


def _dinov2(side: int = 28, layers: int = 4, **fields: Any) -> dict[str, Any]:
    return {
        "model_type": "dinov2", "image_size": side, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": layers,
        "num_attention_heads": 2, "mlp_ratio": 2, **fields,
    }  # fmt: skip


def tiny_depth_anything(folder: Path, kind: str) -> Path:
    """Depth Anything v2; `kind`: relative or metric."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=_dinov2(out_indices=[1, 2, 3, 4], reshape_hidden_states=False), reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=4, depth_estimation_type=kind,
        max_depth=20,
    )  # fmt: skip
    processor = DPTImageProcessor(size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14)
    return save(DepthAnythingForDepthEstimation(config), processor, folder)


def tiny_zoedepth(folder: Path) -> Path:
    """ZoeDepth with one head."""
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    torch.manual_seed(0)
    backbone = {
        "model_type": "beit", "image_size": 64, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 4,
        "num_attention_heads": 2, "intermediate_size": 16, "use_relative_position_bias": True,
        "reshape_hidden_states": False, "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8, bottleneck_features=8,
        num_relative_features=4, bin_embedding_dim=8, num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.1, "max_depth": 10.0}],
    )  # fmt: skip
    processor = ZoeDepthImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32)
    return save(ZoeDepthForDepthEstimation(config), processor, folder)


def tiny_depth_pro(folder: Path) -> Path:
    """Depth Pro."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    torch.manual_seed(0)
    backbone = {
        **_dinov2(side=32, layers=2), "patch_size": 8, "out_indices": None, "use_mask_token": True,
    }  # fmt: skip
    config = DepthProConfig(
        patch_size=32, fusion_hidden_size=8, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.25], scaled_images_feature_dims=[8, 8],
        merge_padding_value=1, image_model_config=dict(backbone), patch_model_config=dict(backbone),
        fov_model_config=dict(backbone), use_fov_model=False,
    )  # fmt: skip
    processor = DepthProImageProcessor(size={"height": 64, "width": 64})
    return save(DepthProForDepthEstimation(config), processor, folder)


def tiny_sam2(folder: Path, side: int = 128) -> Path:
    """SAM 2 for videos."""
    from transformers import Sam2ImageProcessor, Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model", "image_size": [side, side], "hidden_size": 8, "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "global_attention_blocks": [3],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[side // k, side // k] for k in (4, 8, 16)], "fpn_hidden_size": 128,
    }  # fmt: skip
    config = Sam2VideoConfig(
        vision_config=vision, prompt_encoder_config={"hidden_size": 128, "image_size": side, "patch_size": 16},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 16, "iou_head_hidden_dim": 16, "num_attention_heads": 2},
        image_size=side, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32, num_maskmem=3,
    )  # fmt: skip
    size = {"height": side, "width": side}
    images = Sam2ImageProcessor(size=size, mask_size={"height": side // 4, "width": side // 4})
    return save(Sam2VideoModel(config), Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size)), folder)


def tiny_sam3(folder: Path, side: int = 112) -> Path:
    """The tracker of SAM 3."""
    from transformers import (
        Sam3ImageProcessor,
        Sam3TrackerVideoConfig,
        Sam3TrackerVideoModel,
        Sam3TrackerVideoProcessor,
    )
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    torch.manual_seed(0)
    backbone = {
        "model_type": "sam3_vit_model", "image_size": side, "pretrain_image_size": side, "patch_size": 14,
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "window_size": 4,
        "global_attn_indexes": [1],
    }  # fmt: skip
    config = Sam3TrackerVideoConfig(
        vision_config={"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 128},
        prompt_encoder_config={"hidden_size": 128, "image_size": side, "patch_size": 14},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 16, "iou_head_hidden_dim": 16, "num_attention_heads": 2},
        image_size=side, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_encoder_hidden_size=128, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=128, num_maskmem=3,
    )  # fmt: skip
    size = {"height": side, "width": side}
    images = Sam3ImageProcessor(size=size, mask_size={"height": side // 14 * 4, "width": side // 14 * 4})
    model = Sam3TrackerVideoModel(config)
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.proj_out.bias, 1e3)  # or it sees nobody anywhere
    return save(
        Sam3TrackerVideoModel(config), Sam3TrackerVideoProcessor(images, Sam2VideoVideoProcessor(size=size)), folder
    )
