"""Small models of kinds that no table of architectures knows. Each passes all oracles, and is free where it should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphclone as gc

WIDTH = 28


class Attention(nn.Module):
    """Plain attention; what is odd comes in `turned` (queries, keys) and `mixed` (probabilities)."""

    def __init__(self, heads: int = 4, head_dim: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(WIDTH, 3 * heads * head_dim), nn.Linear(heads * head_dim, WIDTH)
        self.register_buffer("frequency", 0.1 ** (torch.arange(0, head_dim, 2) / head_dim))

    def turned(self, x: Tensor) -> Tensor:
        return x

    def mixed(self, probabilities: Tensor) -> Tensor:
        return probabilities

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        probabilities = self.mixed((self.turned(q) @ self.turned(k).mT).softmax(-1))
        return x + self.out((probabilities @ v).transpose(1, 2).flatten(2))


class InterleavedRotary(Attention):
    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * self.frequency
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)


class ComplexRotary(Attention):
    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * self.frequency
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


class TalkingHeads(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Parameter(torch.randn(4, 4))

    def mixed(self, probabilities: Tensor) -> Tensor:
        return torch.einsum("bhqk,hg->bgqk", probabilities, self.talk)


class HyperConnections(nn.Module):
    """Three residual streams that learned matrices mix."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ParameterList(nn.Parameter(torch.randn(3, 3)) for _ in range(2))
        self.read = nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, WIDTH)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        streams = x[:, :, None].expand(-1, -1, 3, -1)
        for mix, read, mlp in zip(self.mix, self.read, self.mlp, strict=True):
            added = mlp(torch.einsum("btnd,n->btd", streams, read))
            streams = torch.einsum("btnd,nm->btmd", streams, mix) + added[:, :, None] * read[:, None]
        return streams.sum(2)


class LoraInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.a, self.b = nn.Parameter(torch.randn(5, WIDTH)), nn.Parameter(torch.randn(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(x, self.layer.weight + 0.5 * (self.b @ self.a), self.layer.bias).relu())


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 20)), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).relu())


class SharedLayers(nn.Module):
    """One block again and again, with norms of its own, between two ends of one factorised embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(61, 10), nn.Linear(10, WIDTH), nn.Linear(WIDTH, 10)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.table(ids))
        for norm in self.norms:
            x = x + self.mlp(norm(x))
        return self.down(x) @ self.table.weight.t()


class Routed(nn.Module):
    """Mixture of experts: the two best of five, by a scattered mask."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 5)
        self.up, self.down = nn.Parameter(torch.randn(5, WIDTH, 20)), nn.Parameter(torch.randn(5, 20, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.gate(x).softmax(-1).topk(2, -1)
        weights = torch.zeros(*x.shape[:2], 5).scatter(-1, index, best)
        units = torch.einsum("btd,edh->bteh", x, self.up).relu()
        return x + torch.einsum("bte,bteh,ehd->btd", weights, units, self.down)


class ProductKeys(nn.Module):
    """A memory of 7 × 7 values, looked up by two keys: positions i * 7 + j."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.values = nn.Linear(WIDTH, 12), nn.Embedding(49, WIDTH)
        self.first, self.second = nn.Parameter(torch.randn(7, 6)), nn.Parameter(torch.randn(7, 6))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.query(x).chunk(2, -1)
        (best_a, i), (best_b, j) = (a @ self.first.t()).topk(3, -1), (b @ self.second.t()).topk(3, -1)
        scores = (best_a[..., :, None] + best_b[..., None, :]).flatten(-2)
        return x + (scores.softmax(-1)[..., None] * self.values((i[..., :, None] * 7 + j[..., None, :]).flatten(-2))).sum(-2)


class Written(nn.Module):
    """In-place writes to slices of features and of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).clone()
        hidden[..., :7] = hidden[..., :7] * 2
        hidden[:, :3] += 1
        return self.down(hidden)


class SkipsByConcatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(WIDTH, 20), nn.Linear(20, 20), nn.Linear(40, 14)
        self.d = nn.Linear(14 + WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.d(torch.cat([x, self.c(torch.cat([self.b(a), a], -1))], -1))


class Coincidence(nn.Module):
    """Every size is 28: sizes that happen to be equal join nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.square = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.norm(self.a(x)) @ self.square))


class Scan(nn.Module):
    """A state-space layer as a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.decay, self.write, self.read = nn.Parameter(torch.randn(20, 5)), nn.Linear(20, 5), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        u = self.inner(x)
        write, read, state, results = self.write(u), self.read(u), u.new_zeros(u.shape[0], 20, 5), []
        for t in range(u.shape[1]):
            state = torch.exp(-self.decay.exp()) * state + write[:, t, None] * u[:, t, :, None]
            results.append((state * read[:, t, None]).sum(-1))
        return x + self.out(torch.stack(results, 1))


STREAM = torch.randn(3, 11, WIDTH, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(0))
MODELS = {
    InterleavedRotary: {4, 3},
    ComplexRotary: {4, 3},
    TalkingHeads: {4, 6},
    HyperConnections: {3, 40},
    LoraInForward: {5, 20},
    WeightNorm: {20},
    SharedLayers: {10, 28, 40},
    Routed: {5, 20},
    ProductKeys: {6},
    Written: {7, 13},
    SkipsByConcatenation: {20, 14},
    Coincidence: {28},
    Scan: {20, 5},
}


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_an_odd_model_passes_all_oracles_and_every_free_factor_can_be_halved(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = kind().eval(), (IDS if kind is SharedLayers else STREAM,)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.3, 0.5)
    assert (verdicts := gc.verify(model, inputs)).passed, verdicts
    trace = gc.capture(model, inputs)
    layout = gc.analyze(trace)
    free = [factor for factor in layout.factors if factor.slots and factor.frozen is None and not factor.interface]
    assert {factor.size for factor in free} >= MODELS[kind]
    for factor in free:
        child = gc.execute(gc.plan(layout, width={factor.name: factor.size // 2}), model, trace=trace)
        assert child(*inputs).shape == model(*inputs).shape


def test_sizes_that_happen_to_be_equal_are_told_apart() -> None:
    layout = gc.analyze(gc.capture(Coincidence(), (STREAM,)))
    assert len({factor for factor in layout.factors if factor.size == WIDTH}) == 4


def test_positions_computed_from_two_indices_are_frozen() -> None:
    layout = gc.analyze(gc.capture(ProductKeys(), (STREAM,)))
    for name in ("first", "second", "values.weight"):
        assert layout.axes(name)[0].frozen is not None  # type: ignore[union-attr]
