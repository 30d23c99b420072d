"""Experts as a folder is loaded: run in groups, as transformers computes them where nobody says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphclone as gc
from benchmarks.experts import PAGE, ROLES, page, roles
from graphclone.rotation import meetings
from graphclone.verify import difference, maskable, masked_parent, outputs, permutation, rotation, two_roads
from models_zoo import field
from models_zoo.field.hf.zoo import set_experts

TYPES = [
    "mixtral/MixtralForCausalLM",
    "qwen3_moe/Qwen3MoeForCausalLM",
    "gpt_oss/GptOssForCausalLM",
    "granitemoe/GraniteMoeForCausalLM",
    "deepseek_v3/DeepseekV3ForCausalLM",
    "olmoe/OlmoeForCausalLM",
]


@pytest.mark.parametrize("name", TYPES)
def test_experts_their_hidden_units_and_the_residual_are_free(name: str) -> None:
    entry = field.find(f"hf/{name}")
    model, inputs = entry.build(), entry.inputs()
    assert set_experts(model, "grouped_mm")
    trace = gc.capture(model, *inputs)
    assert any("grouped_mm" in str(node.target) for node in trace.graph.nodes)
    layout = gc.analyze(trace)
    assert roles(model, layout) == dict.fromkeys(ROLES, "free")
    verdicts = (
        permutation(layout.trace, layout, inputs, outputs(model, inputs), 0),
        masked_parent(layout.trace, layout, inputs, 0),
    )
    assert all(verdict.passed for verdict in verdicts), verdicts
    (stream,) = (factor for factor in layout.factors if factor.kind == "residual")
    turns = meetings(layout, stream)
    assert {name for name in layout.parameters if ".experts." in name and name.endswith("down_proj")} <= {
        name for name, _ in turns.writers
    }
    assert rotation(layout.trace, layout, inputs, outputs(model, inputs), 0).passed
    masked = {factor for factor in maskable(layout) if any(".experts." in name for name, _ in factor.slots)}
    assert len(masked) == sum(".experts.down_proj" in name for name in layout.parameters if "bias" not in name)


def test_a_stream_that_experts_read_and_write_is_rotated() -> None:
    entry = field.find("hf/mixtral/MixtralForCausalLM")
    model, (args, kwargs) = entry.build(), entry.inputs()
    small = entry.others["half widths"]()
    assert set_experts(model, "grouped_mm")
    assert set_experts(small, "grouped_mm")
    data = [{**kwargs, "input_ids": kwargs["input_ids"].roll(shift, -1)} for shift in range(4)]
    child, report = gc.subclone(model, small, args, kwargs, data=data)
    assert "residual" in report.plan.rotated
    assert two_roads(report.plan, model, child, (args, kwargs)).passed


def test_dropping_experts_is_never_choosing_them() -> None:
    """No oracle masks experts, since a router compares them; a router's bias can."""
    entry = field.find("hf/gpt_oss/GptOssForCausalLM")
    model, inputs = entry.build(), entry.inputs()
    set_experts(model, "grouped_mm")
    layout = gc.analyze(gc.capture(model, *inputs))
    banks = [factor for factor in layout.factors if factor.kind == "experts"]
    assert [factor.size for factor in banks] == [6] * 4
    child = gc.select(layout.trace, layout, dict.fromkeys(banks, (4, 1, 5)))
    with torch.no_grad():
        for name, bias in model.named_parameters():
            if name.endswith("router.bias"):
                bias[[0, 2, 3]] = -1e9
    assert difference(outputs(model, inputs), outputs(child, inputs)) < 1e-5


def test_how_many_tokens_an_expert_got_says_nothing_of_a_destination() -> None:
    """JetMoE splits its tokens by how many each expert got: other weights, other sizes."""
    entry = field.find("hf/jetmoe/JetMoeForCausalLM")
    model, (args, kwargs) = entry.build(), entry.inputs()
    child, report = gc.subclone(model, entry.others["half widths"], args, kwargs, recipe="paper")
    assert two_roads(report.plan, model, child, (args, kwargs)).passed


def test_the_page_says_what_is_frozen_and_why() -> None:
    free, frozen = dict.fromkeys(ROLES, "free"), {"experts": "aten.foo: in order", "hidden": "free", "residual": "free"}
    rows: dict[str, Any] = {"hf/a/A": {"grouped_mm": free, "batched_mm": free}, "hf/b/B": {"grouped_mm": frozen}}
    written = page(rows)
    assert "| b | grouped_mm | aten.foo: in order | free | free |" in written
    assert "All free: a.\n" in written
    assert PAGE.name == "experts.md"
