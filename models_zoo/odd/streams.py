"""Residual streams that are more, or less, than one sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models_zoo.odd.frame import (
    CLASSES,
    FEATURES,
    VOCABULARY,
    Attention,
    Block,
    LanguageModel,
    Mlp,
    Sizes,
    Stream,
    features,
    language,
    pair,
    tokens,
    weight,
)


class HyperConnections(nn.Module):
    """Several parallel residual streams: each layer reads a mixture, writes to all, and mixes them."""

    def __init__(self, s: Sizes, streams: int = 3) -> None:
        super().__init__()
        self.streams = streams
        self.embed, self.head = nn.Embedding(VOCABULARY, s.width), nn.Linear(s.width, VOCABULARY)
        self.layers = nn.ModuleList(kind(s) for _ in range(s.depth // 2) for kind in (Attention, Mlp))
        self.norms = nn.ModuleList(nn.LayerNorm(s.width) for _ in self.layers)
        self.mix = nn.ParameterList(torch.eye(streams) for _ in self.layers)
        self.read = nn.ParameterList(torch.full((streams,), 0.3) for _ in self.layers)
        self.write = nn.ParameterList(torch.ones(streams) for _ in self.layers)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)[:, :, None].repeat(1, 1, self.streams, 1)
        for layer, norm, mix, read, write in zip(self.layers, self.norms, self.mix, self.read, self.write, strict=True):
            added = layer(norm(torch.einsum("btnd,n->btd", h, read)))
            h = torch.einsum("btnd,nm->btmd", h, mix) + added[:, :, None] * write[:, None]
        logits: Tensor = self.head(h.sum(2))
        return logits


class DynamicHyperConnections(nn.Module):
    """The mixtures come out of the streams themselves, streams outermost."""

    def __init__(self, s: Sizes, streams: int = 3) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, s.width), nn.Linear(s.width, VOCABULARY)
        self.start = weight(streams, 1, 1, 1)
        self.mlps = nn.ModuleList(Mlp(s) for _ in range(s.depth))
        self.norms = nn.ModuleList(nn.RMSNorm(s.width, eps=1e-6) for _ in range(s.depth))
        self.maps = nn.ModuleList(nn.Linear(s.width, streams + 2) for _ in range(s.depth))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)[None] * self.start
        for mlp, norm, to in zip(self.mlps, self.norms, self.maps, strict=True):
            mixing = to(norm(h)).tanh()  # streams, batch, time, streams + 2
            read, write, mix = mixing[..., :1], mixing[..., 1:2], mixing[..., 2:].softmax(0)
            h = torch.einsum("nbtm,nbtd->mbtd", mix, h) + write * mlp(norm((read * h).sum(0)))
        logits: Tensor = self.head(h.mean(0))
        return logits


class UNet(nn.Module):
    """Transformer blocks whose first half is concatenated to, and fused into, the second."""

    def __init__(self, s: Sizes, fuse: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, s.width)
        self.down = nn.ModuleList(Block(s) for _ in range(s.depth // 2))
        self.up = nn.ModuleList(Block(s) for _ in range(s.depth // 2))
        self.middle, self.head = Block(s), nn.Linear(s.width, CLASSES)
        self.fuse = nn.ModuleList(nn.Linear(2 * s.width, s.width) for _ in self.up) if fuse else None
        self.gates = nn.ParameterList(torch.full((s.width,), 0.5) for _ in self.up)

    def forward(self, x: Tensor) -> Tensor:
        x, kept = self.enter(x), []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = self.middle(x)
        for at, block in enumerate(self.up):
            skip = kept.pop()
            x = self.fuse[at](torch.cat([x, skip], -1)) if self.fuse is not None else x + self.gates[at] * skip
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


class Shared(nn.Module):
    """ALBERT: one block again and again, between two ends of a factorised embedding."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(VOCABULARY, 20), nn.Linear(20, s.width), nn.Linear(s.width, 20)
        self.block, self.rounds, self.norms = Block(s), s.depth, nn.ModuleList(nn.LayerNorm(s.width) for _ in range(s.depth))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.table(ids))
        for norm in self.norms:
            x = self.block(norm(x))
        logits: Tensor = self.down(x) @ self.table.weight.t()
        return logits


