"""No random program is judged wrongly; none that ever was is again."""

from __future__ import annotations

import warnings
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graphclone import layout
from graphclone.export.onnx import written
from tests.programs.counterexamples import COUNTEREXAMPLES, Forward, program
from tests.programs.generate import generate, programs
from tests.programs.in_onnx import survey_onnx
from tests.programs.minimise import minimise
from tests.programs.opened import judge_open
from tests.programs.oracles import Outcome, judge
from tests.programs.program import Program


def judge_named(name: str) -> Outcome:
    return judge_open(generate(Random(name), opened=True), Random(name))


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
@given(programs())
def test_no_program_is_judged_wrongly(drawn: Program) -> None:
    outcome = judge(drawn)
    assert not outcome.fault, f"{outcome.crash or outcome.wrong}\n{minimise(drawn).source()}"


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_no_program_with_open_sizes_is_judged_wrongly(first: int) -> None:
    found = [(name, judge_named(name)) for name in (f"0/{number}" for number in range(first, first + 10))]
    assert not [(name, outcome.verdict) for name, outcome in found if outcome.fault]
    assert sum(outcome.sizes == 2 for _, outcome in found) > 5


def test_a_size_computed_from_open_ones_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """99 states a size of a parameter as a part of an open size: with that overlooked, its child is wrong."""
    monkeypatch.setattr(layout, "_follow", lambda facts: None)
    assert judge_named("0/99").wrong


@pytest.mark.parametrize(("forward", "operands"), COUNTEREXAMPLES, ids=[forward.__name__ for forward, _ in COUNTEREXAMPLES])
def test_counterexample(forward: Forward, operands: tuple[str, ...]) -> None:
    outcome = judge(program(forward, operands))
    assert not outcome.fault
    assert not outcome.unstable


def test_a_seed_gives_the_same_program_again() -> None:
    assert generate(Random("0/7")).source() == generate(Random("0/7")).source()


def test_a_program_is_the_same_whatever_torch_warns_of() -> None:
    """Drawing 275 warns: as errors (pytest's setting), what torch warns of once per process would make a move fail the first time only."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(action="ignore"):
            silent = generate(Random("0/275")).source()
        with warnings.catch_warnings(action="error"):
            assert generate(Random("0/275")).source() == silent
    finally:
        torch.set_warn_always(before)


@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "open"])
def test_no_onnx_file_gives_something_else_at_other_values(opened: bool) -> None:
    counts = survey_onnx(1, range(6), opened)
    assert not counts["wrong"]
    assert counts["ok"] >= 4


def test_a_file_that_does_not_refuse_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs that values steer, of whose files the refusals are left out."""
    monkeypatch.setattr(written, "refuse", lambda model, told: [model.graph.outputs.pop() for _ in told])
    assert survey_onnx(1, (53, 58), opened=False)["wrong"] == 2
