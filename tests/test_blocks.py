"""Blocks are found in the graph: pre-norm, post-norm, parallel, encoder and decoder, stages, class attention, stacked parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from models_zoo import tiny
from tests.zoo import subject

STACKS = {
    "hf/gpt2": {"transformer.h": "aaaa"},
    "hf/llama": {"model.layers": "aaaa"},
    "hf/qwen3": {"model.layers": "aaaa"},
    "hf/gemma2": {"model.layers": "abab"},
    "hf/gpt_neox": {"gpt_neox.layers": "aaaa"},
    "hf/bert": {"bert.encoder.layer": "aaaa"},
    "hf/t5": {"encoder.block": "aaaa", "decoder.block": "aaaa"},
    "hf/vit": {"vit.layers": "aaaa"},
    "hf/swin": {"swin.encoder.layers.0.blocks": "ab", "swin.encoder.layers.1.blocks": "abab"},
    "hf/whisper": {"model.encoder.layers": "aaaa", "model.decoder.layers": "aaaa"},
    "hf/mamba": {"backbone.layers": "aaaa"},
    "hf/deberta_v2": {"deberta.encoder.layer": "aaaa"},
    "timm/vit": {"blocks": "aaaa"},
    "timm/swin": {"layers.0.blocks": "ab", "layers.1.blocks": "abab"},
    "timm/convnext": {"stages.0.blocks": "aa", "stages.1.blocks": "aaaa", "stages.2.blocks": "aa", "stages.3.blocks": "aa"},
    "timm/beit": {"blocks": "aaaa"},
    "timm/cait": {"blocks": "aaaa", "blocks_token_only": "aa"},
    "torch/encoder": {"encoder.layers": "aaaa"},
    "raw/einsum_gpt": {"block": "aaaa"},
    "raw/stacked_gpt": {"block": "aaaa"},
}


@pytest.mark.parametrize("name", tiny.names())
def test_the_stacks_and_kinds_of_every_model_in_the_zoo(name: str) -> None:
    found = {s.name: "".join("abcdef"[b.kind] for b in s.blocks) for s in subject(name).layout.blocks}
    assert found == STACKS[name]


def test_dropping_the_middle_of_a_residual_model_bypasses_it() -> None:
    it = subject("hf/gpt2")
    child = gc.execute(gc.plan(it.layout, depth=2, scale=False), it.model, trace=it.trace)
    blocks = it.model.transformer.h
    it.model.transformer.h = nn.ModuleList([blocks[0], blocks[3]])
    try:
        torch.testing.assert_close(child(**it.kwargs).logits, it.model(**it.kwargs).logits)
    finally:
        it.model.transformer.h = blocks


@pytest.mark.parametrize("name", ["hf/bert", "hf/llama", "timm/vit"])
def test_a_deeper_child_repeats_blocks_with_parameters_of_their_own(name: str) -> None:
    it = subject(name)
    plan = gc.plan(it.layout, depth=6, scale=False)
    child = gc.execute(plan, it.model, trace=it.trace)
    (stack,) = it.layout.blocks
    assert plan.stacks[stack.name] == (0, 0, 1, 2, 2, 3)
    again = {n: p for n, p in child.named_parameters() if f"{stack.blocks[0].name}_2." in n}
    once = {n: p for n, p in child.named_parameters() if n.startswith(f"{stack.blocks[0].name}.")}
    assert len(again) == len(once) > 0
    for name_again, parameter in again.items():
        original = once[name_again.replace(f"{stack.blocks[0].name}_2.", f"{stack.blocks[0].name}.")]
        assert torch.equal(parameter, original)
        assert parameter is not original


class Shared(nn.Module):
    """One block, four times: ALBERT's idea."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(31, 12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 7)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(4):
            x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x)


def test_blocks_that_share_their_parameters_are_still_blocks() -> None:
    model, ids = Shared().eval(), torch.randint(31, (2, 5))
    layout = gc.analyze(gc.capture(model, (ids,)))
    assert [len(stack) for stack in layout.blocks] == [4]
    child = gc.execute(gc.plan(layout, width={"residual": 6, "hidden": 10}, depth=2), model)
    assert child(ids).shape == (2, 5, 7)


class Caching(Shared):
    """Returns every intermediate state as well."""

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        x, states = self.embed(ids), []
        for _ in range(4):
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            states.append(self.up(x))
        return self.head(x), states


def test_blocks_are_found_though_every_block_also_has_an_output() -> None:
    layout = gc.analyze(gc.capture(Caching().eval(), (torch.randint(31, (2, 5)),)))
    assert layout.blocks
    assert len(layout.blocks[0]) >= 3
