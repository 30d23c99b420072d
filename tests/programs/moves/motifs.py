"""Short idioms of real models, whose parts the other moves then take up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.moves.rearrange import divisors
from tests.programs.world import Unfit, World, move

aten = torch.ops.aten


@move(1)
def mlp(w: World, x: Tensor) -> Tensor:
    n, hidden = x.shape[-1], w.size()
    act = w.pick([F.gelu, F.silu, F.relu, torch.tanh])
    if w.coin():
        up = act(F.linear(x, w.parameter(hidden, n))) * F.linear(x, w.parameter(hidden, n))
    else:
        value, gate = F.linear(x, w.parameter(2 * hidden, n)).chunk(2, -1)
        up = act(gate) * value
    return x + F.linear(up, w.parameter(n, hidden))


@move(1)
def self_attention(w: World, x: Tensor) -> Tensor:
    """Fused or apart, by heads; with grouped keys or not."""
    if x.dim() != 3:
        raise Unfit
    b, t, r = x.shape
    h, d = w.rng.choice((2, 3)), w.rng.choice((2, 4))
    if w.coin():
        fused = F.linear(x, w.parameter(3 * h * d, r))
        if w.coin():
            q, k, v = (each.view(b, t, h, d) for each in fused.split(h * d, -1))
        elif w.coin():
            q, k, v = fused.view(b, t, 3, h, d).unbind(2)
        else:
            q, k, v = fused.view(b, t, h, 3 * d).chunk(3, -1)
    else:
        q, k, v = (F.linear(x, w.parameter(h * d, r)).view(b, t, h, d) for _ in range(3))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    if w.coin(0.3):
        half = lambda a: torch.cat([-a[..., d // 2 :], a[..., : d // 2]], -1)  # noqa: E731
        cos, sin = w.constant(t, d), w.constant(t, d)
        q, k = q * cos + half(q) * sin, k * cos + half(k) * sin
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=w.coin(0.3))
    return x + F.linear(mixed.transpose(1, 2).reshape(b, t, -1), w.parameter(r, h * d))


@move(1)
def route(w: World, x: Tensor) -> Tensor:
    """A few experts per token, by their scores."""
    n, e = x.shape[-1], w.rng.choice((3, 4, 5))
    score = F.linear(x, w.parameter(e, n), w.parameter(e) if w.coin() else None)
    score = w.pick([lambda: score.softmax(-1), lambda: score.sigmoid(), lambda: score, lambda: score.relu()])()
    biased = score + w.parameter(e) if w.coin(0.3) else score
    _, chosen = biased.topk(2, -1)
    weight = score.gather(-1, chosen)
    dense = (
        torch.zeros_like(score).scatter(-1, chosen, weight)
        if w.coin()
        else F.one_hot(chosen, e).to(x.dtype).mul(weight.unsqueeze(-1)).sum(-2)
    )
    bank = w.parameter(e, w.size(), n)
    if w.coin(0.3):
        return torch.einsum("...k,...koi,...i->...o", weight, bank[chosen], x)
    return torch.einsum("...e,eoi,...i->...o", dense, bank, x)


@move(2)
def rank_then_read(w: World, x: Tensor) -> Tensor:
    """A table read where scores are best, after what may have made some of them equal."""
    n, e = x.shape[-1], w.rng.choice((3, 4, 5))
    score = F.linear(x, w.parameter(e, n)) if w.coin(0.8) else x
    low, high = sorted(w.rng.uniform(-1.5, 1.5) for _ in range(2))
    level = w.rng.choice((0.0, 1.0))
    ties = [
        lambda s: (s + low).relu(),
        lambda s: s.round(),
        lambda s: s.floor(),
        lambda s: s.sign(),
        lambda s: s.clamp(low, high),
        lambda s: s.clamp_min(low),
        lambda s: (s > low).to(s.dtype),
        lambda s: s.masked_fill(s > low, level),
        lambda s: torch.where(s > low, s, torch.full_like(s, level)),
        lambda s: s * (s > low),
        lambda s: s - s.detach().relu(),
        lambda s: F.hardtanh(s) + low,
        lambda s: F.one_hot(s.argmax(-1), s.shape[-1]).to(s.dtype),
        lambda s: s.mean(-1, keepdim=True).expand_as(s) + (s > high).to(s.dtype),
        lambda s: F.pad(s, [1, 0]),
        lambda s: torch.cat([s, s], -1),
        lambda s: (s[..., :, None] + s[..., None, :]).flatten(-2),
        lambda s: s.cumsum(-1),
        lambda s: s.sort(-1).values,
        lambda s: s.flip(-1),
        lambda s: s.softmax(-1),
        lambda s: s.sigmoid(),
        lambda s: s * s.mean(-1, keepdim=True),
        lambda s: s + w.like(s.shape[-1]),
        lambda s: s * w.like(s.shape[-1]),
    ]
    for _ in range(w.rng.randint(0, 3)):
        score = w.pick(ties)(score)
    count = score.shape[-1]
    best = w.pick(
        [
            lambda: score.argmax(-1),
            lambda: score.argmin(-1),
            lambda: score.max(-1).indices,
            lambda: score.topk(min(2, count), -1).indices,
            lambda: score.argsort(-1, descending=w.coin()),
        ]
    )()
    found = F.embedding(best, w.parameter(count, w.size()))
    if w.coin(0.3):
        return w.bounded(best, count)
    return found


@move(0.7)
def position_bias(w: World, x: Tensor) -> Tensor:
    """A table read at the distance of two positions, added to pairs of them."""
    if x.dim() < 2 or x.shape[-1] != x.shape[-2]:
        raise Unfit
    n = x.shape[-1]
    apart = aten.arange(n)[:, None] - aten.arange(n) + n - 1
    return x + F.embedding(apart, w.parameter(2 * n - 1, 1)).squeeze(-1)


@move(0.7)
def positions(w: World, x: Tensor) -> Tensor:
    if x.dim() < 2:
        raise Unfit
    t, d = x.shape[-2:]
    options = [
        lambda: x + F.embedding(aten.arange(t), w.parameter(t, d)),
        lambda: x + w.parameter(t + 2, d)[:t],
        lambda: x + w.parameter(t + 2, d)[aten.arange(t) + 2],
        lambda: torch.cat([w.parameter(1, d).expand(*x.shape[:-2], 1, d), x], -2) + w.parameter(t + 1, d),
        lambda: torch.cat([x.mean(-2, keepdim=True), x], -2),
    ]
    return w.pick(options)()


@move(0.7)
def modulate(w: World, x: Tensor) -> Tensor:
    """Shift and scale from another value."""
    n = x.shape[-1]
    y = w.like(*x.shape[:-1], None)
    shift, scale = F.linear(y, w.parameter(2 * n, y.shape[-1])).chunk(2, -1)
    return x * (1 + scale) + shift


@move(0.5)
def grouped_linear(w: World, x: Tensor) -> Tensor:
    n = x.shape[-1]
    inner = w.pick(divisors(n))
    return torch.einsum(
        "...gi,goi->...go", x.unflatten(-1, (n // inner, inner)), w.parameter(n // inner, w.size(), inner)
    ).flatten(-2)


@move(0.5)
def codebook(w: World, x: Tensor) -> Sequence[Tensor]:
    """The nearest of some codes."""
    n, codes = x.shape[-1], w.parameter(w.size(), x.shape[-1])
    del n
    near = (F.linear(x, codes) - codes.square().sum(-1) / 2).argmax(-1)
    return [F.embedding(near, codes), w.bounded(near, codes.shape[0])]
