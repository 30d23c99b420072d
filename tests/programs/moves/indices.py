"""Positions: where they come from, what is done to them, what is read and written with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.world import Unfit, World, move

aten = torch.ops.aten


# -- where positions come from ---------------------------------------------------------------------------------------


@move(1.5)
def best(w: World, x: Tensor) -> Sequence[Tensor]:
    """Where the largest values of a dim stand."""
    dim = w.dim(x, 2)
    n, keep = x.shape[dim], w.coin()
    which = w.rng.randrange(6)
    if which == 0:
        values, found = x.topk(w.rng.randint(1, min(n, 3)), dim)
        return [values, w.bounded(found, n)]
    if which == 1:
        values, found = w.pick([x.max, x.min, x.contiguous().median])(dim, keep)  # torch's median of spread copies is garbage
        return [values, w.bounded(found, n)]
    if which == 2:
        return [w.bounded(x.argsort(dim), n)]
    if which == 3:
        values, found = x.sort(dim, descending=w.coin())
        return [values, w.bounded(found, n)]
    return [w.bounded(w.pick([x.argmax, x.argmin])(dim, keep), n)]


@move(1)
def arange(w: World, x: Tensor) -> Tensor:
    n = w.pick([*x.shape, w.size()])
    if w.coin(0.2):
        return aten.arange(1, n + 1)
    return w.bounded(aten.arange(n), n)


@move(0.5)
def given_integers(w: World, x: Tensor) -> Tensor:
    return w.integers(w.pick([*x.shape, w.size()]), *(w.size() for _ in range(w.rng.choice((1, 2)))))


# -- what is done to them --------------------------------------------------------------------------------------------


@move(1, "integer")
def reckon(w: World, i: Tensor) -> Tensor:
    n, k = w.bound(i), w.rng.choice((2, 3))
    same = [v for v in w.values if v.dtype == torch.int64 and v.shape == i.shape]
    j = w.pick(same)
    m = w.bound(j)
    options = [
        lambda: w.bounded(i * m + j, n * m),
        lambda: w.bounded(i[:, None] * m + j, n * m),
        lambda: w.bounded(i.unsqueeze(-1) * n + i.unsqueeze(-2), n * n),
        lambda: w.bounded(i + k, n + k),
        lambda: w.bounded(i % k, k),
        lambda: w.bounded(i // k, -(-n // k)),
        lambda: w.bounded(n - 1 - i, n),
        lambda: w.bounded(i.clamp(max=k - 1), k),
        lambda: w.bounded(i.clamp(0, n - 1), n),
        lambda: w.bounded((i[:, None] - i[None]).abs(), n),
        lambda: w.bounded(torch.where(i > j, i, j), max(n, m)),
        lambda: w.bounded(torch.maximum(i, j), max(n, m)),
        lambda: w.bounded(torch.where(i > 0, i, 0), n),
        lambda: w.bounded(i.double().long(), n),
        lambda: w.bounded(i.int().long(), n),
        lambda: w.bounded(torch.cat([i, j], -1), max(n, m)),
        lambda: w.bounded(i.sort(-1).values, n),
        lambda: w.bounded(i.amax(-1, keepdim=True), n),
        lambda: w.bounded((i > 0).long().cumsum(-1), i.shape[-1] + 1),
        lambda: w.bounded(i.masked_fill(i > k, 0), n),
        lambda: w.bounded(i ^ 0, n),
        lambda: w.bounded(i.clone(), n),
        lambda: w.bounded(i.flip(-1), n),
    ]
    return w.pick(options)()


@move(0.7, "integer")
def compare(w: World, i: Tensor) -> Tensor:
    """Masks out of positions, causal ones among them."""
    n = i.shape[-1] if i.dim() else 1
    same = [v for v in w.values if v.dtype == torch.int64 and v.dim() == i.dim()]
    j = w.pick(same)
    options = [
        lambda: i == w.rng.randrange(w.bound(i)),
        lambda: i == j,
        lambda: i.unsqueeze(-1) == j.unsqueeze(-2),
        lambda: i.unsqueeze(-1) >= aten.arange(n),
        lambda: aten.arange(n)[:, None] >= aten.arange(n),
        lambda: i.unsqueeze(-1) == aten.arange(w.bound(i)),
        lambda: i < 2,
    ]
    return w.pick(options)()


@move(0.7, "integer")
def as_numbers(w: World, i: Tensor) -> Tensor:
    options = [
        lambda: i.double(),
        lambda: i.double() * w.parameter(i.shape[-1]),
        lambda: torch.outer(i.double(), w.parameter(w.size())).sin(),
        lambda: F.one_hot(i, w.bound(i)).double(),
        lambda: F.one_hot(i, w.bound(i)).sum(-2).double(),
        lambda: F.one_hot(i, w.bound(i) + 1).double(),
        lambda: i.double().mean(-1),
    ]
    return w.pick(options)()


# -- reading ---------------------------------------------------------------------------------------------------------


def indexable(w: World, bound: int) -> tuple[Tensor, int]:
    """A value with a dim of so many positions (mostly), or a new parameter with one."""
    fit = [(v, d) for v in w.values if v.is_floating_point() for d, size in enumerate(v.shape) if size == bound]
    if fit and w.coin(0.6):
        return w.pick(fit)
    longer = [(v, d) for v in w.values if v.is_floating_point() for d, size in enumerate(v.shape) if size > bound]
    if longer and w.coin(0.1):
        return w.pick(longer)
    shape = [w.size() for _ in range(w.rng.choice((0, 1, 1, 2)))]
    dim = w.rng.randint(0, len(shape))
    return w.parameter(*shape[:dim], bound, *shape[dim:]), dim


@move(2, "integer")
def read(w: World, i: Tensor) -> Tensor:
    table, dim = indexable(w, w.bound(i))
    which = w.rng.randrange(5)
    if which == 0 and table.dim() == 2:
        return F.embedding(i, table if dim == 0 else table.t())
    if which == 1:
        return table.index_select(dim, i.flatten())
    if which == 2 and table.dim() >= 2:
        other = (dim + 1) % table.dim()
        at: list[Tensor | None] = [None] * table.dim()
        at[dim], at[other] = i, w.integers(table.shape[other], *i.shape[-1:])
        return torch.ops.aten.index(table, at)
    places: list[Tensor | slice] = [slice(None)] * table.dim()
    places[dim] = i
    return table[tuple(places)]  # type: ignore[index]


@move(1.5, "integer")
def gather(w: World, i: Tensor) -> Tensor:
    """`gather` needs one rank; other dims agree, or are shorter."""
    if not i.dim():
        raise Unfit
    dim, n = w.dim(i), w.bound(i)
    fit = [v for v in w.values if v.is_floating_point() and v.dim() == i.dim() and v.shape[dim] >= n]
    shape = [n if each == dim else size for each, size in enumerate(i.shape)]
    source = w.pick(fit) if fit and w.coin() else w.parameter(*shape)
    if w.coin(0.3):
        return torch.take_along_dim(source, i, dim)
    return source.gather(dim, i)


@move(1, "integer")
def gather_expanded(w: World, i: Tensor) -> Tensor:
    """The same positions for every channel of a last dim."""
    fit = [v for v in w.values if v.is_floating_point() and v.dim() == i.dim() + 1 and v.shape[:-2] == i.shape[:-1]]
    source = w.pick([v for v in fit if v.shape[-2] >= w.bound(i)])
    return source.gather(-2, i.unsqueeze(-1).expand(*i.shape, source.shape[-1]))


@move(0.5)
def pick_rows(w: World, x: Tensor) -> Tensor:
    """Fixed places, as a list in the program."""
    dim = w.dim(x)
    n = x.shape[dim]
    if w.coin():
        return x.index_select(dim, w.integers(n, w.rng.randint(1, 4)))
    return x.take_along_dim(w.integers(n, *(2 if each == dim else size for each, size in enumerate(x.shape))), dim)


# -- writing ---------------------------------------------------------------------------------------------------------


@move(1.5, "integer")
def scatter(w: World, i: Tensor) -> Tensor:
    if not i.dim():
        raise Unfit
    dim, n = w.dim(i), w.bound(i)
    shape = [n if each == dim else size for each, size in enumerate(i.shape)]
    target = aten.zeros(shape, dtype=torch.float64) if w.coin(0.4) else w.like(*shape)
    source = w.like(*i.shape)
    options = [
        lambda: target.scatter_add(dim, i, source),
        lambda: target.scatter(dim, i, 0.5),
        lambda: target.scatter(dim, i, source),
        lambda: target.scatter_reduce(dim, i, source, w.rng.choice(("sum", "amax", "mean"))),
    ]
    return w.pick(options)()


@move(1, "integer")
def write_rows(w: World, i: Tensor) -> Tensor:
    if i.dim() != 1:
        raise Unfit
    target, dim = indexable(w, w.bound(i))
    source = w.like(*(i.shape[0] if each == dim else size for each, size in enumerate(target.shape)))
    options = [
        lambda: target.index_add(dim, i, source),
        lambda: target.index_copy(dim, i, source),
        lambda: target.index_fill(dim, i, 0.5),
        lambda: target.movedim(dim, 0).index_put((i,), source.movedim(dim, 0), accumulate=True),
        lambda: target.movedim(dim, 0).index_put((i,), source.movedim(dim, 0)),
        lambda: target.movedim(dim, 0).index_put((i,), w.parameter()),
    ]
    return w.pick(options)()


@move(0.5)
def through_a_mask(w: World, x: Tensor) -> Tensor:
    mask = x > 0
    options = [
        lambda: x.masked_scatter(mask, w.parameter(x.numel())),
        lambda: x.index_put((mask,), w.parameter()),
        lambda: x[w.pick([v for v in w.values if v.dtype == torch.bool and v.shape == x.shape[: v.dim()]])],
        lambda: w.bounded(torch.bucketize(x, aten.linspace(-1, 1, 4, dtype=x.dtype)), 5),
        lambda: w.bounded(torch.searchsorted(w.parameter(5).sort().values, x.contiguous()), 6),
    ]
    return w.pick(options)()
