"""A child with fewer blocks has no slices that nobody reads of tensors that hold one for each block."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphclone as gc
from graphclone.export.source import load
from graphclone.stacked import slices


class Stacked(nn.Module):
    """Blocks without modules: their weights are slices of a few tensors, of one along its last dim."""

    def __init__(self, depth: int, width: int = 12) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(depth)
        self.table = nn.Parameter(torch.randn(20, width, generator=drawn))
        self.into = nn.Parameter(torch.randn(depth, 24, width, generator=drawn))
        self.back = nn.Parameter(torch.randn(depth, width, 24, generator=drawn))
        self.gain = nn.Parameter(torch.randn(width, depth, generator=drawn))
        self.depth = depth

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table[ids]
        for i in range(self.depth):
            y = F.layer_norm(x, x.shape[-1:]) * self.gain[:, i - self.depth]  # a number from the end
            x = x + F.linear(F.gelu(F.linear(y, self.into[i])), self.back[i])
        return x @ self.table.T


IDS = torch.arange(10).view(2, 5)


@pytest.mark.parametrize(("depth", "width"), [(3, 12), (2, 12), (1, 6)])
def test_a_child_with_fewer_blocks_is_what_a_model_of_so_many_is(depth: int, width: int, tmp_path: Path) -> None:
    model = Stacked(4).eval()
    layout = gc.analyze(gc.capture(model, (IDS,)))
    plan = gc.plan(layout, width={"residual": width}, depth=depth)
    child = gc.execute(plan, model, trace=layout.trace)
    smaller = Stacked(depth, width).eval()
    assert {name: each.shape for name, each in child.named_parameters()} == {
        name: each.shape for name, each in smaller.named_parameters()
    }
    smaller.load_state_dict(child.state_dict())
    torch.testing.assert_close(child(IDS), smaller(IDS))
    (blocks,) = plan.stacks.values()
    if width == 12:
        assert torch.equal(child.get_parameter("into"), model.into[list(blocks)])
        assert torch.equal(child.get_parameter("gain"), model.gain[:, list(blocks)])
    gc.save(plan, model, tmp_path / "child")
    saved = load(tmp_path / "child")
    for mode in (True, False):  # two bodies
        torch.testing.assert_close(saved.train(mode)(IDS), child(IDS))


def test_a_slice_that_is_read_beside_the_blocks_stays() -> None:
    class Read(Stacked):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) + self.into[1].sum()

    model = Read(4).eval()
    layout = gc.analyze(gc.capture(model, (IDS,)))
    child = gc.execute(gc.plan(layout, depth=2), model, trace=layout.trace)
    shapes = {name: tuple(each.shape) for name, each in child.named_parameters()}
    assert (shapes["into"], shapes["back"]) == ((3, 24, 12), (2, 12, 24))
    without = Stacked(2).eval()
    without.load_state_dict({**child.state_dict(), "into": child.get_parameter("into")[[0, 2]]})
    torch.testing.assert_close(child(IDS), without(IDS) + model.into[1].sum())


def test_a_deeper_child_reads_the_slices_that_there_are() -> None:
    model = Stacked(2).eval()
    layout = gc.analyze(gc.capture(model, (IDS,)))
    child = gc.execute(gc.plan(layout, depth=4), model, trace=layout.trace)
    assert child.get_parameter("into").shape == (2, 24, 12)
    assert child(IDS).isfinite().all()


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda x: x[1] + x[-1], (0, {1, 2})),
        (lambda x: x.unbind()[2] + x.unbind(0)[0], (0, {0, 2})),
        (lambda x: x.unbind(-1)[2] + x.select(1, 0), (1, {0, 2})),
        (lambda x: x[1] + x[:, 1], None),  # along both dims
        (lambda x: x[1] + x.sum(0), None),
    ],
)
def test_slices_are_what_is_read_by_number_alone(read: object, expected: tuple[int, set[int]] | None) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.ones(3, 3))

        def forward(self, y: Tensor) -> Tensor:
            found: Tensor = y + read(self.x)  # type: ignore[operator]
            return found

    (tensor,) = gc.capture(Reading(), (torch.ones(3),)).graph.find_nodes(op="get_attr")
    found = slices(tensor)
    assert (found and (found[0], set(found[1].values()))) == expected
