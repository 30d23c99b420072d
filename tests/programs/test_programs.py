"""No random program is judged wrongly; none that ever was is again."""

from __future__ import annotations

import warnings
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.programs.counterexamples import COUNTEREXAMPLES, Forward, program
from tests.programs.generate import generate, programs
from tests.programs.minimise import minimise
from tests.programs.oracles import judge
from tests.programs.program import Program


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


@pytest.mark.parametrize(("forward", "operands"), COUNTEREXAMPLES, ids=[forward.__name__ for forward, _ in COUNTEREXAMPLES])
def test_counterexample(forward: Forward, operands: tuple[str, ...]) -> None:
    outcome = judge(program(forward, operands))
    assert not outcome.fault
    assert not outcome.unstable


def test_a_seed_gives_the_same_program_again() -> None:
    assert generate(Random("0/7")).source() == generate(Random("0/7")).source()


def test_a_program_is_the_same_whatever_torch_warns_of() -> None:
    """Drawing 347 warns: as errors (pytest's setting), what torch warns of once per process would make a move fail the first time only."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(action="ignore"):
            silent = generate(Random("0/347")).source()
        with warnings.catch_warnings(action="error"):
            assert generate(Random("0/347")).source() == silent
    finally:
        torch.set_warn_always(before)
