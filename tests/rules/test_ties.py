"""What a router reads has no ties where a weight has just mixed it, whatever it was added to; and may have some where it has not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphclone as gc

PIXELS, TOKENS = torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5])


class Mixture(nn.Module):
    """A mixture of experts behind a sum, an index_put or an unfolded image."""

    def __init__(self, stream: Callable[[Mixture, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.other, self.gate = nn.Linear(10, 10), nn.Linear(10, 10, bias=False), nn.Linear(10, 6, bias=False)
        self.one, self.plain = nn.Linear(10, 1), nn.LayerNorm(10, elementwise_affine=False)
        self.key = nn.Parameter(torch.randn(1, 1, 10))
        self.register_buffer("same", torch.eye(10))
        self.register_buffer("zero", torch.zeros(10))
        self.norm, self.up, self.down = (
            nn.LayerNorm(10),
            nn.Parameter(torch.randn(6, 10, 9)),
            nn.Parameter(torch.randn(6, 9, 10)),
        )
        self.stream = stream

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(self.stream(self, x)).softmax(-1)
        best, index = scores.topk(2, -1)
        hidden = torch.einsum("btd,btkdu->btku", x, self.up[index]).relu()
        return torch.einsum("btk,btku,btkud->btd", best, hidden, self.down[index])


def written(stream: Tensor, tokens: Tensor, accumulate: bool = False) -> Tensor:
    """Some tokens of a stream written anew."""
    return torch.index_put(stream.transpose(0, 1), (TOKENS,), tokens.transpose(0, 1), accumulate).transpose(0, 1)


def often(x: Tensor) -> Tensor:
    """Zero, mostly."""
    return (x - 2).relu()


GENERIC: dict[str, Callable[[Mixture, Tensor], Tensor]] = {
    "what a weight has mixed, and what was clamped": lambda m, x: m.embed(x) + x.clamp(min=0),
    "a norm of what a weight has mixed": lambda m, x: m.norm(m.embed(x)).transpose(0, 1).transpose(0, 1) + x.relu(),
    "the other one is made of it": lambda m, x: (h := x + m.other(x)) + m.embed(F.gelu(h)),
    "some tokens written anew": lambda m, x: written(m.embed(x), m.embed(x)[:, TOKENS] + m.other(x)[:, :3]),
    "patches without a border": lambda m, x: m.embed(F.unfold(x[:, None], (1, 10)).mT),
    "a pad of nothing": lambda m, x: m.embed(F.pad(x, (0, 0, 0, 0))),
}
TIED: dict[str, Callable[[Mixture, Tensor], Tensor]] = {
    "it cancels what is negative": lambda m, x: (h := m.embed(x)) - h.clamp(min=0),
    "the same weight, another call": lambda m, x: m.embed(x) - m.embed(x).clamp(min=0),
    "a view of the same weight": lambda m, x: F.linear(x, m.other.weight) - F.linear(x, m.other.weight[:]).clamp(min=0),
    "a norm that the other one is made of": lambda m, x: (h := m.norm(m.embed(x))) - h.relu(),
    "zeros that were written": lambda m, x: written(m.embed(x), x[:, TOKENS] * 0.0),
    "patches with a border": lambda m, x: F.unfold(x[:, None], (1, 10), padding=(1, 0)).mT[:, :7],
    "a pad": lambda m, x: F.pad(x[:, 2:], (0, 0, 2, 0)),
    "the sum, and then what was added": lambda m, x: ((h := m.embed(x)) + often(x)) - h,
    "it again, computed anew": lambda m, x: (m.embed(x) + often(x)) - m.embed(x),
    "two sums of it": lambda m, x: ((h := m.embed(x)) + often(x)) - (h + often(-x)),
    "it was added, and to what a weight has mixed": lambda m, x: x + often(m.embed(x)) - x,
    "one unit, spread": lambda m, x: m.plain(m.one(x) + often(x)),
    "a norm of copies": lambda m, x: m.plain(m.one(x).expand(-1, -1, 10)) + often(x),
    "the same at every token": lambda m, x: (h := m.other(m.key) + often(x)) - h.mean(0, keepdim=True),
    "hidden by a mask": lambda m, x: m.plain(m.embed(x) + (x[..., :1] > 0) * -1e9),
    "attention to one key": lambda m, x: (
        F.scaled_dot_product_attention(x, m.key.expand(3, -1, -1), h := x[:, :1] + 2) - h.clamp(min=0)
    ),
    "a map to itself": lambda m, x: (h := x + 2) @ m.same - h.clamp(min=0),
    "none of it": lambda m, x: torch.add(often(x), m.embed(x), alpha=0),
    "a pick, and what it was picked from": lambda m, x: written(h := m.embed(x), x[:, TOKENS]) - h,
    "a pick, and it computed anew": lambda m, x: written(m.embed(x), m.other(x)[:, TOKENS]) - m.embed(x),
    "a pick, and other places of it": lambda m, x: (h := written(m.embed(x), m.other(x)[:, TOKENS])) - h[:, [0] * 7],
    "a buffer that was written": lambda m, x: written(m.embed(x), (m.zero * 2).expand(3, 3, 10)),
    "a power of none": lambda m, x: m.embed(x).pow(0),
    "the same value twice": lambda m, x: written(h := m.embed(x), -h[:, TOKENS], accumulate=True),
}


def experts(model: nn.Module) -> list[gc.Factor]:
    layout = gc.analyze(gc.capture(model.eval(), (PIXELS,)))
    return [factor for axis in (layout.axes("up")[0], layout.axes("down")[0]) for factor in gc.axes.factors(axis)]


@pytest.mark.parametrize("stream", GENERIC.values(), ids=GENERIC)
def test_no_ties(stream: Callable[[Mixture, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Mixture(stream)
    assert all(factor.frozen is None for factor in experts(model))
    assert (report := gc.verify(model, (PIXELS,))).passed, report


@pytest.mark.parametrize("stream", TIED.values(), ids=TIED)
def test_ties_cannot_be_ruled_out(stream: Callable[[Mixture, Tensor], Tensor]) -> None:
    model = Mixture(stream)
    assert any("of equal values" in str(factor.frozen) for factor in experts(model))
