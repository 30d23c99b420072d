"""Values that decide what a model computes: known while it is traced, asserted by its graph, refused where a parameter decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphclone import analyze, capture, select
from graphclone.errors import CaptureError
from graphclone.export.onnx import export_onnx
from graphclone.export.pytorch import save_graph
from graphclone.verify import verify

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Grid(nn.Module):
    """Patches pooled over a grid that is an input, as vision towers with `grid_thw` do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        rows, columns = grid.tolist()
        x = x + self.down(torch.relu(self.up(x)))
        return x.reshape(x.shape[0], rows, columns, 8).mean(2)


class Towers(Grid):
    """A grid that decides how often Python loops."""

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        for _ in range(int(grid[0])):
            x = x + self.down(torch.relu(self.up(x)))
        return x


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        owner = torch.repeat_interleave(torch.arange(2), lengths)
        pieces = torch.split(x.flatten(0, 1), lengths.tolist())
        x = torch.cat([piece * (index + 1) for index, piece in enumerate(pieces)]) + owner[:, None]
        return self.down(torch.relu(self.up(x))).reshape(2, 6, 8)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("warm", torch.tensor(0.25))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        if mask.any():
            hidden = hidden * mask[..., None]
        if self.warm > 0.5:
            hidden = hidden * 2
        return self.down(hidden)


class Deltas(nn.Module):
    """`torch.tensor` of tensors, an index of tensors, and a table that an input is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        table = torch.zeros(3, dtype=torch.long)
        table[1] = ids.max()
        deltas = torch.tensor([row.max() + 1 for row in ids])
        marks = torch.zeros(9)
        marks[(ids[0, 0], ids[1, 0]),] = 2.0
        return self.down(torch.relu(self.up(x[:, : int(table[1])]))) + deltas[:, None, None] + marks[1] * marks[2]


class Picked(Branch):
    """How much of a value is picked is known, though not what."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        picked = self.up(x)[mask]
        if picked.shape[0] > 8:
            picked = picked.relu()
        return self.down(picked)


class Spread(Branch):
    """A mask over the width of the model, as placeholders of images are counted."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.up(x)
        if hidden[mask.unsqueeze(-1).expand_as(hidden)].numel() > 8 * hidden.shape[-1]:
            hidden = hidden.relu()
        return self.down(hidden)


class Pairs(Branch):
    """How many pairs there are of what a mask leaves, which may be a single one."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        left = torch.nonzero(mask[0]).flatten()
        hidden = self.up(x)
        if left.shape[0] // 2 > 0:
            hidden = hidden.relu()
        return self.down(hidden) + left.sum()


CASES = {
    "grid": (Grid, (X, torch.tensor([2, 3])), (X, torch.tensor([3, 2])), True),
    "loop": (Towers, (X, torch.tensor([2, 3])), (X, torch.tensor([3, 2])), False),
    "lengths": (Repeated, (X, torch.tensor([5, 7])), (X, torch.tensor([6, 6])), True),
    "mask": (Branch, (X, torch.ones(2, 6, dtype=torch.bool)), (X, torch.zeros(2, 6, dtype=torch.bool)), False),
    "picked": (Picked, (X, X.sum(-1) > 0), (X, X.sum(-1) < 9), False),
    "spread": (Spread, (X, X.sum(-1) > 0), (X, X.sum(-1) < 9), False),
    "no mask": (Branch, (X, torch.zeros(2, 6, dtype=torch.bool)), (X, torch.ones(2, 6, dtype=torch.bool)), False),
    "one": (Pairs, (X, torch.eye(2, 6) > 0), (X, torch.ones(2, 6, dtype=torch.bool)), False),
    "deltas": (Deltas, (X, torch.tensor([[1, 4], [2, 3]])), (X, torch.tensor([[1, 5], [2, 3]])), False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_computes_what_the_model_does_and_refuses_what_decides_otherwise(case: str) -> None:
    make, inputs, others, general = CASES[case]
    model = make()
    trace = capture(model, inputs)
    layout = analyze(trace)
    child = select(trace, layout, {})
    assert torch.equal(child(*inputs), model(*inputs))
    if general:  # torch knows by itself what this value decides
        assert torch.equal(child(*others), model(*others))
    else:
        with pytest.raises(RuntimeError, match=r"test_decided\.py:\d+: a graph of it cannot take others"):
            child(*others)
        assert any("depends on" in remark for remark in trace.remarks)


@pytest.mark.parametrize("case", CASES)
def test_its_units_are_free_and_the_oracles_pass(case: str, tmp_path: Path) -> None:
    make, inputs, *_ = CASES[case]
    model = make()
    trace = capture(model, inputs)
    layout = analyze(trace)
    verdicts = verify(model, inputs)
    assert verdicts.passed, verdicts
    (hidden,) = (factor for factor in layout.factors if factor.size == 16 and factor.slots)
    child = select(trace, layout, {hidden: range(0, 16, 2)})
    assert child(*inputs).shape == model(*inputs).shape
    save_graph(child, inputs, {}, tmp_path / "child.pt2")
    assert torch.equal(torch.export.load(tmp_path / "child.pt2").module()(*inputs), child(*inputs))


class ByWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) if self.decide(x) else torch.relu(self.up(x)))

    def decide(self, x: Tensor) -> Tensor:
        return self.up(x).sum() > 0


