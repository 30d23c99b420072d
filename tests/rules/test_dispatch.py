"""Tokens sorted by expert, run in groups, and put back: the experts stay free, or are frozen whole."""

from __future__ import annotations

from typing import Any

import torch
import transformers.integrations.moe  # noqa: F401  (declares the op that its experts run as on a CPU)
from torch import Tensor, nn

import graphclone as gc
from tests.rules.notation import check

aten = torch.ops.aten
grouped_mm = torch.ops.transformers.grouped_mm_fallback


def offsets(experts: Tensor, count: int) -> Tensor:
    return torch.histc(experts.float(), bins=count, min=0, max=count - 1).cumsum(0, dtype=torch.int32)


def dispatch(x: Tensor, ids: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out in the order of the experts, and the permutation that made it so."""
    ids, order = torch.sort(ids)
    return grouped_mm(x[order], w, offsets(ids, w.shape[0])), order


def by_argsort(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    out, order = dispatch(x, ids, w)
    return out[torch.argsort(order)]


def by_write(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    out, order = dispatch(x, ids, w)
    back = aten.index_put(aten.empty_like(order), [order], aten.arange(order.shape[0]))
    return out[back]


def by_sum(x: Tensor, ids: Tensor, w: Tensor, n: Any) -> Tensor:
    out, order = dispatch(x, ids, w)
    return aten.zeros([n.n, n.b]).index_add(0, order, out)


def two_each(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    """`ids` are (token, choice); a sorted row's token is its position divided by the number of choices."""
    ids, order = torch.sort(ids.flatten())
    out = grouped_mm(x[order // 2], w, offsets(ids, w.shape[0]))
    return out[torch.argsort(order)].view(x.shape[0], 2, -1).sum(1)


def row_by_row(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    """Which matrix is a row's is found by the boundaries."""
    ids, order = torch.sort(ids)
    mine = aten.bucketize(aten.arange(x.shape[0]), offsets(ids, w.shape[0]), right=True)
    return torch.bmm(x[order][:, None], w[mine])[:, 0][torch.argsort(order)]


def next_run(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    """A row whose run ends there is given the matrix before it."""
    ids, order = torch.sort(ids)
    mine = aten.bucketize(aten.arange(x.shape[0]), offsets(ids, w.shape[0]))
    return torch.bmm(x[order][:, None], w[mine])[:, 0][torch.argsort(order)]


def of_other_numbers(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    """The boundaries between rows, asked of what does not count them."""
    ids, order = torch.sort(ids)
    mine = aten.bucketize(order, offsets(ids, w.shape[0]), right=True)
    return torch.bmm(x[order][:, None], w[mine])[:, 0][torch.argsort(order)]


def biased(x: Tensor, ids: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    ids, order = torch.sort(ids)
    out = grouped_mm(x[order], w, offsets(ids, w.shape[0])) + bias[ids]
    return out[torch.argsort(order)]


def met_by_a_table(x: Tensor, ids: Tensor, w: Tensor, table: Tensor) -> Tensor:
    out, order = dispatch(x, ids, w)
    return (out + table[:, None])[torch.argsort(order)]


def cut_in_the_middle(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    out, _ = dispatch(x, ids, w)
    return out[:1].sum(0)


def numbers(ids: Tensor, n: Any) -> Tensor:
    return offsets(torch.sort(ids)[0], n.e) * 1.5


def counts(ids: Tensor, n: Any) -> Tensor:
    return torch.histc(ids.float(), bins=n.e, min=0, max=n.e - 1) / 3


def first_of_each(x: Tensor, ids: Tensor, n: Any) -> Tensor:
    """The boundaries used as positions: what stands there depends on which expert comes before."""
    ids, order = torch.sort(ids)
    return x[order][(offsets(ids, n.e) - 1).clamp(0).long()]


def descending(x: Tensor, ids: Tensor, w: Tensor) -> Tensor:
    ids, order = torch.sort(ids, descending=True)
    return grouped_mm(x[order], w, offsets(ids, w.shape[0]))[torch.argsort(order)]


test_experts_are_free = check(
    [
        ("by argsort", "[n] a, [n]@e, e a b -> [n] b", by_argsort),
        ("by a write", "[n] a, [n]@e, e a b -> [n] b", by_write),
        ("by a sum", "[n] a, [n]@e, e a b -> [n] b", by_sum),
        ("two each", "[n] a, [n] [k]@e, e a b -> [n] b | k=2", two_each),
        ("row by row", "[n] a, [n]@e, e a b -> [n] b", row_by_row),
        ("biased", "[n] a, [n]@e, e a b, e b -> [n] b", biased),
        ("counts", "n@e -> e", counts),
    ]
)

test_experts_are_frozen_whole = check(
    [
        ("met by a table", "[n] a, [n]@[e], [e] a b, [m] -> [k] b | n=11 m=11 k=11", met_by_a_table),
        ("cut", "[n] a, [n]@[e], [e] a b -> b", cut_in_the_middle),
        ("next run", "[n] a, [n]@[e], [f] a b -> [m] b | n=11 m=11 e=7 f=7", next_run),
        ("of other numbers", "[n] a, [n]@[e], [f] a b -> [n] b | e=7 f=7", of_other_numbers),
        ("numbers", "[n]@[e] -> [e]", numbers),
        ("first of each", "[n] a, [n]@[e] -> [e] a", first_of_each),
        ("descending", "[n] a, [n]@[e], [f] a b -> [m] b | n=11 m=11 e=7 f=7", descending),
    ]
)


class Experts(nn.Module):
    def __init__(self, put_back: bool) -> None:
        super().__init__()
        self.put_back, self.gate, self.w = put_back, nn.Linear(7, 5), nn.Parameter(torch.randn(5, 7, 11))

    def forward(self, x: Tensor) -> Tensor:
        out, order = dispatch(x, self.gate(x).argmax(-1), self.w)
        return out[torch.argsort(order)] if self.put_back else out


def test_what_is_returned_in_the_order_of_the_experts_freezes_them() -> None:
    frozen = [gc.analyze(gc.capture(Experts(back), (torch.randn(13, 7),))).axes("w")[0].frozen for back in (True, False)]
    assert frozen[0] is None
    assert "sorted" in str(frozen[1])


test_digits = check(
    [
        ("floor_divide", "n@(a b), a -> n | b=3", lambda i, x: x[aten.floor_divide(i, 3)]),
        ("remainder", "n@(a b), b -> n | b=3", lambda i, x: x[aten.remainder(i, 3)]),
        ("used as numbers", "n@[v] -> n", lambda i: aten.floor_divide(i, 2) * 1.5),
    ]
)
