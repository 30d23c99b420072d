"""Settings that a config has one of per layer follow the blocks that the child is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
)

import graphclone as gc
from graphclone.export import source
from tests.cli.conftest import Run

SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """Eight layers of alternating attention, whose window is shorter than the inputs; norms that are no ones."""
    torch.manual_seed(0)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=12, sliding_window=4)
    sizes = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=8, max_position_embeddings=64)
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "gemma")
    return tmp_path / "gemma"


def test_the_types_of_layers_are_those_of_the_kept_blocks(run: Run, gemma: Path, tmp_path: Path) -> None:
    done = run("clone", gemma, "--depth", "3", "--width", "*.mlp.hidden=0.5", "-o", "child")
    assert done.status == 0, done.err
    assert gc.Plan.load(tmp_path / "child" / "plan.json").stacks["model.layers"] == (0, 1, 7)
    child, told = AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not any(told.values())
    assert child.config.layer_types == [SLIDING, FULL, FULL], "by itself its class would make the last one sliding"
    assert run("clone", gemma, "--depth", "3", "--width", "*.mlp.hidden=0.5", "--graph", "-o", "graph").status == 0
    ids = torch.arange(22).view(2, 11)
    torch.testing.assert_close(child.eval()(input_ids=ids).logits, source.load(tmp_path / "graph")(input_ids=ids).logits)
    cached, uncached = (child.generate(ids, max_new_tokens=7, do_sample=False, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, uncached)


def test_data_that_chooses_the_blocks_chooses_their_types(run: Run, gemma: Path, tmp_path: Path) -> None:
    save_file({"input_ids": torch.randint(97, (16, 11))}, tmp_path / "data.safetensors")
    done = run("clone", gemma, "--depth", "3", "--data", "data.safetensors", "-o", "child")
    assert done.status == 0, done.err
    kept = gc.Plan.load(tmp_path / "child" / "plan.json").stacks["model.layers"]
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert child.config.layer_types == [FULL if block % 2 else SLIDING for block in kept]
    assert run("verify", "child", "--parent", gemma).status == 0


def test_blocks_of_two_stacks_are_numbered_through_where_they_are_modules_of_one_list(run: Run, tmp_path: Path) -> None:
    """Three layers without experts, then three with: of each the middle one goes."""
    sizes = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=6, moe_intermediate_size=24, head_dim=12)
    experts = dict(n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=3)
    config = Glm4MoeConfig(**sizes, **experts, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    Glm4MoeForCausalLM(config).save_pretrained(tmp_path / "parent")
    done = run("clone", "parent", "--depth", "0.5", "-o", "child")
    assert done.status == 0, done.err
    assert "num_hidden_layers=4 first_k_dense_replace=2" in done.out
    assert "compute otherwise than the blocks" not in done.out, "no layer is outside of all stacks"
    parent, child = (AutoModelForCausalLM.from_pretrained(tmp_path / name).model.layers for name in ("parent", "child"))
    for layer, of in zip(child, (0, 2, 3, 5), strict=True):
        assert torch.equal(layer.self_attn.q_proj.weight, parent[of].self_attn.q_proj.weight)
    assert run("verify", "child", "--parent", "parent").status == 0


def test_layers_whose_heads_have_another_size_keep_it(run: Run, tmp_path: Path) -> None:
    kinds = [SLIDING, FULL, SLIDING, SLIDING, FULL, FULL]
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=12, global_head_dim=16, sliding_window=4)
    sizes = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=6, max_position_embeddings=64)
    config = Gemma4TextConfig(**sizes, **heads, layer_types=kinds, hidden_size_per_layer_input=0, pad_token_id=0)
    Gemma4ForCausalLM(config).save_pretrained(tmp_path / "parent")
    done = run("clone", "parent", "--depth", "4", "--width", "*.mlp.hidden=0.5", "-o", "child")
    assert done.status == 0, done.err
    assert "num_hidden_layers=4 intermediate_size=40" in done.out
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert gc.Plan.load(tmp_path / "child" / "plan.json").stacks["model.layers"] == (0, 1, 4, 5)
    assert [each.head_dim for each in child.config.per_layer_config] == [12, 16, 16, 16]
    assert run("verify", "child", "--parent", "parent").status == 0
