"""What becomes of an op without a rule: written out in simpler ones, given a rule by the user from outside, or frozen with its line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.axes import Factor
from graphclone.rules import rule_for

ROOT = Path(__file__).parent.parent.parent


class Calling(nn.Module):
    """A hidden layer, and a function of it and of the second layer's weight."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(10, 28), nn.Linear(28, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), self.second.weight)


@pytest.mark.parametrize(
    "function",
    [
        torch.inner,
        lambda hidden, weight: torch.tensordot(hidden, weight, dims=([1], [1])),
        lambda hidden, weight: torch.linalg.multi_dot([hidden, weight.T, weight]),
        lambda hidden, weight: nn.functional.pairwise_distance(hidden[:, None], weight),
    ],
    ids=["inner", "tensordot", "multi_dot", "pairwise_distance"],
)
def test_an_op_that_torch_writes_out_is_free(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = Calling(function), torch.randn(5, 10)
    trace = gc.capture(model, (x,))
    assert any(node.op == "call_function" and rule_for(node.target) is None for node in trace.graph.nodes)
    layout = gc.analyze(trace)
    hidden = layout.axes("first.weight")[0]
    assert isinstance(hidden, Factor)
    assert hidden.frozen is None
    assert layout.axes("second.weight")[1] is hidden
    assert gc.verify(model, (x,)).passed


def test_an_op_that_nobody_knows_is_frozen_with_its_line() -> None:
    layout = gc.analyze(gc.capture(Calling(torch.cdist), (torch.randn(5, 10),)))
    hidden = layout.axes("first.weight")[0]
    assert re.fullmatch(
        r"opaque, there is no rule for it: aten.cdist at test_fallbacks.py:\d+", str(getattr(hidden, "frozen", hidden))
    )


_ASKED = """
import sys
import gated
import torch
import graphclone as gc
model = gated.Model()
trace = gc.capture(model, model.example_inputs())
layout = gc.analyze(trace)
hidden = layout.axes("a.weight")[0]
print("frozen:", hidden.frozen)
if hidden.frozen is None:
    child = gc.execute(gc.plan(layout, width={hidden.name: 14}), model, trace=trace)
    print("child:", *(tuple(each.shape) for each in child.parameters()), tuple(child(*model.example_inputs()).shape))
    print("passed:", gc.verify(model, model.example_inputs()).passed)
"""


def test_a_rule_written_outside_of_the_package_makes_a_child(tmp_path: Path) -> None:
    """The custom op of docs/add-a-rule.md, without its rule and with it."""
    model, rule = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-rule.md").read_text(), re.DOTALL)[:2]

    def asked(text: str) -> str:
        (tmp_path / "gated.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", _ASKED],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"frozen: opaque, there is no rule for it: mylib.gate at gated.py:\d+", asked(model))
    assert len(rule.strip().splitlines()) <= 3
    found = asked(f"{model}\n{rule}")
    assert "child: (14, 10) (14,) (14, 10) (14,) (4, 14) (4,) (3, 4)" in found
    assert "passed: True" in found