class Alternating(nn.Module):
    """Two shared blocks in turn, as in a universal transformer with a step embedding."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, s.width), nn.Linear(s.width, VOCABULARY)
        self.even, self.odd, self.steps = Block(s), Block(s), weight(s.depth, s.width, fan_in=4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for at, step in enumerate(self.steps.unbind(0)):
            x = (self.odd if at % 2 else self.even)(x + step)
        logits: Tensor = self.head(x)
        return logits


class ReZero(nn.Module):
    """No norm at all: a scalar in front of every branch."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(s), Mlp(s)
        self.a, self.b = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor([0.1]))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a * self.attention(x)
        return x + self.b * self.mlp(x)


class LayerScale(nn.Module):
    """A vector in front of every branch, one of them inside an exponential."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.block, self.norm = Mlp(s), nn.LayerNorm(s.width, elementwise_affine=False)
        self.attention = Attention(s)
        self.a, self.b = nn.Parameter(torch.full((s.width,), -1.0)), nn.Parameter(torch.full((s.width,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a.exp() * self.attention(self.norm(x))
        return torch.addcmul(x, self.b, self.block(self.norm(x)))


class Parallel(nn.Module):
    """Attention and MLP side by side, from one norm and one fused projection, into one fused projection."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.sizes = s.heads, [3 * s.inner, 2 * s.units]
        self.norm, self.enter, self.leave = (
            nn.LayerNorm(s.width),
            nn.Linear(s.width, sum(self.sizes)),
            nn.Linear(s.inner + s.units, s.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv, gated = self.enter(self.norm(x)).split(self.sizes, -1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        gate, units = gated.chunk(2, -1)
        y: Tensor = x + self.leave(torch.cat([mixed, nn.functional.silu(gate) * units], -1))
        return y


class Sandwich(nn.Module):
    """A norm before and one after each branch, as Gemma 2 has (its gain is 1 + weight)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(s), Mlp(s)
        self.gains = nn.ParameterList(torch.zeros(s.width) for _ in range(4))

    def norm(self, x: Tensor, at: int) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.gains[at])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm(self.attention(self.norm(x, 0)), 1)
        return x + self.norm(self.mlp(self.norm(x, 2)), 3)


class PostNorm(nn.Module):
    """DeepNorm: the stream times a constant, normed after each sum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention, self.mlp, self.norm1, self.norm2 = Attention(s), Mlp(s), nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.scale = (2 * s.depth) ** 0.25

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.scale * x + self.attention(x))
        y: Tensor = self.norm2(self.scale * x + self.mlp(x))
        return y


class DenseFormer(nn.Module):
    """After each block a weighted mean over all that came before it, by a stack and an einsum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, s.width), nn.Linear(s.width, VOCABULARY)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.depth))
        self.weights = nn.ParameterList(torch.full((at + 2,), 0.4) for at in range(s.depth))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        past = [x]
        for block, weights in zip(self.blocks, self.weights, strict=True):
            past.append(block(x))
            x = torch.einsum("n,nbtd->btd", weights, torch.stack(past))
        logits: Tensor = self.head(x)
        return logits


class Reversible(nn.Module):
    """RevNet's two streams, cut out of one embedding and put together again at the end."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 2 * s.width), nn.Linear(2 * s.width, VOCABULARY)
        self.f, self.g = (nn.ModuleList(kind(s) for _ in range(s.depth)) for kind in (Attention, Mlp))

    def forward(self, ids: Tensor) -> Tensor:
        a, b = self.embed(ids).chunk(2, -1)
        for f, g in zip(self.f, self.g, strict=True):
            a = a + f(b)
            b = b + g(a)
        logits: Tensor = self.head(torch.cat([a, b], -1))
        return logits


class Highway(nn.Module):
    """Gates instead of sums: t · f(x) + (1 - t) · x."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mlp, self.gate, self.norm = Mlp(s), nn.Linear(s.width, s.width), nn.LayerNorm(s.width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.mlp(self.norm(x)), self.gate(x).sigmoid())


class ValueResidual(nn.Module):
    """Every layer's values are mixed with those of the first layer; the embedding comes in again at each block."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, s.width), nn.Linear(s.width, VOCABULARY)
        self.attentions: list[Attention] = nn.ModuleList(Attention(s) for _ in range(s.depth))  # type: ignore[assignment]
        self.mlps = nn.ModuleList(Mlp(s) for _ in range(s.depth))
        self.mix, self.again = nn.Parameter(torch.full((s.depth,), 0.5)), nn.Parameter(torch.full((s.depth, 2), 0.5))

    def forward(self, ids: Tensor) -> Tensor:
        start = x = nn.functional.rms_norm(self.embed(ids), (self.embed.embedding_dim,), eps=1e-6)
        first = None
        for at, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = self.again[at, 0] * x + self.again[at, 1] * start
            q, k, v = attention.parts(x)
            first = v if first is None else first
            v = (1 - self.mix[at]) * v + self.mix[at] * first
            x = x + attention.out(attention.attend(q, k, v).transpose(1, 2).flatten(2))
            x = x + mlp(nn.functional.rms_norm(x, (x.shape[-1],), eps=1e-6))
        logits: Tensor = self.head(x)
        return logits


class Stages(nn.Module):
    """A funnel: pairs of positions merged between stages of different width."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        narrow = Sizes(s.width // 2, s.heads // 2, s.head_dim, s.units // 2 + 2, s.depth // 2)
        self.enter, self.first, self.merge = (
            nn.Linear(FEATURES, narrow.width),
            Stream(narrow, Block),
            nn.Linear(2 * narrow.width, s.width),
        )
        self.second, self.head = Stream(s, Block), nn.Linear(s.width + narrow.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        low = self.first(self.enter(x))[:, :10]
        high = self.second(self.merge(torch.cat([low[:, ::2], low[:, 1::2]], -1)))
        logits: Tensor = self.head(torch.cat([low, high.repeat_interleave(2, 1)], -1))
        return logits


class ParameterFreeNorm(LanguageModel):
    """Norms without weights, the last one too."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s, lambda s: Block(s, norm=lambda width: nn.LayerNorm(width, elementwise_affine=False)))
        self.stream.norm = nn.LayerNorm(s.width, elementwise_affine=False, bias=False)


class WideAndNarrow(nn.Module):
    """AltUp: a stream that is three times as wide as its blocks, which work on one part of it at a time."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.width = s.width
        self.embed, self.head = nn.Embedding(VOCABULARY, 3 * s.width), nn.Linear(3 * s.width, VOCABULARY)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.depth))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for at, block in enumerate(self.blocks):
            parts = list(x.split(self.width, -1))
            parts[at % 3] = block(parts[at % 3])
            x = torch.cat(parts, -1)
        logits: Tensor = self.head(x)
        return logits


class ScaleNorm(nn.Module):
    """One number for the whole vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(width**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-5) * self.gain


class DynamicTanh(nn.Module):
    """DyT: no statistics at all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.gain, self.bias = (
            nn.Parameter(torch.tensor(0.5)),
            nn.Parameter(torch.ones(width)),
            nn.Parameter(torch.zeros(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.gain + self.bias


class HandNorm(nn.Module):
    """LayerNorm written with var and mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * self.gain + self.bias


MODELS = (
    pair("hyper_connections", HyperConnections),
    pair("hyper_connections_dynamic", DynamicHyperConnections),
    pair("unet_concatenated", lambda s: UNet(s, True), features),
    pair("unet_added", lambda s: UNet(s, False), features),
    pair("shared_layers", Shared),
    pair("shared_alternating", Alternating),
    language("rezero", ReZero),
    language("layer_scale", LayerScale),
    language("parallel_fused", Parallel),
    language("sandwich_norm", Sandwich),
    language("deep_norm", PostNorm),
    pair("dense_former", DenseFormer),
    pair("reversible", Reversible),
    language("highway", Highway),
    pair("value_residual", ValueResidual),
    pair("funnel_stages", Stages, features),
    pair("norm_without_weights", ParameterFreeNorm),
    pair("wide_and_narrow", WideAndNarrow, tokens),
    language("norm_scale", lambda s: Block(s, norm=ScaleNorm)),
    language("norm_tanh", lambda s: Block(s, norm=DynamicTanh)),
    language("norm_by_hand", lambda s: Block(s, norm=HandNorm)),
)
