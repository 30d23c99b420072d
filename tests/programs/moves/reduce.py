"""One value from many, norms, softmax, and what runs along a dim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.world import Unfit, World, move

FOLDS = ("sum", "mean", "amax", "amin", "var", "std", "logsumexp", "nansum", "norm")


@move(2.5)
def fold(w: World, x: Tensor) -> Tensor:
    name, dims, keep = w.pick(FOLDS), w.dims(x), w.coin()
    if name in ("var", "std") and w.coin():
        return getattr(x, name)(dims, correction=0, keepdim=keep)  # type: ignore[no-any-return]
    if name == "norm":
        return torch.linalg.vector_norm(x, w.rng.choice((1, 2, 3)), dims, keepdim=keep)
    return getattr(x, name)(dims, keepdim=keep)  # type: ignore[no-any-return]


@move(0.7)
def fold_one(w: World, x: Tensor) -> Tensor:
    dim, keep = w.dim(x), w.coin()
    options = [
        lambda: x.prod(dim, keep),
        lambda: x.max(dim, keep).values,
        lambda: x.contiguous().median(dim, keep).values,
        lambda: (x > 0).sum(dim, keep).double(),
        lambda: (x > 0.5).any(dim, keep).double(),
        lambda: x.sum() + x,
        lambda: x.mean() * x,
        lambda: x - x.mean(dim, True),
        lambda: x / (x.max().abs() + 1),
        lambda: torch.aminmax(x, dim=dim).max,
        lambda: torch.var_mean(x, dim)[1],
        lambda: x.quantile(0.5, dim),
        lambda: x.count_nonzero(dim).double(),
    ]
    return w.pick(options)()


@move(1.5)
def softmax(w: World, x: Tensor) -> Tensor:
    dim = w.dim(x)
    return w.pick([lambda: x.softmax(dim), lambda: x.softmax(dim), lambda: x.log_softmax(dim), lambda: F.normalize(x, dim=dim)])()


@move(2)
def layer_norm(w: World, x: Tensor) -> Tensor:
    rank = w.rng.choice((1, 1, 1, 2))
    if x.dim() < rank:
        raise Unfit
    shape = x.shape[-rank:]
    weight = w.parameter(*shape) if w.coin(0.8) else None
    if w.coin(0.3):
        return F.rms_norm(x, shape, weight)
    if w.coin(0.2):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * w.parameter(x.shape[-1])
    return F.layer_norm(x, shape, weight, w.parameter(*shape) if weight is not None and w.coin() else None)


@move(1)
def channel_norm(w: World, x: Tensor) -> Tensor:
    if x.dim() < 2:
        raise Unfit
    c = x.shape[1]
    weight, bias = (w.parameter(c), w.parameter(c)) if w.coin(0.7) else (None, None)
    if w.coin():
        groups = w.pick([n for n in range(1, c + 1) if c % n == 0])
        return F.group_norm(x, groups, weight, bias)
    if w.coin(0.2):
        return F.instance_norm(x, weight=weight, bias=bias)
    return F.batch_norm(x, w.constant(c), w.positive(c), weight, bias)


@move(1)
def ordered(w: World, x: Tensor) -> Tensor:
    """What depends on the order of a dim."""
    dim = w.dim(x)
    options = [
        lambda: x.cumsum(dim),
        lambda: x.tanh().cumprod(dim),
        lambda: torch.logcumsumexp(x, dim),
        lambda: x.cummax(dim).values,
        lambda: x.diff(dim=dim),
        lambda: x.sort(dim).values,
        lambda: x.sort(dim, descending=True).values,
        lambda: x.topk(min(2, x.shape[dim]), dim).values,
        lambda: x.kthvalue(1, dim).values,
        lambda: torch.fft.fft(x, dim=dim).abs(),
        lambda: torch.fft.rfft(x, dim=dim).real,
        lambda: torch.fft.irfft(torch.fft.rfft(x, dim=dim), n=x.shape[dim], dim=dim),
        lambda: torch.fft.fft2(x).real,
        lambda: torch.fft.fftn(x, dim=(dim,)).imag,
        lambda: torch.trapezoid(x, dim=dim),
        lambda: x.renorm(2, dim, 1.0),
        lambda: x.msort(),
    ]
    return w.pick(options)()


@move(0.3)
def weight_norm(w: World, x: Tensor) -> Tensor:
    v = w.like(None, x.shape[-1])
    g = w.parameter(v.shape[0], 1)
    return F.linear(x, torch._weight_norm(v, g, 0))
