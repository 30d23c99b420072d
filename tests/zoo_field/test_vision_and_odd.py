"""The field beside transformers: a sample of timm, torchvision and torch.nn, and all hand-written odd models, build and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from models_zoo import odd
from models_zoo.entry import Inputs, Tiny, Unbuildable
from models_zoo.field import nn_field, timm_field, torchvision_field

SAMPLE = {
    timm_field: (
        "timm/beit/beit_base_patch16_224", "timm/crossvit/crossvit_tiny_240", "timm/deit/deit_tiny_distilled_patch16_224",
        "timm/efficientnet/test_efficientnet", "timm/gemma4_vit/gemma4_vit_167m", "timm/maxxvit/test_coatnet",
        "timm/naflexvit/naflexvit_base_patch16_parfac_gap", "timm/regnet/regnetx_002", "timm/vgg/vgg11",
    ),
    torchvision_field: ("torchvision/swin_v2", "torchvision/retinanet", "torchvision/mvit"),
    nn_field: ("nn/transformer", "nn/attention_kdim_vdim", "nn/lstm_projected", "nn/lstm_states", "nn/pixels"),
}  # fmt: skip
CASES = [pytest.param(module, name, id=name) for module, names in SAMPLE.items() for name in names]


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    args, kwargs = inputs
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def check(tiny: Tiny) -> None:
    """Finite outputs, and the same from a second build; a smaller model of the same class with outputs of the same shapes."""
    model = tiny.build()
    found, again = outputs(model, tiny.inputs()), outputs(tiny.build(), tiny.inputs())
    assert found
    assert all(leaf.isfinite().all() for leaf in found)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert not model.training
    if tiny.smaller is not None:
        smaller = tiny.smaller()
        assert type(smaller) is type(model)
        assert [leaf.shape for leaf in outputs(smaller, tiny.inputs())] == [leaf.shape for leaf in found]
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", odd.names())
def test_an_odd_model_builds_and_runs(name: str) -> None:
    check(odd.find(name))


@pytest.mark.parametrize(("module", "name"), CASES)
def test_a_sample_of_the_field_builds_and_runs(module: Any, name: str) -> None:
    check(module.find(name))


def test_every_model_file_of_timm_is_there() -> None:
    from timm.models import list_models, list_modules

    here = {name.split("/")[1] for name in timm_field.names()}
    assert here == {module for module in list_modules() if list_models(module=module)}


def test_names_are_cheap_distinct_and_found() -> None:
    for module in (timm_field, torchvision_field, nn_field, odd):
        names = module.names()
        assert len(set(names)) == len(names)
        assert all(module.find(name).name == name for name in names)


@pytest.mark.parametrize("module", [timm_field, torchvision_field, nn_field, odd])
def test_an_unknown_name_is_unbuildable(module: Any) -> None:
    with pytest.raises(Unbuildable, match="nothing"):
        module.find("timm/nothing/nothing" if module is timm_field else "nothing")
