"""Views, permutations, concatenation, slices, repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.world import Unfit, World, move


def divisors(n: int) -> list[int]:
    return [d for d in range(2, n) if n % d == 0]


def _factored(w: World, n: int) -> list[int]:
    """n as two or three digits."""
    inner = w.pick(divisors(n))
    outer = n // inner
    if divisors(outer) and w.coin(0.3):
        middle = w.pick(divisors(outer))
        return [outer // middle, middle, inner]
    return [outer, inner]


@move(2, "any")
def unflatten(w: World, x: Tensor) -> Tensor:
    dim = w.pick([dim for dim, size in enumerate(x.shape) if divisors(size)])
    digits = _factored(w, x.shape[dim])
    if w.coin():
        return x.unflatten(dim, digits)
    if w.coin():
        digits[w.rng.randrange(len(digits))] = -1
    return x.reshape(*x.shape[:dim], *digits, *x.shape[dim + 1 :])


@move(2, "any")
def flatten(w: World, x: Tensor) -> Tensor:
    start = w.dim(x[None]) if x.dim() < 2 else w.rng.randrange(x.dim() - 1)
    end = w.rng.randrange(start, x.dim())
    if w.coin():
        return x.flatten(start, end)
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


@move(1, "any")
def reshape(w: World, x: Tensor) -> Tensor:
    """Any other shape of as many elements: digits may tangle."""
    rest, shape = x.numel(), []
    while rest > 1 and len(shape) < 4:
        digit = w.pick([*divisors(rest), rest])
        shape.append(digit)
        rest //= digit
    w.rng.shuffle(shape)
    return x.contiguous().view(*shape, rest) if w.coin() else x.reshape(*shape, *([rest] if rest > 1 else []))


@move(2, "any")
def permute(w: World, x: Tensor) -> Tensor:
    order = w.rng.sample(range(x.dim()), x.dim())
    return x.permute(order)


@move(1, "any")
def transpose(w: World, x: Tensor) -> Tensor:
    a, b = w.dim(x), w.dim(x)
    which = w.rng.randrange(5)
    if which == 0 and x.dim() >= 2:
        return x.mT
    if which == 1 and x.dim() == 2:
        return x.t()
    if which == 2:
        return x.movedim(a, b)
    if which == 3 and x.dim() >= 2:
        return x.movedim((0, 1), (-1, 0))
    return x.transpose(a, b - x.dim())


@move(1, "any")
def squeeze(w: World, x: Tensor) -> Tensor:
    ones = [dim for dim, size in enumerate(x.shape) if size == 1]
    if ones and w.coin(0.7):
        return w.pick([lambda: x.squeeze(w.pick(ones)), lambda: x.squeeze(), lambda: x.squeeze(tuple(ones))])()
    if w.coin(0.15):
        return x.squeeze(w.dim(x))
    return x.unsqueeze(w.rng.randint(-x.dim() - 1, x.dim()))


@move(1.5, "any")
def expand(w: World, x: Tensor) -> Tensor:
    """A new dim of copies, sometimes merged with a neighbour; as large as one of another value."""
    at, count = w.rng.randint(0, x.dim()), w.size()
    w.fits(x.numel(), count)
    wide = x.unsqueeze(at).expand(*x.shape[:at], count, *x.shape[at:])
    if w.coin(0.3):
        wide = x.unsqueeze(at).expand(*(-1,) * at, count, *(-1,) * (x.dim() - at))
    if w.coin(0.2):
        wide = torch.broadcast_to(x, (count, *x.shape))
    return wide.flatten(at, at + 1) if w.coin(0.4) and at + 1 < wide.dim() else wide


@move(0.5, "any")
def expand_as(w: World, x: Tensor) -> Tensor:
    other = w.value("any")
    return x.expand_as(other) if w.coin() else torch.broadcast_tensors(x, other)[0] + 0


@move(1, "any")
def repeat(w: World, x: Tensor) -> Tensor:
    dim, count = w.dim(x), w.rng.choice((2, 3))
    which = w.rng.randrange(4)
    if which == 0:
        return x.repeat_interleave(count, dim)
    if which == 1:
        return x.repeat_interleave(count)
    counts = [count if each == dim else 1 for each in range(x.dim())]
    if w.coin(0.3):
        counts = [2, *counts]
    return x.repeat(*counts) if which == 2 else x.tile(*counts)


@move(0.7, "any")
def flip(w: World, x: Tensor) -> Tensor:
    dim = w.dim(x)
    which = w.rng.randrange(5)
    if which == 0:
        return x.roll(w.rng.randint(1, 3), dim)
    if which == 1:
        return x.roll(1)
    if which == 2 and x.dim() >= 2:
        return w.pick([x.tril, x.triu])(w.rng.randint(-1, 1))
    if which == 3 and x.dim() >= 2:
        return x.rot90(1, (0, 1))
    return x.flip(dim)


@move(2, "any")
def split(w: World, x: Tensor) -> Sequence[Tensor]:
    dim = w.dim(x, 2)
    n = x.shape[dim]
    which = w.rng.randrange(5)
    if which == 0:
        return x.chunk(w.rng.choice((2, 3)), dim)
    if which == 1:
        return x.split(w.rng.randint(1, n - 1), dim)
    if which == 2:
        return x.tensor_split(w.rng.choice((2, 3)), dim)
    first = w.rng.randint(1, n - 1)
    sizes = [first, n - first] if n - first < 2 or w.coin() else [first, 1, n - first - 1]
    return x.tensor_split([first], dim) if which == 3 and w.coin() else x.split(sizes, dim)


@move(0.7, "any")
def unbind(w: World, x: Tensor) -> Sequence[Tensor]:
    rows = x.unbind(w.dim(x, 2))[:7]
    return [w.pick(rows), w.pick(rows)] if w.coin() or not x.is_floating_point() else [sum(rows[1:], start=rows[0])]


@move(1.5, "any")
def slice_(w: World, x: Tensor) -> Tensor:
    dim = w.dim(x, 2)
    n = x.shape[dim]
    start = w.rng.randint(0, n - 1)
    end = w.rng.randint(start + 1, n)
    which = w.rng.randrange(6)
    if which == 0:
        return x.narrow(dim, start, end - start)
    if which == 1:
        return x.select(dim, w.rng.randint(-n, n - 1))
    at: list[slice] = [slice(None)] * x.dim()
    at[dim] = slice(start, end) if which < 4 else slice(w.rng.randint(0, 1), None, 2)
    if which == 3:
        at[dim] = slice(start - n, None)
    return x[tuple(at)]


@move(2, "any")
def cat(w: World, x: Tensor) -> Tensor:
    """With values that agree in the other dims; with itself; with zeros or a new parameter."""
    dim = w.dim(x)
    fit = [v for v in w.values if v.dim() == x.dim() and v.dtype == x.dtype and _agree(v, x, dim)]
    parts = [x, *(w.rng.choice(fit) for _ in range(w.rng.choice((1, 1, 2))))]
    if x.is_floating_point() and w.coin(0.3):
        shape = [w.size() if each == dim else size for each, size in enumerate(x.shape)]
        parts[1] = w.parameter(*shape) if w.coin() else torch.ops.aten.new_zeros(x, shape)
    w.rng.shuffle(parts)
    return w.joined(parts, torch.cat(parts, dim))


def _agree(a: Tensor, b: Tensor, dim: int) -> bool:
    return all(p == q for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if i != dim)


@move(0.7, "any")
def stack(w: World, x: Tensor) -> Tensor:
    other = w.pick([v for v in w.values if v.shape == x.shape and v.dtype == x.dtype])
    dim = w.rng.randint(-x.dim() - 1, x.dim())
    parts = w.pick([[x, other], [other, x], [x, other, x]])
    stacked = torch.stack(parts, dim)
    at = dim % (x.dim() + 1)
    return w.joined(parts, stacked.flatten(at, at + 1) if w.coin() and at < x.dim() else stacked)


@move(1)
def pad(w: World, x: Tensor) -> Tensor:
    if not x.dim():
        raise Unfit
    amounts = [w.rng.choice((0, 1, 2, -1)) for _ in range(2 * w.rng.randint(1, min(2, x.dim())))]
    if w.coin(0.2):
        amounts = [max(amount, 0) for amount in amounts]  # torch leaves some of a circular one unwritten where others are cut off
        return F.pad(x, amounts, w.rng.choice(("reflect", "replicate", "circular")))
    return F.pad(x, amounts, value=w.rng.choice((0.0, 0.5)))


@move(0.5, "any")
def diagonal(w: World, x: Tensor) -> Tensor:
    a, b = w.pick([(a, b) for a in range(x.dim()) for b in range(x.dim()) if a != b and x.shape[a] == x.shape[b]])
    return x.diagonal(w.rng.choice((0, 0, 1)), a, b)


@move(0.4)
def diag_embed(w: World, x: Tensor) -> Tensor:
    w.fits(x.numel(), x.numel())
    return w.pick([lambda: torch.diag_embed(x), lambda: torch.outer(x.flatten(), x.flatten()), lambda: torch.block_diag(x, x)])()


@move(1)
def write_slice(w: World, x: Tensor) -> Tensor:
    dim = w.dim(x, 2)
    n = x.shape[dim]
    if w.coin():
        at = w.rng.randrange(n)
        return x.select_scatter(w.like(*x.shape[:dim], *x.shape[dim + 1 :]), dim, at)
    start = w.rng.randint(0, n - 1)
    end, step = w.rng.randint(start + 1, n), w.rng.choice((1, 1, 1, 2))
    source = w.like(*x.shape[:dim], len(range(start, end, step)), *x.shape[dim + 1 :])
    return x.slice_scatter(source, dim, start, end, step)


@move(0.5)
def pass_through(w: World, x: Tensor) -> Tensor:
    return w.pick(
        [
            x.clone,
            x.contiguous,
            lambda: F.dropout(x, 0.1, False),
            x.detach,
            lambda: x.to(torch.float64),
            lambda: x.float().double(),
        ]
    )()


@move(0.3)
def shuffle_channels(w: World, x: Tensor) -> Tensor:
    dim = w.pick([dim for dim, size in enumerate(x.shape) if divisors(size)])
    inner = w.pick(divisors(x.shape[dim]))
    return x.unflatten(dim, (x.shape[dim] // inner, inner)).transpose(dim, dim + 1).flatten(dim, dim + 1)


@move(0.3)
def strided(w: World, x: Tensor) -> Tensor:
    size = w.rng.randint(1, 3)
    return x.contiguous().as_strided((size,), (math.prod(x.shape) // size,)) * 1
