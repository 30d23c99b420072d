"""A Plan is data: it saves, loads, compares and prints; a broken file says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import FrozenError, PlanError, SizeError, UnknownNameError
from graphclone.passes import DropBlocks, Shrink, whole
from graphclone.verify import outputs, two_roads
from tests.zoo import selected, subject


@pytest.mark.parametrize("name", ["hf/llama", "raw/stacked_gpt", "timm/swin"])
def test_a_plan_survives_the_disk(name: str, tmp_path: Path) -> None:
    plan = selected(name)[1].plan
    plan.save(tmp_path / "plan.json")
    assert gc.Plan.load(tmp_path / "plan.json") == plan


def test_a_loaded_plan_needs_only_the_parent() -> None:
    it, (child, report) = subject("hf/llama"), selected("hf/llama")
    plan = gc.Plan.loads(report.plan.dumps())
    made = gc.execute(plan, it.model)
    for a, b in zip(outputs(child, it.inputs), outputs(made, it.inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_a_plan_prints_what_the_child_is() -> None:
    layout = subject("hf/llama").layout
    text = str(gc.plan(layout, width={"residual": 24}, depth=2))
    assert "model.layers: blocks 0, 3" in text
    assert "residual: 48 → 24" in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Expecting value"),
        ("{}", "its format is None, this graphclone reads 1"),
        ("[]", "list"),
        ('{"graphclone_plan": 2}', "its format is 2"),
        ('{"graphclone_plan": 1}', "sizes"),
        ('{"graphclone_plan": 1, "sizes": {"a": "many"}}', "valid integer"),
    ],
)
def test_a_broken_plan_says_what_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=complaint) as caught:
        gc.Plan.load(tmp_path / "plan.json")
    assert "plan.json is not a plan" in str(caught.value)


def test_a_plan_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read the plan"):
        gc.Plan.load(tmp_path / "nothing.json")


def test_the_plan_of_another_model_is_refused() -> None:
    plan = selected("hf/llama")[1].plan
    other = subject("hf/qwen3")
    with pytest.raises(PlanError, match="made for another model"):
        gc.execute(plan, other.model, trace=other.trace)


def test_a_plan_with_a_wrong_tensor_is_refused() -> None:
    it = subject("hf/llama")
    data = json.loads(whole(it.layout).dumps())
    data["tensors"]["lm_head.weight"]["source"] = "model.norm.weight"
    with pytest.raises(PlanError, match="has the shape"):
        gc.execute(gc.Plan.loads(json.dumps(data)), it.model, trace=it.trace)


def test_without_scores_units_are_kept_at_even_distances() -> None:
    layout = subject("hf/llama").layout
    plan = gc.plan(layout, width={"residual": 12})
    assert plan.keep["residual"] == tuple(range(0, 48, 4))


def test_with_scores_the_highest_are_kept_in_the_parents_order() -> None:
    layout = subject("hf/llama").layout
    scores = gc.Scores({"residual": tuple(float(unit % 7) for unit in range(48))})
    kept = gc.plan(layout, width={"residual": 12}, scores=scores).keep["residual"]
    assert sorted({unit % 7 for unit in kept}) == [5, 6]
    assert list(kept) == sorted(kept)


def test_a_share_and_a_number_mean_the_same() -> None:
    layout = subject("hf/llama").layout
    assert gc.plan(layout, width={"*.mlp.hidden": 0.5}) == gc.plan(layout, width={"*.mlp.hidden": 28})


@pytest.mark.parametrize("width", [{"residual": 49}, {"residual": 0}, {"*.hidden": -1}, {"residual": 24.0}])
def test_a_size_that_does_not_fit_is_refused(width: dict[str, int | float]) -> None:
    with pytest.raises(SizeError, match="a child cannot keep"):
        gc.plan(subject("hf/llama").layout, width=width)


def test_a_frozen_factor_is_refused_with_its_reason() -> None:
    with pytest.raises(FrozenError, match=r"cannot shrink 'transformer.wpe.fixed' \(37\) to 18") as caught:
        gc.plan(subject("hf/gpt2").layout, width={"wpe.fixed": 18})
    assert "because" in str(caught.value)
    assert "modeling_gpt2.py:" in str(caught.value)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no factor is called"):
        gc.plan(subject("hf/llama").layout, width={"*.mlp.hiden": 28})


@pytest.mark.parametrize(
    ("depth", "error"), [(0, SizeError), (-1, SizeError), (0.0, SizeError), ({"model.layer": 2}, UnknownNameError)]
)
def test_a_depth_that_cannot_be_is_refused(depth: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        gc.plan(subject("hf/llama").layout, depth=depth)  # type: ignore[arg-type]


def test_a_share_of_a_stack_keeps_at_least_one_block() -> None:
    assert gc.plan(subject("hf/llama").layout, depth=0.01).stacks == {"model.layers": (0,)}


def test_passes_can_be_put_together_by_hand() -> None:
    layout = subject("hf/llama").layout
    by_hand = Shrink({"residual": 24})(DropBlocks(2)(whole(layout), layout), layout)
    assert by_hand == gc.plan(layout, width={"residual": 24}, depth=2, scale=False)


@pytest.mark.parametrize("wanted", ["10", None, float("nan"), True])
def test_a_width_or_a_depth_that_is_no_number_is_refused(wanted: Any) -> None:
    layout = subject("hf/llama").layout
    with pytest.raises(SizeError, match=r"'residual' cannot have .* units"):
        gc.plan(layout, width={"residual": wanted})
    with pytest.raises(SizeError, match=r"'model.layers' cannot have .* blocks"):
        gc.plan(layout, depth={"model.layers": wanted})


@pytest.mark.parametrize(("scores", "complaint"), [((1.0, 2.0), "there are 2 of them"), ((float("inf"),) * 48, "infinite")])
def test_scores_that_rank_nothing_are_refused(scores: tuple[float, ...], complaint: str) -> None:
    with pytest.raises(SizeError, match="the scores of 'residual' are no ranking of its 48 units") as caught:
        gc.plan(subject("hf/llama").layout, width={"residual": 24}, scores=gc.Scores({"residual": scores}))
    assert complaint in str(caught.value)


def test_a_width_of_no_factor_is_refused() -> None:
    with pytest.raises(SizeError, match=r"`width` cannot be 0\.5\n  because .*\n  try      width=\{'residual': 0\.5\}"):
        gc.plan(subject("hf/llama").layout, width=0.5)  # type: ignore[arg-type]


def test_a_model_without_repeated_blocks_has_no_depth() -> None:
    layout = gc.analyze(gc.capture(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (torch.randn(2, 4),)))
    with pytest.raises(SizeError, match="no repeated blocks were found"):
        gc.plan(layout, depth=1)


class Experts(nn.Module):
    def __init__(self, count: int = 5, best: int = 2) -> None:
        super().__init__()
        self.gate, self.best = nn.Linear(28, count), best
        self.weight = nn.Parameter(torch.randn(count, 28, 9))

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.gate(x).softmax(-1).topk(self.best, -1)
        return torch.einsum("btk,btkdo,btd->bto", share, self.weight[chosen], x)


def test_as_many_experts_stay_as_are_chosen() -> None:
    parent, x = Experts(), torch.randn(3, 11, 28)
    layout = gc.analyze(gc.capture(parent, (x,)))
    (experts,) = (factor.name for factor in layout.factors if factor.size == 5)
    assert gc.execute(gc.plan(layout, width={experts: 2}), parent)(x).shape == (3, 11, 9)
    with pytest.raises(SizeError, match="cannot have 1 units: the child needs at least 2 of them") as caught:
        gc.plan(layout, width={experts: 1})
    assert "aten.topk at test_plan.py:" in str(caught.value)
    child, report = gc.subclone(parent, Experts(3, 1), (x,))
    assert two_roads(report.plan, parent, child, ((x,), {})).passed
    assert any("aten.topk" in remark and "is 1 there, 2 in the parent" in remark for remark in report.plan.remarks)
