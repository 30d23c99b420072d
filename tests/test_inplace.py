"""In-place ops written out: the graph computes what the program did, or is left to torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from graphclone import capture, inplace

Step = tuple[str, int, int, int]


class Program(nn.Module):
    def __init__(self, compute: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> object:
        return self.compute(x)


def _exported(program: nn.Module, x: Tensor) -> fx.GraphModule:
    return torch.export.export(program, (x,), strict=False).graph_module


def _checked(program: nn.Module, seed: int = 0) -> bool:
    """Whether the mutations were understood; if so the graph without them has to give the program's own outputs."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    traced = _exported(program, x.clone())
    inplace.same(traced.graph)
    graph = inplace.pure(traced.graph)
    if graph is None:
        return False
    assert not any(map(inplace.mutates, graph.nodes))
    found = fx.GraphModule(traced, graph)(x.clone())
    expected = program(x.clone())
    for ours, theirs in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    return True


def _sum(x: Tensor) -> object:
    y = x + 1
    y.add_(x)
    return y * 2, y


def _rows(x: Tensor) -> object:
    y = torch.zeros_like(x)
    y[1] = x[0]
    y[2, 1:4] = x[3, :3]
    y[:, 5].fill_(7)
    return y


def _sum_of_rows(x: Tensor) -> object:
    y = x * 2
    y[1:] += x[0]
    y[:, 2] *= 3
    return y


def _full(x: Tensor) -> object:
    y = torch.empty_like(x)
    y[:] = x
    return y


def _piece_read_later(x: Tensor) -> object:
    y = x * 2
    row = y[0]
    row[1:3] = x[1, 1:3]
    return torch.cat([row, y[0], y[1]])


def _view_made_before_is_not_read(x: Tensor) -> object:
    y = x * 2
    total = y.view(-1).sum()
    y.relu_()
    return y.view(-1), total


def _returned_by_an_op_that_may_copy(x: Tensor) -> object:
    y = x * 2
    y.contiguous().add_(1)  # the same memory
    return torch.nn.functional.dropout(y, 0.5, False).mul_(3)


def _under_vmap(x: Tensor) -> object:
    y = torch.vmap(lambda row: row * 2 + row.sum())(x)
    y[0] = 1
    return torch.vmap(torch.vmap(lambda a: a > 0.5))(y) * y.add_(1)


def _no_grad(x: Tensor) -> object:
    with torch.no_grad():
        y = x.exp()
        y[0] = 0
        y.div_(2)
    return y + x


def _dropout_that_draws_nothing(x: Tensor) -> object:
    y = x * 2
    torch.dropout(y, 0.5, False).add_(1)
    return y


def _cast_that_changes_nothing(x: Tensor) -> object:
    y = x * 2
    torch.dropout(y, 0.0, True).to(torch.float32).add_(1)
    return y * 1


@pytest.mark.parametrize(
    "compute", [_sum, _rows, _sum_of_rows, _full, _piece_read_later, _view_made_before_is_not_read, _dropout_that_draws_nothing]
)
def test_mutations_of_what_nobody_else_holds_are_written_out(compute: Callable[[Tensor], object]) -> None:
    assert _checked(Program(compute))


def _view_read_later(x: Tensor) -> object:
    y = x * 2
    view = y.view(-1)
    y.add_(1)
    return view


def _two_views(x: Tensor) -> object:
    y = x * 2
    first, second = y[0], y[0]
    second.fill_(3)
    return first + 1


def _pieces_of_a_split(x: Tensor) -> object:
    y = x * 2
    pieces = y.split(2)
    y.add_(1)
    return pieces[0] + pieces[1]


def _whole_behind_a_view(x: Tensor) -> object:
    y = x * 2
    y.view(-1).add_(1)
    return y


def _input(x: Tensor) -> object:
    x.add_(1)
    return x * 2


def _rounded(x: Tensor) -> object:
    y = x.long()
    y.mul_(x.gt(0).sum())
    y.to(torch.int32).add_(y)
    return y


def test_what_mutates_into_itself_is_not_written_twice() -> None:
    graph = inplace.pure(_exported(Program(_sum_of_rows), torch.randn(4, 6)).graph)
    assert graph is not None
    targets = [node.target for node in graph.nodes]
    assert targets.count(torch.ops.aten.slice_scatter.default) == targets.count(torch.ops.aten.select_scatter.default) == 1


