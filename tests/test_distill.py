from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import PlanError
from graphclone.plan import Plan
from models_zoo.field import find
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


class Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu().cumsum(1))


class Gated(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.gate = nn.Linear(width, 20)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down((self.up(y) * self.gate(y).sigmoid()).cumsum(1))


class Joined(nn.Module):
    """A stream of two parts, with dense blocks before gated ones, and a tower beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(31, 6), nn.Embedding(31, 10)
        self.dense = nn.ModuleList(Plain(16) for _ in range(3))
        self.gated = nn.ModuleList(Gated(16) for _ in range(3))
        self.entrance, self.tower, self.bridge = nn.Linear(5, 12), nn.ModuleList(Plain(12) for _ in range(3)), nn.Linear(12, 16)
        self.head = nn.Linear(16, 31)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        seen = self.entrance(image)
        for block in self.tower:
            seen = block(seen)
        x = torch.cat([self.left(ids), self.right(ids)], -1) + self.bridge(seen).mean(1, keepdim=True)
        for block in [*self.dense, *self.gated]:
            x = block(x)
        return self.head(x)


def test_stacks_that_share_a_stream_of_several_parts_beside_a_tower() -> None:
    torch.manual_seed(0)
    parent, inputs = Joined().eval(), (torch.randint(31, (2, 7)), torch.randn(2, 3, 5))
    layout = gc.analyze(gc.capture(parent, inputs))
    parts = [layout.axes(f"{side}.weight")[1].name for side in ("left", "right")]
    plan = gc.plan(layout, width={parts[0]: 3, parts[1]: 4}, depth=2, scale=False)
    pairs = {pair.stack: pair for pair in gc.distill_pairs(plan)}
    assert pairs.keys() == {"tower", "dense", "gated"}
    units = [*plan.keep[parts[0]], *(6 + unit for unit in plan.keep[parts[1]])]
    assert pairs["dense"].units.tolist() == pairs["gated"].units.tolist() == units
    assert pairs["tower"].units.tolist() == list(range(12))
    assert torch.equal(gc.execute(plan, parent).get_parameter("head.weight"), parent.head.weight[:, pairs["gated"].units])


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("hf/t5/T5ForConditionalGeneration", {"encoder.block": "residual", "decoder.block": "residual"}),
        (
            "hf/clip/CLIPModel",
            {f"{side}_model.encoder.layers": f"{side}_model.encoder.layers.residual" for side in ("vision", "text")},
        ),
        ("hf/swin/SwinModel", {f"encoder.layers.{i}.blocks": f"encoder.layers.{i}.blocks.residual" for i in range(4)}),
    ],
)
def test_every_stack_of_a_model_has_the_units_of_its_own_stream(name: str, widths: dict[str, str]) -> None:
    entry = find(name)
    args, kwargs = entry.inputs()
    layout = gc.analyze(gc.capture(entry.build(), args, kwargs))
    plan = gc.plan(layout, width=dict.fromkeys(widths.values(), 0.5))
    pairs = {pair.stack: pair for pair in gc.distill_pairs(plan)}
    assert {stack: pair.units.tolist() for stack, pair in pairs.items()} == {
        stack: list(plan.keep[stream]) for stack, stream in widths.items()
    }


def test_the_example_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distill.md").read_text(), re.DOTALL)
    ran: dict[str, Any] = {}
    exec(code, ran)
    (first, apart), (last, nearer) = ran["losses"][0], ran["losses"][-1]
    assert last < 0.8 * first
    assert nearer < 0.8 * apart
