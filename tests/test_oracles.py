"""The oracles over the whole zoo: the heart of the suite. And each oracle fails when it should."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.rules.op import Op
from graphclone.verify import difference, growth, identity, maskable, masked_parent, outputs, permutation, two_roads
from models_zoo import tiny
from tests.zoo import clone, subject

NAMES = tiny.names()


@pytest.mark.parametrize("name", NAMES)
def test_keeping_everything_reproduces_the_parent(name: str) -> None:
    it = subject(name)
    verdict = identity(it.trace, it.layout, it.inputs, outputs(it.model, it.inputs))
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", NAMES)
def test_permuting_every_free_factor_at_once_changes_nothing(name: str) -> None:
    it = subject(name)
    for seed in range(2):
        verdict = permutation(it.trace, it.layout, it.inputs, outputs(it.model, it.inputs), seed)
        assert verdict.passed, verdict


@pytest.mark.parametrize("name", NAMES)
def test_dropping_units_is_zeroing_them_in_the_parent(name: str) -> None:
    it = subject(name)
    verdict = masked_parent(it.trace, it.layout, it.inputs, seed=0)
    assert verdict.passed, verdict
    kinds = Counter(factor.kind for factor in maskable(it.layout))
    assert kinds["hidden"] or kinds["heads"], "nothing was masked"


@pytest.mark.parametrize("name", NAMES)
def test_repeating_units_and_sharing_out_what_reads_them_changes_nothing(name: str) -> None:
    it = subject(name)
    verdict = growth(it.trace, it.layout, it.inputs, outputs(it.model, it.inputs), seed=0)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", NAMES)
def test_the_filled_destination_computes_what_the_rewritten_graph_computes(name: str) -> None:
    it = subject(name)
    child, report = clone(name)
    verdict = two_roads(report.plan, it.model, child, it.inputs, it.trace)
    assert verdict.passed, verdict
    assert not report.filled.fresh
    assert report.plan.keep
    assert any(len(kept) < len(stack) for stack in it.layout.blocks if (kept := report.plan.stacks[stack.name]))


@pytest.mark.parametrize("name", NAMES)
def test_residual_stream_mlp_and_heads_are_free(name: str) -> None:
    free = Counter(factor.kind for factor in subject(name).layout.factors if factor.slots and factor.frozen is None)
    assert free["residual"]
    assert free["hidden"]
    if name not in ("hf/mamba", "timm/convnext"):
        assert free["heads"] + free["kv_groups"]


def test_a_wrong_rule_is_found_out_by_the_permutation_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    it = subject("raw/einsum_gpt")
    monkeypatch.setattr(Op, "normalise", lambda self, *axes: None)
    monkeypatch.setattr(Op, "freeze", lambda self, axis, why: axis)  # nothing is positional any more
    wrong = gc.analyze(it.trace)
    verdict = permutation(it.trace, wrong, it.inputs, outputs(it.model, it.inputs), seed=0)
    assert not verdict.passed


def test_a_wrong_weight_is_found_out_by_the_two_roads() -> None:
    it = subject("hf/gpt2")
    child, report = clone("hf/gpt2")
    name, parameter = next((n, p) for n, p in child.named_parameters() if n.endswith("c_fc.weight"))
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.copy_(kept.flip(0))
        assert not two_roads(report.plan, it.model, child, it.inputs, it.trace).passed, name
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_verify_runs_all_oracles_and_prints_a_line_for_each() -> None:
    it = subject("raw/stacked_gpt")
    child, report = clone("raw/stacked_gpt")
    verdicts = gc.verify(it.model, it.args, it.kwargs, plan=report.plan, child=child)
    assert verdicts.passed
    assert [verdict.oracle for verdict in verdicts.verdicts] == [
        "identity",
        "permutation",
        "masked parent",
        "growth",
        "rotation",
        "two roads",
    ]
    assert str(verdicts).count("✓") == 6


def test_a_parent_in_half_precision_is_judged_by_its_roundings() -> None:
    """A sum in another order differs by some of them; a wrong permutation differs by far more."""
    it = subject("hf/llama")
    model = copy.deepcopy(it.model).to(torch.bfloat16)
    verdicts = gc.verify(model, it.args, it.kwargs)
    assert verdicts.passed, verdicts
    assert max(verdict.error for verdict in verdicts.verdicts) > 1e-4
    trace = gc.capture(model, it.args, it.kwargs)
    layout = gc.analyze(trace)
    keep = {layout["residual"]: tuple(range(47, -1, -1))}
    wrong = gc.select(trace, layout, keep)
    with torch.no_grad():
        wrong.get_parameter("model.layers.1.mlp.up_proj.weight").copy_(model.model.layers[1].mlp.up_proj.weight)
    assert difference(outputs(model, it.inputs), outputs(wrong, it.inputs)) > 8 * torch.finfo(torch.bfloat16).eps


class TiedEnds(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = torch.nn.Parameter(torch.randn(28, 20)), torch.nn.Parameter(torch.randn(20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.w + self.b).relu() @ self.w.T


class GroupedTransposed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.t = torch.nn.Conv1d(28, 16, 1), torch.nn.ConvTranspose1d(16, 8, 2, 2, groups=4)
        self.d, self.o = torch.nn.Conv1d(8, 16, 3, groups=8, padding="same"), torch.nn.Conv1d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o(self.d(self.t(self.a(x.mT).relu()).relu()))  # type: ignore[no-any-return]


class PaddedShortcut(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = torch.nn.Linear(28, 16), torch.nn.Linear(16, 32), torch.nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).relu()
        return self.h(self.b(y) + torch.nn.functional.pad(y, (8, 8)))  # type: ignore[no-any-return]


class ReturnsItsWeight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = torch.nn.Linear(28, 20), torch.nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.o(self.a(x).relu()), self.o.weight, self.o.bias


@pytest.mark.parametrize("kind", [TiedEnds, GroupedTransposed, PaddedShortcut, ReturnsItsWeight])
def test_no_oracle_raises_a_false_alarm(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    verdicts = gc.verify(kind(), (torch.randn(3, 11, 28),))
    assert verdicts.passed, verdicts


class Sinusoid(nn.Module):
    """A table that the class works out for its own width, and does not save."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, width), nn.Linear(width, 3)
        self.register_buffer("table", torch.sin(torch.arange(width) / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) + self.table)


def test_two_roads_take_what_the_destination_works_out_itself_and_nothing_else() -> None:
    parent, x = Sinusoid(12), torch.randn(7, 5)
    child, report = gc.subclone(parent, Sinusoid(6), (x,))
    assert report.filled.differing == ("table",)
    assert two_roads(report.plan, parent, child, ((x,), {})).passed
    with torch.no_grad():
        child.up.weight.copy_(child.up.weight.flip(0))
    assert not two_roads(report.plan, parent, child, ((x,), {})).passed
