"""Measured times: what is timed, how often, and that what they add up to is the time of a child."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import graphclone as gc
from graphclone.allocate import allocate, latency, parameters
from graphclone.errors import SizeError, UnknownNameError
from graphclone.measure import measured
from tests.test_destination import IDS, Model


@pytest.fixture(scope="module")
def parent() -> Model:
    torch.manual_seed(1)
    return Model().eval()


@pytest.fixture(scope="module")
def layout(parent: Model) -> gc.Layout:
    return gc.analyze(gc.capture(parent, (IDS,)))


class Clock:
    """A machine on which a run takes as many seconds as a child has parameters, and now and then a hiccup longer."""

    def __init__(self) -> None:
        self.now, self.made, self.runs = 0.0, 0, list[int]()

    def ready(self, child: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], object]:
        size, self.made = sum(each.numel() for each in child.parameters()), self.made + 1

        def run() -> None:
            self.runs.append(size)
            self.now += size + 1e6 * (len(self.runs) % 7 == 0)

        return run


def test_what_each_factor_saves_adds_up_to_the_time_of_the_child(parent: Model, layout: gc.Layout) -> None:
    clock = Clock()
    plan = gc.plan(layout, width={"residual": 24}, depth=3)
    table = measured(layout, parent, plan, runtime=clock.ready, repeats=9, timer=lambda: clock.now)
    kept = plan.stacks["blocks"]
    assert set(table) == {f"blocks.{index}.{kind}" for index in kept for kind in ("hidden", "heads")}
    assert set(table[f"blocks.{kept[0]}.hidden"]) == {80, 60, 40, 20, 10}
    assert set(table[f"blocks.{kept[0]}.heads"]) == {6, 5, 3, 2, 1}
    assert clock.made == 1 + 4 + 4  # the whole child, and two kinds of factor: blocks that are alike are measured once
    assert len(clock.runs) == 2 * 5 * (3 + 9)
    estimate, exact = latency(table), parameters(layout, plan)
    for widths in ({}, {"blocks.0.hidden": 33}, {"blocks.0.hidden": 11, f"blocks.{kept[-1]}.heads": 2, "blocks.0.heads": 4}):
        assert estimate(widths) == pytest.approx(exact(widths))


def test_children_of_a_factor_run_in_turn(parent: Model, layout: gc.Layout) -> None:
    clock = Clock()
    measured(
        layout, parent, gc.plan(layout), kinds=["hidden"], shares=[0.5], runtime=clock.ready, repeats=2, timer=lambda: clock.now
    )
    assert clock.runs == clock.runs[:2] * 5
    assert clock.runs[0] != clock.runs[1]


def test_blocks_of_other_sizes_are_measured_each_by_itself(parent: Model, layout: gc.Layout) -> None:
    clock = Clock()
    plan = gc.plan(layout, width={"blocks.2.heads": 3})
    table = measured(
        layout, parent, plan, kinds=["hidden"], shares=[0.5], runtime=clock.ready, repeats=9, timer=lambda: clock.now
    )
    assert clock.made == 1 + 2
    assert table["blocks.0.hidden"] is table["blocks.1.hidden"] is not table["blocks.2.hidden"]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_child_is_allotted_by_times_of_this_machine(parent: Model, layout: gc.Layout, runtime: str) -> None:
    plan = gc.plan(layout, width={"residual": 24}, depth=2)
    table = measured(layout, parent, plan, kinds=["hidden"], shares=[0.1], runtime=runtime, repeats=5)
    assert all(set(times) == {8, 80} and min(times.values()) > 0 for times in table.values())
    cost = latency(table)
    least = cost(dict.fromkeys(table, 8))
    budget = (cost({}) + least) / 2
    if least < cost({}):  # on a machine so small a model may be as fast at any width
        widths = allocate(layout, gc.score_weights(layout), plan, cost, budget, kinds=["hidden"], least=0.1)
        assert cost(widths) <= budget
        child = gc.execute(gc.plan(layout, width={"residual": 24, **widths}, depth=2), parent)
        assert child(IDS).shape == (5, 11, 61)


def test_what_cannot_be_measured_is_told(parent: Model, layout: gc.Layout) -> None:
    with pytest.raises(UnknownNameError, match="torch or onnxruntime"):
        measured(layout, parent, gc.plan(layout), runtime="tensorrt")
    for words in ({"repeats": 0}, {"shares": []}, {"shares": [1.5]}):
        with pytest.raises(SizeError, match="at least once"):
            measured(layout, parent, gc.plan(layout), **words)
