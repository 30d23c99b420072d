"""What the odd models share: sizes, a stream between embedding and head, plain attention and a plain MLP to be odd about."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models_zoo.entry import Inputs, Tiny, entry, integers, reals

BATCH, LENGTH, MEMORY = 13, 11, 17
VOCABULARY, POSITIONS, CLASSES, FEATURES = 61, 37, 9, 19


@dataclass(frozen=True)
class Sizes:
    """All different, and the heads together are wider than the stream."""

    width: int = 48
    heads: int = 8
    head_dim: int = 10
    units: int = 56
    depth: int = 4

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


PARENT, CHILD = Sizes(), Sizes(24, 4, 10, 28, 2)
Make = Callable[[Sizes], nn.Module]


def tokens() -> Inputs:
    return (integers(VOCABULARY, BATCH, LENGTH),), {}


def features() -> Inputs:
    return (reals(BATCH, LENGTH, FEATURES),), {}


def two_features() -> Inputs:
    return (reals(BATCH, LENGTH, FEATURES), reals(BATCH, MEMORY, FEATURES, seed=1)), {}


def image(height: int = 28, width: int = 44) -> Callable[[], Inputs]:
    return lambda: ((reals(BATCH, 3, height, width),), {})


def pair(name: str, make: Make, inputs: Callable[[], Inputs] = tokens, *, alone: bool = False) -> Tiny:
    """A parent and the same at half the sizes; `alone` where there is no smaller one."""
    return entry(f"odd/{name}", lambda: make(PARENT), None if alone else lambda: make(CHILD), inputs)


def weight(*shape: int, fan_in: int = 1) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / math.sqrt(fan_in))


def causal(length: int) -> Tensor:
    """True where a query must not look."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


class Mlp(nn.Sequential):
    def __init__(self, s: Sizes) -> None:
        super().__init__(nn.Linear(s.width, s.units), nn.GELU(), nn.Linear(s.units, s.width))


class Attention(nn.Module):
    """Plain causal attention, written out. What is odd comes in `turned` (queries and keys), `scored` and `mixed`."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.head_dim = s.heads, s.head_dim
        self.qkv, self.out = nn.Linear(s.width, 3 * s.inner), nn.Linear(s.inner, s.width)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as (batch, heads, length, head_dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def turned(self, x: Tensor) -> Tensor:
        return x

    def scored(self, scores: Tensor) -> Tensor:
        return scores

    def mixed(self, probabilities: Tensor) -> Tensor:
        return probabilities

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.scored(self.turned(q) @ self.turned(k).mT * self.head_dim**-0.5)
        probabilities = self.mixed(scores.masked_fill(causal(q.shape[-2]), float("-inf")).softmax(-1))
        return probabilities @ v

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.attend(*self.parts(x)).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Pre-norm: a mixer of positions, then an MLP."""

    def __init__(
        self, s: Sizes, mixer: Make = Attention, mlp: Make = Mlp, norm: Callable[[int], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2, self.mlp = norm(s.width), mixer(s), norm(s.width), mlp(s)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stream(nn.Module):
    """Blocks on a residual stream."""

    def __init__(self, s: Sizes, block: Make) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y


class LanguageModel(nn.Module):
    def __init__(self, s: Sizes, block: Make) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, s.width), weight(POSITIONS, s.width, fan_in=s.width)
        self.stream, self.head = Stream(s, block), nn.Linear(s.width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stream(self.tokens(ids) + self.positions[: ids.shape[1]]))
        return logits


class Tagger(nn.Module):
    """Features in, a class per position out."""

    def __init__(self, s: Sizes, block: Make) -> None:
        super().__init__()
        self.enter, self.stream, self.head = nn.Linear(FEATURES, s.width), Stream(s, block), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stream(self.enter(x)))
        return logits


def language(name: str, block: Make) -> Tiny:
    """A language model of odd blocks."""
    return pair(name, lambda s: LanguageModel(s, block))


def mixer(name: str, kind: Make) -> Tiny:
    """A language model whose blocks are plain but for what mixes positions."""
    return language(name, lambda s: Block(s, mixer=kind))


def mlp(name: str, kind: Make) -> Tiny:
    """A language model whose blocks are plain but for what stands where the MLP does."""
    return language(name, lambda s: Block(s, mlp=kind))
