"""What a cloned child is to others: timm, torchvision and transformers load it, and it generates with its cache as without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_model
from torch import nn
from torchvision import models
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import graphclone as gc
from graphclone.export.pytorch import save_state
from graphclone.verify import difference, outputs
from tests.cli.conftest import ROOT, Run

VIT = dict(img_size=48, depth=4, embed_dim=48, num_heads=4, num_classes=5)
TIMM: dict[
    str, tuple[dict[str, Any], dict[str, Any]]
] = {  # positions, a class token, relative-position tables, layer scales, no token
    "vit_base_patch16_224": (VIT, dict(embed_dim=24, depth=2, num_heads=2)),
    "deit3_small_patch16_224": (VIT, dict(embed_dim=36, depth=3, num_heads=3)),
    "beit_base_patch16_224": (VIT, dict(embed_dim=24, depth=2, num_heads=2)),
    "swin_tiny_patch4_window7_224": (
        dict(img_size=56, window_size=7, embed_dim=24, depths=[2, 4], num_heads=[2, 4], num_classes=5),
        dict(embed_dim=12, depths=[2, 2], num_heads=[1, 2]),
    ),
}


def words(option: str, settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (option, f"{name}={value}")]


def shaken(model: nn.Module) -> nn.Module:
    """No zeros and ones, which would hide what is mixed up."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def agrees(folder: Path, parent: nn.Module, child: nn.Module, images: torch.Tensor) -> bool:
    """Whether the child computes what the plan makes of the parent's graph."""
    plan = gc.Plan.load(folder / "plan.json")
    graph = gc.execute(plan, parent, trace=gc.capture(parent, (images,)))
    return difference(outputs(graph, ((images,), {})), outputs(child.eval(), ((images,), {}))) < 1e-5


@pytest.mark.parametrize("name", TIMM)
def test_timm_loads_it_by_checkpoint_path(name: str, run: Run, tmp_path: Path) -> None:
    sizes, smaller = TIMM[name]
    parent = shaken(timm.create_model(name, **sizes))
    save_state(parent.state_dict(), tmp_path / "parent.safetensors")
    asked = ["--checkpoint", "parent.safetensors", *words("--arg", sizes), *words("--set", smaller)]
    done = run("clone", f"timm:{name}", *asked, "-o", "child")
    assert done.status == 0, done.err
    child = timm.create_model(name, checkpoint_path=tmp_path / "child" / "model.safetensors", **sizes | smaller)
    assert agrees(tmp_path / "child", parent, child, torch.randn(3, 3, sizes["img_size"], sizes["img_size"]))


def test_torchvisions_class_loads_it(run: Run, tmp_path: Path) -> None:
    sizes, smaller = dict(width_mult=1.0, num_classes=5), dict(width_mult=0.5)
    parent = shaken(models.mobilenet_v2(**sizes))
    save_state(parent.state_dict(), tmp_path / "parent.safetensors")
    asked = ["--checkpoint", "parent.safetensors", *words("--arg", sizes), *words("--set", smaller)]
    done = run("clone", "torchvision:mobilenet_v2", *asked, "-o", "child")
    assert done.status == 0, done.err
    child = models.mobilenet_v2(**sizes | smaller)
    load_model(child, tmp_path / "child" / "model.safetensors")
    assert agrees(tmp_path / "child", parent, child, torch.randn(2, 3, 64, 64))


def test_the_sizes_that_torchvision_gives_its_class_itself_can_be_set(run: Run, tmp_path: Path) -> None:
    sizes = dict(num_layers=4, num_heads=6, hidden_dim=48, mlp_dim=96, image_size=32, num_classes=5)
    smaller = dict(num_layers=2, num_heads=3, hidden_dim=24)
    parent = shaken(models.VisionTransformer(patch_size=16, **sizes))
    save_state(parent.state_dict(), tmp_path / "parent.safetensors")
    asked = ["--checkpoint", "parent.safetensors", *words("--arg", sizes), *words("--set", smaller)]
    done = run("clone", "torchvision:vit_b_16", *asked, "-o", "child")
    assert done.status == 0, done.err
    child = models.VisionTransformer(patch_size=16, **sizes | smaller)
    load_model(child, tmp_path / "child" / "model.safetensors")
    assert agrees(tmp_path / "child", parent, child, torch.randn(2, 3, 32, 32))
    assert "`torchvision.models.get_model('vit_b_16', num_layers=2, " in (tmp_path / "child" / "README.md").read_text()
    told = run("clone", "torchvision:vit_b_16", *asked, "--set", "hiden_dim=24", "-o", "other").err
    assert "did you mean 'hidden_dim'" in told


GEMMA2 = Gemma2Config(
    vocab_size=61, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
    head_dim=12, sliding_window=8,
)  # fmt: skip
QWEN3 = Qwen3Config(
    vocab_size=61, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
    head_dim=12, use_sliding_window=True, sliding_window=8, tie_word_embeddings=True,
    layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
)  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), [(Gemma2ForCausalLM, GEMMA2), (Qwen3ForCausalLM, QWEN3)])
def test_it_generates_with_its_cache_as_without(
    kind: type[PreTrainedModel], config: PreTrainedConfig, run: Run, tmp_path: Path
) -> None:
    """Also far beyond a sliding window; and what the config says of each layer follows the blocks that the child has."""
    shaken(kind(config)).save_pretrained(tmp_path / "parent")
    done = run("clone", "parent", "--width", "residual=0.5", "--width", "*.mlp.hidden=0.5", "--depth", "0.5", "-o", "child")
    assert done.status == 0, done.err
    child, told = AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not any(told.values())
    kept = gc.Plan.load(tmp_path / "child" / "plan.json").stacks["model.layers"]
    assert child.config.layer_types == [config.layer_types[index] for index in kept]
    ids = torch.randint(3, 61, (2, 12), generator=torch.Generator().manual_seed(1))
    settings = dict(attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert child.config.use_cache
    assert torch.equal(child.generate(ids, use_cache=True, **settings), child.generate(ids, use_cache=False, **settings))


def test_a_parent_in_shards_gives_the_same_child(run: Run, tmp_path: Path) -> None:
    whole = ROOT / "graphclone" / "demo" / "parents" / "byte-llama"
    model = AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    assert len(json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())["weight_map"]) > 10
    for parent, child in ((whole, "one"), ("sharded", "other")):
        done = run("clone", parent, "--depth", "0.5", "--width", "residual=0.5", "-o", child)
        assert done.status == 0, done.err
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_child_in_shards_is_the_same_child(run: Run, tmp_path: Path) -> None:
    parent, sizes = ROOT / "graphclone" / "demo" / "parents" / "byte-llama", ("--depth", "0.5", "--width", "residual=0.5")
    shards = ("--max-shard-size", "100KB")
    for child, more in (("whole", ()), ("sharded", shards), ("graph", ("--graph", *shards))):
        done = run("clone", parent, *sizes, *more, "-o", child)
        assert done.status == 0, done.err
    assert "only Hugging Face folders have shards" in done.out
    files = set(json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(files) > 2
    assert all((tmp_path / "sharded" / name).is_file() for name in files)
    whole, sharded = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "sharded"))
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)
    refused = run("clone", parent, *sizes, "--max-shard-size", "much", "-o", "never")
    assert refused.status == 2
    assert "such as 5GB" in refused.err
