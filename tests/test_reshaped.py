"""A child is fitted on data of other shapes, and of other inputs, than its parent was captured with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.destination import plan_for
from graphclone.errors import GraphcloneError, PlanError
from graphclone.passes import whole
from graphclone.plan import Plan
from graphclone.recipe import Recipe, begin
from graphclone.reshaped import reshaped


def _bert(width: int = 32) -> PreTrainedModel:
    sizes: dict[str, Any] = dict(hidden_size=width, num_attention_heads=width // 8, intermediate_size=2 * width)
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=64, num_hidden_layers=3, max_position_embeddings=40, **sizes)).eval()


def _t5(width: int = 32) -> PreTrainedModel:
    sizes: dict[str, Any] = dict(d_model=width, d_kv=8, d_ff=2 * width, num_heads=width // 8)
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(vocab_size=64, num_layers=2, decoder_start_token_id=0, pad_token_id=0, **sizes)
    ).eval()


def _tokens(length: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 64, (4, length), generator=torch.Generator().manual_seed(seed))


def _fitted(build: Any, inputs: dict[str, Tensor], data: list[dict[str, Tensor]]) -> tuple[nn.Module, Plan]:
    child, report = gc.subclone(build(), build(16), kwargs=inputs, data=data)
    return child.eval(), report.plan


def _alike(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-4, atol=1e-5)


def test_how_long_the_example_was_changes_no_fit() -> None:
    """A table of positions is cut at the length, which is therefore in the plan."""
    data = [{"input_ids": _tokens(20, seed)} for seed in range(5)]
    (one, same), (other, plan) = _fitted(_bert, data[0], data), _fitted(_bert, {"input_ids": _tokens(7)}, data)
    assert plan.fitted == same.fitted
    assert len(plan.fitted) > 8
    _alike(one, other)


def test_batches_may_each_have_a_length_of_their_own() -> None:
    data = [{"input_ids": _tokens(length, length)} for length in (9, 12, 15, 18)]
    child, plan = _fitted(_bert, data[0], data)
    assert len(plan.fitted) > 8
    assert not [remark for remark in plan.remarks if "refitted" in remark]
    plain, _ = gc.subclone(_bert(), _bert(16), kwargs=data[0], data=data, recipe=Recipe(refit=False))
    with torch.no_grad():
        wanted = [_bert()(**each).logits for each in data]
        missed = [
            sum(float((model(**each).logits - like).square().mean()) for each, like in zip(data, wanted, strict=True))
            for model in (child, plain.eval())
        ]
    assert missed[0] < 0.95 * missed[1]


def test_labels_in_place_of_a_decoders_inputs_are_another_graph() -> None:
    labelled = [{"input_ids": _tokens(9, seed), "labels": _tokens(9, seed + 9)} for seed in range(5)]
    one, same = _fitted(_t5, labelled[0], labelled)
    other, plan = _fitted(_t5, {"input_ids": _tokens(5), "decoder_input_ids": _tokens(6)}, labelled)
    assert plan.literals, "its head is scaled by its width"
    assert plan.fitted == same.fitted
    assert len(plan.fitted) > 20
    _alike(one, other)


class Scaled(nn.Module):
    """It multiplies by numbers that it computes from its width and, if asked, from the length of its input."""

    def __init__(self, width: int = 16, by_length: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.width, self.by_length = nn.Linear(6, width), nn.Linear(width, 6), width, by_length

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        if more is not None:
            x = x + more * 0.5
        units = torch.relu(self.up(x)) * ((x.shape[1] if self.by_length else 3) / self.width)
        return nn.functional.linear(units, self.down.weight, self.down.bias)


def test_a_number_that_a_destination_has_otherwise_is_found_where_its_node_has_another_name() -> None:
    data = [{"x": torch.randn(9, 5, 6), "more": torch.randn(9, 5, 6)} for _ in range(5)]
    one, report = gc.subclone(Scaled(), Scaled(8), kwargs=data[0], data=data, recipe=Recipe(rotate=False))
    other, again = gc.subclone(Scaled(), Scaled(8), kwargs={"x": data[0]["x"]}, data=data, recipe=Recipe(rotate=False))
    assert report.plan.fitted == again.plan.fitted == ("down.weight",)
    assert report.plan.literals.keys().isdisjoint(again.plan.literals)
    _alike(one, other)


def test_batches_on_which_the_parent_is_another_program_are_left_out_and_told() -> None:
    data = [torch.randn(9, length, 6) for length in (3, 3, 2)]
    _, report = gc.subclone(Scaled(by_length=True), Scaled(8, True), (data[0],), data=data, recipe=Recipe(rotate=False))
    assert report.plan.fitted == ("down.weight",)
    assert [remark for remark in report.plan.remarks if "on 2 of 3 calibration batches: on these inputs" in remark]


class _Repeated(nn.Module):
    """Its input's length says how many blocks it has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[1]):
            x = x + self.down(torch.relu(self.up(x)))
        return x


def test_batches_that_make_other_blocks_are_told() -> None:
    model = _Repeated().eval()
    three, two = (gc.analyze(gc.capture(model, (torch.randn(4, length, 6),))) for length in (3, 2))
    with pytest.raises(PlanError, match="another program"):
        reshaped(whole(three), three, two)
    with pytest.raises(GraphcloneError, match="other blocks"):
        Calibration.of(model, [torch.randn(4, length, 6) for length in (3, 3, 2)])


def test_a_number_that_is_another_there_is_told() -> None:
    inputs = {"input_ids": _tokens(5), "decoder_input_ids": _tokens(5)}
    layout = gc.analyze(gc.capture(_t5(), kwargs=inputs))
    goal = gc.analyze(gc.capture(_t5(16), kwargs=inputs), like=layout.blocks)
    plan = plan_for(layout, goal)
    assert reshaped(plan, layout, layout) == replace(plan, inputs={}), "at home a plan is as it was"
    (name,) = plan.literals
    node = next(node for node in layout.trace.graph.nodes if node.name == name)
    other = gc.analyze(gc.capture(_t5(), kwargs=inputs))
    changed = next(each for each in other.trace.graph.nodes if each.name == name)
    changed.args = (changed.args[0], float(node.args[1]) + 1)
    with pytest.raises(PlanError, match=rf"no such number as is in '{name}'"):
        reshaped(plan, layout, other)


def test_where_nothing_can_be_fitted_it_is_told() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

        def forward(self, x: Tensor) -> Tensor:
            weight = self.down.weight
            units = torch.relu(self.up(x))
            return nn.functional.linear(units, weight) + nn.functional.linear(units * 2, weight)

    model, batches = Tied().eval(), [torch.randn(20, 6) for _ in range(4)]
    calibration = Calibration.of(model, batches)
    layout = calibration.parts[0][0]
    (name,) = (factor.name for factor in layout.factors if factor.kind == "hidden")
    begun = begin(layout, calibration, Recipe(), lambda each, scores: gc.plan(each, width={name: 5}, scores=scores))
    assert not begun.plan.fitted
    assert [remark for remark in begun.plan.remarks if "no map is refitted" in remark]
