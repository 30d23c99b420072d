"""The names and shapes that a smaller instance of the parent's class would have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone import sizes


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x).sigmoid() * self.value(x)


class Model(nn.Module):
    """Layers of one list, and a head that is one more of it."""

    def __init__(self, kinds: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([{"n": Narrow, "g": Gated}[kind]() for kind in kinds])
        self.layers.append(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    ("kinds", "depth", "child"),
    [
        ("nnnn", 2, "nn"),
        ("ngngng", 2, "ngng"),  # blocks of two layers, of which the middle one goes
        ("ngngng", 4, "ngngngng"),
        ("nnnggg", 2, "nngg"),  # two stacks
        ("nnnggg", 4, "nnnngggg"),
    ],
)
def test_layers_are_numbered_from_the_first_on(kinds: str, depth: int, child: str) -> None:
    layout = gc.analyze(gc.capture(Model(kinds).eval(), (torch.randn(5, 8),)))
    found = sizes.renumbered(gc.plan(layout, depth=depth), layout)
    assert found == {name: tuple(each.shape) for name, each in Model(child).named_parameters()}
