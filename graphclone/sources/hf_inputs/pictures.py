"""Pixels, as each kind of vision tower takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphclone.sources.hf_inputs.case import PICTURES, Case, integers, reals

_TOWERS = ("vision_config", "vision_tower_config", "vit_config", "image_config", "backbone_config", "encoder")
_SEVERAL = ("colmodernvbert", "colidefics3", "perception_lm")
IMAGE = 64  # where the config names no size, as convolutional networks do


def pictures(case: Case) -> dict[str, Any]:
    """Pixel inputs for a forward that takes them."""
    made: dict[str, Any] = {}
    if getattr(case.config, "vision_config", made) is None:
        return made
    grid = next((name for name in ("image_grid_thw", "grid_thw") if name in case.accepts), None)
    pixels = next((name for name in ("pixel_values", "hidden_states") if name in case.accepts), None)
    if grid and pixels:
        return _patches(case, pixels, grid)
    if case.type.startswith("minicpm") and "target_sizes" in case.accepts:
        patch = case.size("patch_size", under=_TOWERS)
        return {"pixel_values": reals(1, 3, patch, 64 * patch), "target_sizes": torch.tensor([[4, 8], [8, 4]])}
    if "image_grid_hw" in case.accepts and case.type == "nemotron_h_omni":
        patch = case.size("patch_size", under=_TOWERS)
        return {"pixel_values": reals(48, channels(case) * patch * patch), "image_grid_hw": torch.tensor([[4, 6], [6, 4]])}
    if "spatial_shapes" in case.accepts:
        return _naflex(case)
    if case.size("image_grid_pinpoints") and "image_sizes" in case.accepts:  # the whole image and the tiles of its best grid
        height, width = image_size(case)
        made["pixel_values"] = reals(PICTURES, 3, channels(case), height, width)
        made["image_sizes"] = torch.tensor([[height, 2 * width]] * PICTURES)
        return made
    if "pixel_values" in case.accepts:
        several = (
            (1,) if "pixel_attention_mask" in case.accepts or case.type in _SEVERAL else ()
        )  # images of a row, one after another
        made["pixel_values"] = reals(PICTURES, *several, channels(case), *image_size(case))
        masked = () if case.type == "granite_docling" else image_size(case)  # there whole images are masked
        made["pixel_attention_mask"] = torch.ones(PICTURES, *several, *masked, dtype=torch.bool)
        if case.type != "llava":  # its tower is of one size
            made["image_sizes"] = torch.tensor([image_size(case)] * PICTURES)
    if "high_res_pixel_values" in case.accepts:
        size = case.config.high_res_vision_config.image_size
        made["high_res_pixel_values"] = reals(PICTURES, channels(case), size, size, seed=1)
    if "pixel_values_videos" in case.accepts and "pixel_values_videos" in case.required:
        made["pixel_values_videos"] = reals(
            PICTURES, case.size("num_frames", "frames_per_clip", default=4), channels(case), *image_size(case)
        )
    return made


def channels(case: Case) -> int:
    value = case.size("num_channels", "in_channels", "in_chans", default=3, under=_TOWERS)
    return int(value) if isinstance(value, int) else 3


def image_size(case: Case) -> tuple[int, int]:
    if case.type == "pp_ocrv5_mobile_rec":  # a line of text
        return 96, 160
    arguments = case.size("model_args", default={}, under=_TOWERS)
    size = arguments.get("img_size") or case.size("image_size", "img_size", default=IMAGE, under=_TOWERS)
    if isinstance(size, dict):
        size = size["height"], size["width"]
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def _naflex(case: Case) -> dict[str, Any]:
    """Flat patches with each image's rows and columns."""
    patch = case.size("patch_size", "encoder_patch_size", under=_TOWERS)
    return {
        "pixel_values": reals(PICTURES, 24, channels(case) * patch * patch),
        "spatial_shapes": torch.tensor([[4, 6], [6, 4]]),
        "pixel_attention_mask": torch.ones(PICTURES, 24, dtype=torch.long),
    }


def _patches(case: Case, pixels: str, grid: str) -> dict[str, Any]:
    """Images of two shapes cut into flat patches, all in one row, with each one's number of frames, rows and columns."""
    merge = case.size("spatial_merge_size", "merge_size", default=2, under=_TOWERS)
    patch = case.size("patch_size", "spatial_patch_size", under=_TOWERS)
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    frames = case.size("temporal_patch_size", "patch_temporal", default=1, under=_TOWERS)
    shapes: Tensor = torch.tensor([[1, 2 * merge, 3 * merge], [1, 3 * merge, 2 * merge]])
    if case.type.startswith("hunyuan"):  # a token for each end of a row, so images of one shape
        shapes[1] = shapes[0]
    count = int(shapes.prod(-1).sum())
    flat = reals(count, channels(case) * frames * patch * patch)
    if case.type.startswith("kimi_k25"):
        flat = flat.view(count, channels(case), patch, patch)
    if case.type.startswith("paddleocr_vl"):
        flat = flat.view(*((1,) if case.type.endswith("vision") else ()), count, channels(case), patch, patch)
    merges = torch.tensor([merge] * PICTURES)
    return {pixels: flat, grid: shapes, "image_merge_sizes": merges, "merge_sizes": merges}


__all__ = ["IMAGE", "channels", "image_size", "integers", "pictures"]
