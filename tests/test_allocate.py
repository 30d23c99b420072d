"""Unequal widths within a budget: of parameters, of multiply-adds, of measured time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import graphclone as gc
from graphclone import sizes
from graphclone.allocate import allocate, flops, latency, parameters
from graphclone.errors import SizeError, UnknownNameError
from graphclone.scores import score_gradients
from tests.test_destination import IDS, Model
from tests.zoo import subject


@pytest.fixture(scope="module")
def parent() -> Model:
    torch.manual_seed(1)
    return Model().eval()


@pytest.fixture(scope="module")
def layout(parent: Model) -> gc.Layout:
    return gc.analyze(gc.capture(parent, (IDS,)))


@pytest.fixture(scope="module")
def scores(parent: Model, layout: gc.Layout) -> gc.Scores:
    return score_gradients(
        layout, parent, [IDS], lambda out, ids: torch.nn.functional.cross_entropy(out.flatten(0, 1), ids.flatten())
    )


def test_parameters_are_those_of_the_child(layout: gc.Layout) -> None:
    plan = gc.plan(layout, width={"residual": 20}, depth=3)
    widths = {"blocks.0.hidden": 7, "blocks.0.heads": 2, "blocks.3.hidden": 33}
    assert parameters(layout, plan)(widths) == sizes.parameters(
        gc.plan(layout, width={"residual": 20, **widths}, depth=3), layout
    )


def test_multiply_adds_are_those_that_torch_counts(parent: Model, layout: gc.Layout) -> None:
    widths = {"blocks.0.hidden": 7, "blocks.1.heads": 2, "blocks.3.hidden": 33}
    plan = gc.plan(layout, width={"residual": 20}, depth=3)
    child = gc.execute(gc.plan(layout, width={"residual": 20, **widths}, depth=3), parent)
    with FlopCounterMode(display=False) as counted:
        child(IDS)
    heads = [widths.get(f"blocks.{index}.heads", 6) for index in plan.stacks["blocks"]]
    attention = sum(2 * 2 * 5 * each * 11 * 11 * 10 for each in heads)  # which torch does not count on a CPU
    assert flops(layout, plan)(widths) == counted.get_total_flops() + attention


def test_a_child_is_within_its_budget_and_has_the_units_of_most_score(
    parent: Model, layout: gc.Layout, scores: gc.Scores
) -> None:
    plan = gc.plan(layout, width={"residual": 24}, depth=3)
    cost = parameters(layout, plan)
    budget = 0.6 * cost({})
    widths = allocate(layout, scores, plan, cost, budget)
    child = gc.plan(layout, width={"residual": 24, **widths}, depth=3, scores=scores)
    assert 0.95 * budget < sizes.parameters(child, layout) <= budget
    assert len({widths[name] for name in widths if name.endswith("hidden")}) > 1
    assert gc.execute(child, parent)(IDS).shape == (5, 11, 61)
    assert {name.split(".")[1] for name in widths} == {str(index) for index in plan.stacks["blocks"]}
    for a, b in itertools.permutations((name for name in widths if name.endswith("hidden")), 2):
        gone, kept = (sorted(scores.units[name]) for name in (a, b))
        if (
            widths[a] < 80 and widths[b] > 10
        ):  # what was the last to go here is worth less than what would be the next to go there
            last = sum(gone[80 - widths[a] - 8 : 80 - widths[a]])
            assert last <= sum(kept[80 - widths[b] : 80 - widths[b] + 8])


def test_half_of_the_multiply_adds(layout: gc.Layout, scores: gc.Scores) -> None:
    plan = gc.plan(layout)
    cost = flops(layout, plan)
    assert 0.65 * cost({}) < cost(allocate(layout, scores, plan, cost, 0.7 * cost({}))) <= 0.7 * cost({})


def test_time_comes_from_a_table_of_measurements(layout: gc.Layout, scores: gc.Scores) -> None:
    slow = {f"blocks.{index}.hidden": {8: 13.0 if index == 2 else 19.0, 40: 20.0, 80: 22.0} for index in range(4)}
    cost = latency(slow)
    assert cost({}) == 22.0  # the whole child, not the sum of the rows
    assert cost({"blocks.0.hidden": 60}) == pytest.approx(21.0)
    assert cost({"blocks.0.hidden": 60, "blocks.2.hidden": 8}) == pytest.approx(12.0)
    widths = allocate(layout, scores, gc.plan(layout), cost, 12.0, kinds=["hidden"], least=0.1)
    assert cost(widths) <= 12.0
    assert widths["blocks.2.hidden"] < min(widths[f"blocks.{index}.hidden"] for index in (0, 1, 3))  # its units cost most
    with pytest.raises(SizeError, match="no time is known"):
        cost({"blocks.0.hidden": 7})
    with pytest.raises(SizeError, match="no time was measured"):
        latency({})


def test_a_step_that_saves_no_time_is_taken_together_with_the_next(layout: gc.Layout, scores: gc.Scores) -> None:
    bumpy = latency({"blocks.0.hidden": {8: 1.0, 64: 4.0, 72: 5.0, 80: 5.0}})  # as measurements are
    widths = allocate(layout, scores, gc.plan(layout), bumpy, 4.5, kinds=["hidden"])
    assert widths["blocks.0.hidden"] == 64


def test_seconds_are_told_as_such(layout: gc.Layout, scores: gc.Scores) -> None:
    with pytest.raises(SizeError, match=r"no child within 0\.0005\n.*still costs 0\.00"):
        allocate(layout, scores, gc.plan(layout), latency({"blocks.0.hidden": {8: 0.001, 80: 0.002}}), 0.0005)


def test_whole_groups_go_where_heads_share_keys() -> None:
    found = subject("hf/qwen3")
    model, layout = found.model, found.layout
    plan = gc.plan(layout)
    cost = parameters(layout, plan)
    widths = allocate(layout, gc.score_weights(layout), plan, cost, 0.8 * cost({}))
    assert any("kv_groups" in name for name in widths)
    assert not any(name.endswith(".heads") for name in widths)
    child = gc.execute(gc.plan(layout, width=widths), model)
    assert child(*found.args, **found.kwargs).logits.shape == model(*found.args, **found.kwargs).logits.shape
    assert sizes.parameters(gc.plan(layout, width=widths), layout) <= 0.8 * cost({})


def test_what_cannot_be_had_is_told(layout: gc.Layout, scores: gc.Scores) -> None:
    plan = gc.plan(layout)
    with pytest.raises(SizeError, match="no child within 100"):
        allocate(layout, scores, plan, parameters(layout, plan), 100)
    with pytest.raises(UnknownNameError, match="is called 'nope'"):
        allocate(layout, scores, plan, parameters(layout, plan), 30_000, kinds=["nope"])
    with pytest.raises(SizeError, match="no scores of"):
        allocate(layout, gc.Scores(), plan, parameters(layout, plan), 30_000)
