"""Elementwise: with one operand, with broadcasting, with conditions; and values made of nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.world import World, move

aten = torch.ops.aten
UNARY = (
    "tanh sigmoid sin cos neg exp abs square erf expm1 reciprocal sqrt log1p atan relu sign floor round "
    + "ceil trunc frac softplus gelu silu mish elu hardtanh hardswish leaky_relu relu6 selu hardsigmoid logsigmoid softsign"
)
COMPARED = (torch.gt, torch.ge, torch.lt, torch.le, torch.eq, torch.ne)


@move(4)
def unary(w: World, x: Tensor) -> Tensor:
    name = w.pick(UNARY.split())
    if name in ("reciprocal", "sqrt", "log1p"):
        x = x.square() + 0.5
    return getattr(torch if hasattr(torch, name) else F, name)(x)  # type: ignore[no-any-return]


def partner(w: World, x: Tensor) -> Tensor:
    """A value that broadcasts with x: of its shape, a parameter on some of its dims, or whatever fits."""
    fit = [v for v in w.values if v.is_floating_point() and v is not x and broadcastable(v, x)]
    if fit and w.coin(0.6):
        return w.pick(fit)
    if not x.dim():
        return w.parameter()
    first = w.rng.randrange(x.dim())
    shape = [size if w.coin(0.8) else 1 for size in x.shape[first:]]
    return (w.constant if w.coin(0.15) else w.parameter)(*shape)


def broadcastable(a: Tensor, b: Tensor) -> bool:
    return all(1 in (p, q) or p == q for p, q in zip(reversed(a.shape), reversed(b.shape), strict=False))


@move(5)
def binary(w: World, x: Tensor) -> Tensor:
    y = partner(w, x)
    options = [
        lambda: x + y,
        lambda: x + y,
        lambda: x * y,
        lambda: x * y,
        lambda: x - y,
        lambda: x / (y.abs() + 0.5),
        lambda: torch.maximum(x, y),
        lambda: torch.minimum(y, x),
        lambda: torch.atan2(x, y.abs() + 1),
        lambda: torch.add(y, x, alpha=0.5),
        lambda: torch.rsub(x, y),
        lambda: torch.lerp(x, y.expand(torch.broadcast_shapes(x.shape, y.shape)), 0.3),
        lambda: torch.addcmul(x, y, y, value=0.5),
        lambda: torch.hypot(x, y),
        lambda: F.mse_loss(*torch.broadcast_tensors(x, y), reduction="none"),
        lambda: torch.remainder(x, y.abs() + 1.0),
        lambda: torch.pow(x.abs() + 0.5, y),
        lambda: torch.copysign(x, y),
        lambda: torch.fmod(x, 0.7),
        lambda: torch.heaviside(x, y),
    ]
    return w.pick(options)()


@move(1.5)
def outer(w: World, x: Tensor) -> Tensor:
    """All pairs of two values' last dims."""
    y = w.value()
    w.fits(x.numel(), y.numel())
    return x.unsqueeze(-1) * y.flatten() if w.coin() else x.unsqueeze(-1) + w.like(w.size())


@move(1)
def scalar(w: World, x: Tensor) -> Tensor:
    a = w.rng.choice((0.5, -1.0, 2.0))
    options = [
        lambda: x * a,
        lambda: a - x,
        lambda: x + a,
        lambda: x**2,
        lambda: x / a,
        lambda: x.pow(3),
        lambda: x * x.shape[-1],
    ]
    return w.pick(options)()


@move(1.5)
def condition(w: World, x: Tensor) -> Tensor:
    """One of two values, as a comparison says."""
    y = partner(w, x)
    mask = w.pick(COMPARED)(x, w.pick([lambda: 0.0, lambda: y])())
    masks = [v for v in w.values if v.dtype == torch.bool and broadcastable(v, x)]
    if masks and w.coin():
        mask = w.pick(masks)
    if w.coin(0.2):
        mask = ~mask
    options = [
        lambda: torch.where(mask, x, y),
        lambda: torch.where(mask, x, 0.5),
        lambda: x.masked_fill(mask, -1.0),
        lambda: mask.double() * y,
        lambda: torch.where(mask, y, x.tanh()),
        lambda: x * mask,
    ]
    return w.pick(options)()


@move(0.5)
def compare(w: World, x: Tensor) -> Tensor:
    mask = w.pick(COMPARED)(x, partner(w, x))
    others = [v for v in w.values if v.dtype == torch.bool and broadcastable(v, mask)]
    if others and w.coin():
        return w.pick([torch.logical_and, torch.bitwise_or, torch.bitwise_xor])(mask, w.pick(others))
    return mask


@move(1)
def clamp(w: World, x: Tensor) -> Tensor:
    y = partner(w, x)
    options = [
        lambda: x.clamp(-0.5, 0.7),
        lambda: x.clamp_min(0.1),
        lambda: torch.clamp(x, max=y),
        lambda: torch.clip(x, -1.0),
        lambda: x.clamp(min=y.abs() * -1, max=y.abs()),
        lambda: x.nan_to_num(),
        lambda: F.threshold(x, 0.1, 0.0),
        lambda: F.hardshrink(x),
        lambda: F.softshrink(x),
    ]
    return w.pick(options)()


@move(0.7)
def gate(w: World, x: Tensor) -> Tensor:
    dim = w.pick([dim for dim, size in enumerate(x.shape) if size % 2 == 0])
    if w.coin(0.3):
        return F.glu(x, dim)
    a, b = x.chunk(2, dim)
    return w.pick([lambda: a * b.sigmoid(), lambda: F.silu(b) * a, lambda: torch.cat([-b, a], dim)])()


@move(1)
def created(w: World, x: Tensor) -> Tensor:
    """Combined with a tensor that is made in the program."""
    shape = list(x.shape)
    n = shape[-1] if shape else 1
    options = [
        lambda: torch.cat([x, aten.zeros(shape, dtype=x.dtype)], -1),
        lambda: aten.full(shape, 0.5, dtype=x.dtype) * x,
        lambda: torch.zeros_like(x) + x,
        lambda: torch.full_like(x, 2.0) * x,
        lambda: x + aten.eye(n, dtype=x.dtype),
        lambda: x @ aten.eye(n, dtype=x.dtype),
        lambda: x * aten.linspace(0, 1, n, dtype=x.dtype),
        lambda: x + aten.arange(n, dtype=x.dtype),
        lambda: x * (1 + aten.arange(n)),
        lambda: x + aten.ones(n, n, dtype=x.dtype).tril(),
        lambda: torch.cat([aten.ones([*shape[:-1], 1], dtype=x.dtype), x], -1),
        lambda: aten.zeros([*shape, w.size()], dtype=x.dtype) + x.unsqueeze(-1),
        lambda: x.new_ones(shape).cumsum(-1) * x,
        lambda: aten.ones([w.size(), n], dtype=x.dtype) @ x.mT if x.dim() >= 2 else x,
    ]
    return w.pick(options)()


@move(0.4)
def complex_pairs(w: World, x: Tensor) -> Tensor:
    pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).contiguous()
    z = torch.view_as_complex(pairs)
    turn = torch.polar(w.positive(z.shape[-1]), w.parameter(z.shape[-1]))
    if w.coin():
        return (z * turn).abs()
    return torch.view_as_real(z * turn).flatten(-2)


@move(0.4)
def combined(w: World, x: Tensor) -> Tensor:
    options = [
        lambda: torch.cross(x, w.parameter(3), -1),
        lambda: torch.kron(x, w.like(2, 3)),
        lambda: torch.cdist(x, w.like(*x.shape)),
    ]
    return w.pick(options)()
