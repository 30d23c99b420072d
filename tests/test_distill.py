from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import graphclone as gc
from graphclone.errors import PlanError
from graphclone.plan import Plan
from models_zoo.raw import EinsumGPT

ROOT = Path(__file__).parent.parent


def test_a_pair_names_both_blocks_and_the_units_in_the_childs_order() -> None:
    parent = EinsumGPT(width=48, heads=8, head_dim=10, hidden=56, depth=4).eval()
    layout = gc.analyze(gc.capture(parent, (torch.randint(61, (5, 11)),)))
    plan = gc.plan(layout, width={"residual": 24}, depth=2)
    pairs = gc.distill_pairs(plan)
    assert [(pair.child, pair.parent) for pair in pairs] == [(0, 0), (1, 3)]
    assert all(pair.units.tolist() == list(plan.keep["residual"]) for pair in pairs)
    assert len(gc.distill_pairs(gc.plan(layout))) == 4
    assert gc.distill_pairs(gc.plan(layout, depth=2))[0].units.tolist() == list(range(48))


def test_a_child_without_blocks_has_no_pairs() -> None:
    with pytest.raises(PlanError, match="no blocks to pair"):
        gc.distill_pairs(Plan(sizes={"residual": 4}))


def test_the_example_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distill.md").read_text(), re.DOTALL)
    ran: dict[str, Any] = {}
    exec(code, ran)
    (first, apart), (last, nearer) = ran["losses"][0], ran["losses"][-1]
    assert last < 0.8 * first
    assert nearer < 0.8 * apart
