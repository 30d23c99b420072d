"""Tiny timm models: the classes that the well-known names build, made small by keyword."""

from __future__ import annotations

from typing import Any

from torch import nn

from models_zoo.entry import Inputs, Tiny, entry, reals

Sizes = dict[str, Any]


def model(name: str, architecture: str, image: tuple[int, int], sizes: Sizes, smaller: Sizes) -> Tiny:
    def build(sizes: Sizes) -> nn.Module:
        import timm  # two seconds, so not at the top

        built: nn.Module = timm.create_model(architecture, pretrained=False, **sizes)
        return built

    def example() -> Inputs:
        return (reals(2, 3, *image),), {}

    return entry(f"timm/{name}", lambda: build(sizes), lambda: build(sizes | smaller), example)


PLAIN: Sizes = dict(img_size=(20, 44), patch_size=4, num_classes=9, embed_dim=48, num_heads=8, depth=4, mlp_ratio=1.5)
PLAIN_SMALLER: Sizes = dict(embed_dim=24, num_heads=4, depth=2)

MODELS = (
    model("vit", "vit_base_patch16_224", (20, 44), PLAIN, PLAIN_SMALLER),
    model(  # windows of 5 on grids of 20 and 10, so that every second layer of both stages is shifted
        "swin", "swin_tiny_patch4_window7_224", (40, 40),
        dict(
            img_size=40, patch_size=2, window_size=5, num_classes=9, embed_dim=36, depths=(2, 4), num_heads=(6, 12),
            mlp_ratio=2.5,
        ),
        dict(embed_dim=18, depths=(2, 2), num_heads=(3, 6)),
    ),
    model(
        "convnext", "convnext_tiny", (96, 224),
        dict(num_classes=9, depths=(2, 4, 2, 2), dims=(10, 22, 38, 54)),
        dict(depths=(1, 2, 1, 1), dims=(5, 11, 19, 27)),
    ),
    model("beit", "beit_base_patch16_224", (20, 44), PLAIN, PLAIN_SMALLER),
    model("cait", "cait_xxs24_224", (20, 44), PLAIN | dict(mlp_ratio_token_only=2.5), PLAIN_SMALLER),
)  # fmt: skip
