"""timm and torchvision: two libraries whose models a name makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import VisionTransformer

from graphclone.errors import SourceError
from graphclone.export.pytorch import save_state
from graphclone.sources import destination, load
from graphclone.sources.torchvision_source import _made

TIMM, TORCHVISION = "timm:vit_tiny_patch16_224", "torchvision:mobilenet_v2"
SMALL = {
    TIMM: {"depth": 2, "img_size": 32, "embed_dim": 24, "num_heads": 3, "num_classes": 5},
    TORCHVISION: {"width_mult": 0.25, "num_classes": 5},
}
SMALLER = {TIMM: {"embed_dim": "12"}, TORCHVISION: {"width_mult": "0.125"}}
SIDE = {TIMM: 32, TORCHVISION: 224}


@pytest.mark.parametrize("spec", [TIMM, TORCHVISION])
def test_a_name_makes_a_parent_and_its_inputs(spec: str) -> None:
    parent = load(spec, args=SMALL[spec])
    assert tuple(parent.args[0].shape) == (2, 3, SIDE[spec], SIDE[spec])
    assert parent.module(*parent.args).shape == (2, 5)
    assert not parent.module.training


@pytest.mark.parametrize("spec", [TIMM, TORCHVISION])
def test_a_destination_keeps_the_other_arguments(spec: str) -> None:
    parent = load(spec, args=SMALL[spec])
    child = destination(parent, SMALLER[spec])
    assert child(*parent.args).shape == (2, 5)
    assert sum(map(torch.numel, child.parameters())) < sum(map(torch.numel, parent.module.parameters()))


@pytest.mark.parametrize("spec", [TIMM, TORCHVISION])
def test_trained_weights_come_from_a_checkpoint(spec: str, tmp_path: Path) -> None:
    trained = destination(load(spec, args=SMALL[spec]), {}, seed=7)
    save_state(trained.state_dict(), tmp_path / "trained.safetensors")
    parent = load(spec, args=SMALL[spec], checkpoint=tmp_path / "trained.safetensors")
    assert torch.equal(parent.module(*parent.args), trained(*parent.args))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("timm:vit_tinny_patch16_224", "has no model 'vit_tinny_patch16_224'\n  try      did you mean 'vit_tiny_patch16_224'"),
        ("torchvision:vit_b_17", "torchvision has no model 'vit_b_17'\n  try      did you mean 'vit_b_16'"),
    ],
)
def test_an_unknown_name_has_a_neighbour(spec: str, says: str) -> None:
    with pytest.raises(SourceError) as caught:
        load(spec)
    assert says in str(caught.value)


@pytest.mark.parametrize("spec", [TIMM, TORCHVISION])
def test_an_argument_that_the_model_does_not_take(spec: str) -> None:
    with pytest.raises(SourceError, match=r"it raised TypeError: .*wdith"):
        load(spec, args=SMALL[spec] | {"wdith": 3})


def test_timm_says_what_size_of_image_it_takes() -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "in_chans": 1}
    assert tuple(load("timm:convnext_atto", args=arguments).args[0].shape) == (2, 1, 224, 224)


def test_weights_are_of_the_sizes_that_torchvision_gives_its_class() -> None:
    def builder(weights: object = None, **rest: Any) -> VisionTransformer:
        return VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, **rest)

    assert len(_made(builder, num_layers=3, weights=None).encoder.layers) == 3
    with pytest.raises(SourceError, match="cannot give VisionTransformer num_layers and weights"):
        _made(builder, num_layers=3, weights="DEFAULT")
