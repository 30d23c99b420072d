"""Look-ups: product keys, code books, hashed n-grams, nearest neighbours, tables of pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.entry import Inputs, integers
from models_zoo.odd.frame import BATCH, CLASSES, LENGTH, VOCABULARY, Block, Sizes, Stream, causal, mlp, pair, weight


class ProductKeys(nn.Module):
    """Lample's memory: the best pairs of two sets of keys, at place i · n + j, per head."""

    def __init__(self, s: Sizes, keys: int = 7, half: int = 6) -> None:
        super().__init__()
        self.heads, self.n = 2, keys
        self.query, self.values = nn.Linear(s.width, 2 * 2 * half), nn.Embedding(keys * keys, s.width)
        self.keys = weight(2, self.heads, keys, half, fan_in=half)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (2, self.heads, -1))
        scores = torch.einsum("btshd,shkd->sbthk", q, self.keys)
        (best_a, i), (best_b, j) = scores[0].topk(3, -1), scores[1].topk(3, -1)
        scored = (best_a[..., :, None] + best_b[..., None, :]).flatten(-2)
        places = (i[..., :, None] * self.n + j[..., None, :]).flatten(-2)
        best, at = scored.topk(3, -1)
        found = self.values(places.gather(-1, at))
        return (found * best.softmax(-1)[..., None]).sum((-2, -3))


class PairTable(nn.Module):
    """Bigrams: a table over pairs of tokens, read at previous · n + current."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.pairs, self.tokens = weight(17 * 17, s.width, fan_in=4), nn.Embedding(17, s.width)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, 17)

    def forward(self, ids: Tensor) -> Tensor:
        pairs = F.pad(ids, (1, 0))[:, :-1] * 17 + ids
        logits: Tensor = self.head(self.stream(self.tokens(ids) + self.pairs[pairs]))
        return logits


class TwoDimensionalTable(nn.Module):
    """A table of n × n read at two indices at once, and positions by divmod."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.grid = weight(VOCABULARY, 7, s.width), weight(3, 4, s.width)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1])
        x = self.table[ids, ids.roll(1, 1) % 7] + self.grid[positions // 4, positions % 4]
        logits: Tensor = self.head(self.stream(x))
        return logits


class Hashed(nn.Module):
    """n-grams hashed into one table, several times, each with a slice of the width."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, s.width)
        self.sizes = (41, 43, 47, 53)
        self.grams = nn.ModuleList(nn.Embedding(size, s.width // 4) for size in self.sizes)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        before = F.pad(ids, (1, 0))[:, :-1]
        hashes = (before * prime + ids for prime in (3, 5, 7, 11))
        parts = [table(each % size) for table, each, size in zip(self.grams, hashes, self.sizes, strict=True)]
        logits: Tensor = self.head(self.stream(self.tokens(ids) + torch.cat(parts, -1)))
        return logits


class CodeBook(nn.Module):
    """The nearest of 18 codes by distance, argmin, look-up; a residual book after it."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(s.width, 14), nn.Linear(14, s.width)
        self.first, self.second = weight(18, 14, fan_in=3), nn.Embedding(15, 14)

    def forward(self, x: Tensor) -> Tensor:
        low = self.enter(x)
        distance = low.square().sum(-1, keepdim=True) - 2 * low @ self.first.T + self.first.square().sum(-1)
        found = self.first[distance.argmin(-1)]
        rest = low - found
        found = found + self.second(torch.cdist(rest, self.second.weight).argmin(-1))
        y: Tensor = self.leave(low + (found - low).detach())
        return y


class LookupFree(nn.Module):
    """Binary codes: signs of thirteen features."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        low = self.enter(x)
        y: Tensor = self.leave(torch.where(low > 0, 1.0, -1.0) + low * 0.1)
        return y


class Neighbours(nn.Module):
    """Attention over only the best three keys of each query, fetched by gather."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.out = nn.Linear(s.units, s.width)
        self.q, self.k, self.v = nn.Linear(s.width, s.units), nn.Linear(s.width, s.units), nn.Linear(s.width, s.units)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        best, index = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(causal(x.shape[1]), -1e4).topk(3, -1)
        spread = index.flatten(1)[..., None].expand(-1, -1, v.shape[-1])
        found = v.gather(1, spread).unflatten(1, (x.shape[1], 3))
        y: Tensor = self.out(torch.einsum("btk,btkd->btd", best.softmax(-1), found))
        return y


class Sparse(nn.Module):
    """A transcoder: only the five largest units live on, by topk and scatter."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.up(x).topk(5, -1)
        units = torch.zeros(*x.shape[:2], self.up.out_features).scatter(-1, index, best.relu())
        y: Tensor = self.down(units)
        return y


class Maxout(nn.Module):
    """The largest of three pieces, by view and amax; and a sorted part, by sort."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, 3 * s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.up(x).unflatten(-1, (-1, 3))
        y: Tensor = self.down(pieces.amax(-1) + 0.1 * pieces.sort(-1).values[..., 1])
        return y


class Pointer(nn.Module):
    """A copy mechanism: attention over the input's own tokens, scattered onto the vocabulary, mixed with a softmax."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.stream, self.gate = nn.Embedding(VOCABULARY, s.width), Stream(s, Block), nn.Linear(s.width, 1)
        self.query, self.head = nn.Linear(s.width, s.width), nn.Linear(s.width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(self.table(ids))
        copied = (self.query(x) @ x.mT).masked_fill(causal(ids.shape[1]), -1e4).softmax(-1)
        spread = torch.zeros(*x.shape[:2], VOCABULARY).scatter_add(-1, ids[:, None].expand(-1, ids.shape[1], -1), copied)
        gate = self.gate(x).sigmoid()
        return (gate * self.head(x).softmax(-1) + (1 - gate) * spread).log()


class LastToken(nn.Module):
    """A classifier that reads the last token that is no padding."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.stream, self.head = (
            nn.Embedding(VOCABULARY, s.width, padding_idx=0),
            Stream(s, Block),
            nn.Linear(s.width, CLASSES),
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(self.table(ids))
        last = (torch.arange(ids.shape[1]) * (ids != 0)).argmax(-1)
        logits: Tensor = self.head(x[torch.arange(ids.shape[0]), last])
        return logits


def small_tokens() -> Inputs:
    return (integers(17, BATCH, LENGTH),), {}


MODELS = (
    mlp("product_keys", ProductKeys),
    pair("pair_table", PairTable, small_tokens),
    pair("table_of_two_indices", TwoDimensionalTable),
    pair("hashed_n_grams", Hashed),
    mlp("code_book", CodeBook),
    mlp("binary_codes", LookupFree),
    mlp("nearest_keys", Neighbours),
    mlp("top_units", Sparse),
    mlp("maxout_sort", Maxout),
    pair("pointer_copy", Pointer),
    pair("last_token", LastToken),
)
