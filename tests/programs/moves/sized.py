"""Idioms whose numbers are computed from the sizes of a value: with open sizes, these computations are a part of the graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.moves.rearrange import divisors
from tests.programs.world import Unfit, World, move

aten = torch.ops.aten


def _three(x: Tensor) -> tuple[int, int, int]:
    if x.dim() != 3:
        raise Unfit
    b, t, r = x.shape
    return b, t, r


@move(1.2)
def heads_in_batch(w: World, x: Tensor) -> Tensor:
    """Attention of (batch head) rows, as `nn.MultiheadAttention` has it, sometimes beside a given value of as many rows."""
    b, t, r = _three(x)
    h, d = w.rng.choice((2, 3, 4)), w.rng.choice((2, 3))
    w.fits(b, h, t, max(t, d))
    y = F.linear(x, w.parameter(h * d, r)).view(b, t, h, d)
    rows = (y.transpose(1, 2) if w.coin(0.8) else y).reshape(b * h, t, d)
    given = w.pick([lambda: w.input(b * h, t, t), lambda: w.input(b * h, 1, 1), lambda: None, lambda: None])()
    if w.coin():
        score = torch.bmm(rows, rows.transpose(1, 2))
        rows = torch.bmm((score if given is None else score + given).softmax(-1), rows)
    else:
        rows = rows * rows.sum(1, keepdim=True) if given is None else rows * given.mean((1, 2), keepdim=True)
    back = rows.view(b, h, t, d)
    if w.coin(0.3):
        return back * w.parameter(h, 1, 1)
    return F.linear(back.transpose(1, 2).reshape(b, t, h * d), w.parameter(r, h * d))


@move(1)
def windows(w: World, x: Tensor) -> Tensor:
    """A length in windows: mixed within them, or between them, or laid out in another order."""
    b, t, r = _three(x)
    k = w.pick(divisors(t))
    parts = x.view(b, t // k, k, r)
    options = [
        lambda: parts.flip(1).reshape(b, t, r),
        lambda: parts.mean(2),
        lambda: parts.transpose(1, 2).reshape(b, t, r),
        lambda: (parts + w.parameter(k, r)).reshape(b, t, r),
        lambda: (parts * w.parameter(t // k, 1, 1)).reshape(b, t, r),
        lambda: parts.reshape(b, t // k, k * r),
        lambda: parts.reshape(b * (t // k), k, r) + w.parameter(r),
        lambda: parts.transpose(1, 2).reshape(b, t // k, k * r),
    ]
    return w.pick(options)()


@move(1)
def tokens(w: World, x: Tensor) -> Tensor:
    """Parameters as more positions of a length."""
    b, t, r = _three(x)
    k = w.size()
    w.fits(b, t + k, r)
    more = w.parameter(k, r)
    options = [
        lambda: torch.cat([more.expand(b, k, r), x], 1),
        lambda: torch.cat([more.unsqueeze(0).repeat(b, 1, 1), x], 1),
        lambda: torch.cat([x, more.expand(b, -1, -1)], 1)[:, : t + 1],
        lambda: torch.cat([more.expand(b, k, r), x], 1)[:, k:],
        lambda: F.scaled_dot_product_attention(more.expand(b, k, r), x, x),
        lambda: torch.cat([more, x.reshape(b * t, r)], 0),
    ]
    return w.pick(options)()


@move(1)
def as_many_as(w: World, x: Tensor) -> Tensor:
    """As many positions of a parameter as a value has in one of its dims."""
    at = w.dim(x)
    n, r = x.shape[at], x.shape[-1]
    table = w.parameter(n + w.rng.choice((0, 1, 3)), r)
    options = [
        lambda: x * table[:n].mean(0),
        lambda: x + table[table.shape[0] - n :].sum(0),
        lambda: x + F.embedding(aten.arange(n), table).amax(0),
        lambda: x * table.narrow(0, 0, n).square().mean(0),
        lambda: F.linear(x, table[:n]),
        lambda: x + table.T[: min(r, n)].mean(),
    ]
    return w.pick(options)()


@move(0.8)
def chosen_by_size(w: World, x: Tensor) -> Tensor:
    """The best ones, as many as a dim has positions; or a row of each, of a table with as many."""
    least = w.pick(list(x.shape[:-1]))
    y = F.linear(x, w.parameter(w.size() + least, x.shape[-1]))
    best = y.topk(least, -1)
    if w.coin():
        return best.values
    return y * torch.zeros_like(y).scatter(-1, best.indices, 1.0)


@move(0.8)
def causal(w: World, x: Tensor) -> Tensor:
    """A mask made of sizes, over the pairs of a length."""
    b, t, r = _three(x)
    w.fits(b, t, t)
    mask = w.pick(
        [
            lambda: torch.ones(t, t, dtype=torch.bool).tril(),
            lambda: aten.arange(t)[:, None] >= aten.arange(t),
            lambda: (aten.arange(t)[:, None] - aten.arange(t)).abs() < 2,
        ]
    )()
    y = F.linear(x, w.parameter(r, r))
    if w.coin():
        return F.scaled_dot_product_attention(x, y, x, attn_mask=mask)
    return (x @ y.mT).masked_fill(~mask, -1e3).softmax(-1) @ x


@move(0.8)
def merged(w: World, x: Tensor) -> Tensor:
    """All leading dims as one, a map of the rest, and apart again."""
    if x.dim() < 3:
        raise Unfit
    *lead, r = x.shape
    flat = x.reshape(-1, r) if w.coin() else x.reshape(lead[0] * lead[1], *lead[2:], r)
    n = w.size()
    y = F.linear(flat, w.parameter(n, r)).relu()
    if w.coin(0.3):
        return y
    return y.view(*lead, n) if w.coin(0.7) else y.reshape(*lead[:-1], lead[-1] * n)
