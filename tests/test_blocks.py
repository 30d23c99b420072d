"""Blocks are found in the graph: pre-norm, post-norm, parallel, encoder and decoder, stages, class attention, stacked parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.verify import two_roads
from models_zoo import tiny
from tests.zoo import subject

Op = Callable[[Tensor], Tensor]

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


class Residual(nn.Module):
    """A residual block, and what its stream runs through before and after it."""

    def __init__(self, first: Op, last: Op) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.down(torch.relu(self.up(self.norm(x)))))


class Ends(nn.Module):
    """Ops without parameters before the stack, after it, and in its blocks."""

    def __init__(self, before: Op, after: Op, first: Op, last: Op, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(31, 12), nn.Linear(12, 7)
        self.blocks = nn.ModuleList(Residual(first, last) for _ in range(depth))
        self.before, self.after = before, after

    def forward(self, ids: Tensor) -> Tensor:
        x = self.before(self.embed(ids))
        for block in self.blocks:
            x = block(x)
        return self.head(self.after(x))


def same(x: Tensor) -> Tensor:
    return x


def rms(x: Tensor) -> Tensor:
    return nn.functional.rms_norm(x, (12,))


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("inside", [(same, same), (rms, same), (same, torch.tanh), (centred, torch.tanh), (rms, rms)])
@pytest.mark.parametrize("ends", [(same, same), (rms, rms), (same, torch.tanh), (centred, centred), (torch.tanh, rms)])
def test_what_stands_before_the_first_or_after_the_last_block_is_no_part_of_it(
    ends: tuple[Op, Op], inside: tuple[Op, Op]
) -> None:
    torch.manual_seed(0)
    model, ids = Ends(*ends, *inside).eval(), torch.randint(31, (2, 5))
    trace = gc.capture(model, (ids,))
    (stack,) = gc.analyze(trace).blocks
    assert len(stack) == 4
    for depth in (1, 2, 3, 6, 8):
        plan = gc.plan(gc.analyze(trace), depth=depth, scale=False)
        native = copy.deepcopy(model)
        native.blocks = nn.ModuleList(model.blocks[index] for index in plan.stacks["blocks"])
        torch.testing.assert_close(gc.execute(plan, model, trace=trace)(ids), native(ids))
        child, report = gc.subclone(model, Ends(*ends, *inside, depth=depth).eval(), (ids,), scale=False)
        assert report.plan.stacks == plan.stacks
        assert not report.filled.fresh
        torch.testing.assert_close(child(ids), native(ids))
        assert two_roads(report.plan, model, child, ((ids,), {})).passed


def test_a_final_norm_is_not_the_last_block_of_another_kind() -> None:
    ids = torch.randint(31, (2, 5))
    (stack,) = gc.analyze(gc.capture(Ends(rms, torch.tanh, same, same).eval(), (ids,))).blocks
    assert str(stack) == "blocks: 4 blocks"