@pytest.mark.parametrize("compute", [_view_read_later, _two_views, _pieces_of_a_split, _whole_behind_a_view, _input])
def test_what_others_see_is_left_to_torch_and_right(compute: Callable[[Tensor], object]) -> None:
    program = Program(compute)
    assert not _checked(program)
    x = torch.randn(4, 6)
    trace = capture(program, (x.clone(),))
    assert not trace.remarks
    assert not any(map(inplace.mutates, trace.graph.nodes))


@pytest.mark.parametrize(
    "compute", [_returned_by_an_op_that_may_copy, _cast_that_changes_nothing, _under_vmap, _no_grad, _rounded]
)
def test_the_captured_graph_computes_what_the_program_does(compute: Callable[[Tensor], object]) -> None:
    trace = capture(Program(compute), (torch.randn(4, 6),))
    assert not trace.remarks
    assert not any(map(inplace.mutates, trace.graph.nodes))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.state.add_(x.sum(0))
        return x + self.state


def test_a_buffer_that_mutates_is_left_to_torch() -> None:
    assert inplace.pure(_exported(Counting(), torch.randn(4, 6)).graph) is None
    (told,) = capture(Counting(), (torch.randn(4, 6),)).remarks
    assert "changes its buffers" in told


def test_gradients_pass_where_they_did() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.zeros(4, 6)
            y[1:] = self.inner(x)[1:]
            y[0].add_(self.inner.bias)
            return y.relu_()

    model, x = Gated(), torch.randn(4, 6)
    trace = capture(model, (x,))
    root = nn.Module()
    root.inner = model.inner
    graph = fx.GraphModule(root, trace.graph)
    ours = torch.autograd.grad(graph(x)[0].square().sum(), list(model.parameters()))
    theirs = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


_VIEWS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "select": lambda t, a, b: t.select(a % t.dim(), b % t.shape[a % t.dim()]),
    "slice": lambda t, a, b: t.narrow(a % t.dim(), 0, 1 + b % t.shape[a % t.dim()]),
    "step": lambda t, a, b: t[b % t.shape[0] :: 2],
    "all": lambda t, a, b: t[:],
    "flat": lambda t, a, b: t.reshape(-1),
    "turn": lambda t, a, b: t.transpose(0, a % t.dim()),
    "lift": lambda t, a, b: t.unsqueeze(a % t.dim()) if t.dim() < 4 else t,
    "part": lambda t, a, b: t.split(1 + b % t.shape[0])[0],
    "same": lambda t, a, b: torch.dropout(t, 0.1, False),
    "copy": lambda t, a, b: t * 2,
    "cast": lambda t, a, b: t.to(torch.float32).contiguous(),
}


def _first_row(place: Tensor, value: Tensor) -> Tensor:
    place[..., :1] += value.sum()
    return place


_WRITES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda t, v: t.add_(v.sum()),
    "mul": lambda t, v: t.mul_(v.mean()),
    "relu": lambda t, v: t.relu_(),
    "fill": lambda t, v: t.fill_(2.5),
    "copy": lambda t, v: t.copy_(v.reshape(-1)[0]),
    "clamp": lambda t, v: t.clamp_(-0.5, 0.5),
    "self": lambda t, v: t.copy_(t[...]),
    "row": lambda t, v: _first_row(t, v) if t.dim() else t.neg_(),
    "mask": lambda t, v: t.masked_fill_(t > 0.3, 1.5),
}
_step = st.tuples(
    st.sampled_from([*_VIEWS, *(f"{name}_" for name in _WRITES)]), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)
)


def _interpreted(steps: list[Step], read: list[int], x: Tensor) -> tuple[Tensor, ...]:
    values = [x * 1.5, torch.zeros(4, 6)]
    for name, at, a, b in steps:
        value = values[at % len(values)]
        if name in _VIEWS:
            values.append(_VIEWS[name](value, a, b) if value.dim() else value * 2)
        else:
            values.append(_WRITES[name.removesuffix("_")](value, values[a % len(values)].clone()))
    return tuple(values[each % len(values)] * 1.0 for each in read)


@settings(max_examples=150, deadline=None)
@given(st.lists(_step, min_size=1, max_size=9), st.lists(st.integers(0, 12), min_size=1, max_size=3))
def test_random_programs_of_views_and_writes(steps: list[Step], read: list[int]) -> None:
    _checked(Program(lambda x: _interpreted(steps, read, x)))
