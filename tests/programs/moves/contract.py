"""Sums of products: linear maps, einsum, attention, convolution over channels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.world import Unfit, World, move


@move(5)
def linear(w: World, x: Tensor) -> Tensor:
    """Often back to the size of another value, as residual streams do."""
    n = x.shape[-1]
    out = w.rng.choice([v.shape[-1] for v in w.values if v.dim()]) if w.coin(0.6) else w.size()
    bias = w.parameter(out) if w.coin() else None
    y = F.linear(x, w.like(out, n), bias)
    if y.shape == x.shape and w.coin(0.6):
        return x + y
    return y


@move(2)
def matmul(w: World, x: Tensor) -> Tensor:
    n = x.shape[-1]
    which = w.rng.randrange(5)
    if which == 0:
        return x @ w.parameter(n, w.size())
    if which == 1 and x.dim() >= 2:
        return w.parameter(w.size(), x.shape[-2]) @ x
    if which == 2:
        return x @ w.like(n)
    fit = [v for v in w.values if v.is_floating_point() and v.dim() and (v.dim() == 1 or v.shape[-1] == n)]
    y = w.pick(fit)
    return torch.matmul(x, y if y.dim() == 1 else y.transpose(-1, -2))


@move(1)
def batched(w: World, x: Tensor) -> Tensor:
    if x.dim() == 2:
        y = w.like(x.shape[1], None)
        bias = w.like(y.shape[1])
        options = [
            lambda: torch.mm(x, y),
            lambda: torch.addmm(bias, x, y, beta=0.5),
            lambda: torch.addmv(w.like(x.shape[0]), x, w.like(x.shape[1])),
            lambda: torch.tensordot(x, y, 1),
            lambda: torch.inner(x, w.like(None, x.shape[1])),
            lambda: torch.linalg.multi_dot([x, y, w.parameter(y.shape[1], 3)]),
        ]
        return w.pick(options)()
    if x.dim() != 3:
        raise Unfit
    y = w.like(x.shape[0], x.shape[2], None)
    options = [
        lambda: torch.bmm(x, y),
        lambda: torch.baddbmm(w.like(x.shape[1], 1), x, y),
        lambda: torch.bmm(x, x.mT),
        lambda: torch.addbmm(w.like(x.shape[1], y.shape[2]), x, y),
        lambda: torch.tensordot(x, w.like(x.shape[2], None), ([2], [0])),
    ]
    return w.pick(options)()


@move(3)
def einsum(w: World, x: Tensor) -> Tensor:
    """A random equation of two or three operands."""
    letters = "abcde"[: x.dim()]
    terms, operands = [letters], [x]
    sizes = dict(zip(letters, x.shape, strict=True))
    spare = iter("uvwxyzijklmn")
    for _ in range(w.rng.choice((1, 1, 2))):
        fit = [v for v in w.values if v.is_floating_point() and 0 < v.dim() <= 4]
        if w.coin(0.5):
            chosen = [c for c in sizes if w.coin()] or list(sizes)[:1]
            if w.coin(0.7):
                new = next(spare)
                chosen.insert(w.rng.randint(0, len(chosen)), new)
            other = w.parameter(*(sizes[c] if c in sizes else w.size() for c in chosen))
        else:
            other, chosen = w.pick(fit), []
            for size in other.shape:
                same = [c for c, n in sizes.items() if n == size and (c not in chosen or w.coin(0.1))]
                chosen.append(w.pick(same) if same and w.coin(0.9) else next(spare))
        sizes.update(zip(chosen, other.shape, strict=True))
        terms.append("".join(chosen))
        operands.append(other)
    kept = [c for c in sizes if w.coin(0.6)]
    w.fits(*(sizes[c] for c in kept))
    if math.prod(sizes.values()) > 20_000:
        raise Unfit
    w.rng.shuffle(kept)
    return torch.einsum(f"{','.join(terms)}->{''.join(kept)}", *operands)


@move(0.3)
def einsum_open(w: World, x: Tensor) -> Tensor:
    n = x.shape[-1]
    options = [lambda: torch.einsum("...i,oi->...o", x, w.like(None, n)), lambda: torch.einsum("...i,...i->...", x, w.like(n))]
    return w.pick(options)()


@move(0.3)
def bilinear(w: World, x: Tensor) -> Tensor:
    y = w.like(*x.shape[:-1], None)
    return F.bilinear(x, y, w.parameter(w.size(), x.shape[-1], y.shape[-1]))


@move(2)
def attention(w: World, x: Tensor) -> Tensor:
    """`b t d` or `b h t d`, among themselves or with another value."""
    if x.dim() < 2:
        raise Unfit
    *lead, t, d = x.shape
    s = w.rng.choice((t, t, w.size()))
    key = x if s == t and w.coin(0.3) else w.like(*lead, s, d)
    value = key if w.coin(0.3) else w.like(*lead, s, w.rng.choice((d, w.size())))
    which = w.rng.randrange(5)
    if which == 0:
        return F.scaled_dot_product_attention(x, key, value, is_causal=True)
    if which == 1:
        mask = w.like(t, s) if w.coin() else w.like(*lead, t, s)
        return F.scaled_dot_product_attention(x, key, value, mask if w.coin() else mask > 0)
    if which == 2:
        return F.scaled_dot_product_attention(x, key, value, scale=0.3)
    if which == 3:
        return (x @ key.mT / d**0.5).softmax(-1) @ value
    return F.scaled_dot_product_attention(x, key, value)


@move(1)
def attention_grouped(w: World, x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise Unfit
    b, h, t, d = x.shape
    kv = w.pick([n for n in range(1, h + 1) if h % n == 0])
    key = w.like(b, kv, w.rng.choice((t, w.size())), d)
    value = w.like(b, kv, key.shape[2], d)
    return F.scaled_dot_product_attention(x, key, value, enable_gqa=True, is_causal=w.coin(0.2))