class ByWeightWritten(ByWeight):
    """The parameter gets in through a write into a view."""

    def decide(self, x: Tensor) -> Tensor:
        table = torch.zeros(4, 2)
        table[1].copy_(self.up.weight[0, :2].detach())
        return table.sum() > 0


class ByChance(ByWeight):
    def decide(self, x: Tensor) -> Tensor:
        return torch.rand(()) > 0.5


@pytest.mark.parametrize("make", [ByWeight, ByWeightWritten, ByChance])
def test_what_a_parameter_or_chance_decides_is_refused(make: type[nn.Module]) -> None:
    with pytest.raises(CaptureError, match=r"test_decided\.py"):
        capture(make(), (X,))


class Writing(nn.Module):
    """Writes into its input and a buffer before a value of them decides."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        ids.add_(1)
        self.calls.add_(1)
        return self.up(x[:, : int(ids[0])]) + torch.ones(int(self.calls) + 1, 1, 1).sum()


def test_what_is_worked_out_leaves_inputs_and_buffers_alone() -> None:
    model, ids = Writing(), torch.tensor([3])
    trace = capture(model, (X, ids))
    assert (int(ids), int(model.calls)) == (3, 0)
    assert torch.equal(select(trace, analyze(trace), {})(X, ids.clone()), model(X, ids.clone()))


class Unfilled(nn.Module):
    """A size of a value that a parameter is in decides; the value itself does not."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.up(x)
        whole = hidden.shape[1] * hidden.new_ones(hidden.shape[0], dtype=torch.long)
        return self.down(hidden if (whole == lengths).all() else hidden.relu())


def test_a_tensor_of_which_only_the_shape_is_read_does_not_decide() -> None:
    model, inputs = Unfilled(), (X, torch.tensor([6, 6]))
    trace = capture(model, inputs)
    child = select(trace, analyze(trace), {})
    assert torch.equal(child(*inputs), model(*inputs))
    with pytest.raises(RuntimeError, match="cannot take others"):
        child(X, torch.tensor([6, 5]))


class Cache:
    def __init__(self, states: Tensor) -> None:
        self.states = states


class WithCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, object]:
        self.up = self.up.to(x.dtype)  # idle, but torch.export cannot swap the parameters that it traces
        return {"out": self.up(x), "cache": Cache(x)}


def test_an_output_that_a_graph_cannot_hold_is_left_out_and_told() -> None:
    model = WithCache()
    trace = capture(model, (X,))
    child = select(trace, analyze(trace), {})
    assert torch.equal(child(X)["out"], model(X)["out"])
    assert child(X)["cache"] is None
    assert any("Cache" in remark for remark in trace.remarks)
    assert isinstance(model(X)["cache"], Cache), "the user's model is as it was"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    capture(Grid(), (X, torch.tensor([2, 3])))
    with pytest.raises(CaptureError):
        capture(ByWeight(), (X,))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("case", ["loop", "lengths", "deltas", "mask"])
def test_onnx_computes_the_same_and_says_that_it_refuses_others(case: str, tmp_path: Path) -> None:
    make, inputs, *_ = CASES[case]
    model = make()
    trace = capture(model, inputs)
    child = select(trace, analyze(trace), {})
    exported = export_onnx(child, inputs, {}, tmp_path / "child.onnx")
    assert exported.difference < 1e-5
    told = any("the file refuses" in remark for remark in exported.remarks)
    assert told == any("depends on" in remark for remark in trace.remarks)
