"""A Plan is data: it saves, loads, compares and prints; a broken file says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import graphclone as gc
from graphclone.errors import FrozenError, PlanError, SizeError, UnknownNameError
from graphclone.passes import DropBlocks, Shrink, whole
from graphclone.verify import outputs
from tests.zoo import clone, subject


@pytest.mark.parametrize("name", ["hf/llama", "raw/stacked_gpt", "timm/swin"])
def test_a_plan_survives_the_disk(name: str, tmp_path: Path) -> None:
    plan = clone(name)[1].plan
    plan.save(tmp_path / "plan.json")
    assert gc.Plan.load(tmp_path / "plan.json") == plan


def test_a_loaded_plan_needs_only_the_parent() -> None:
    it, (child, report) = subject("hf/llama"), clone("hf/llama")
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
    plan = clone("hf/llama")[1].plan
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


@pytest.mark.parametrize("width", [{"residual": 49}, {"residual": 0}, {"*.hidden": -1}])
def test_a_size_that_does_not_fit_is_refused(width: dict[str, int]) -> None:
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
    ("depth", "error"), [(0, SizeError), (-1, SizeError), (0.01, SizeError), ({"model.layer": 2}, UnknownNameError)]
)
def test_a_depth_that_cannot_be_is_refused(depth: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        gc.plan(subject("hf/llama").layout, depth=depth)  # type: ignore[arg-type]


def test_passes_can_be_put_together_by_hand() -> None:
    layout = subject("hf/llama").layout
    by_hand = Shrink({"residual": 24})(DropBlocks(2)(whole(layout), layout), layout)
    assert by_hand == gc.plan(layout, width={"residual": 24}, depth=2, scale=False)
