"""Attention in forms that no plain transformer has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.odd.frame import (
    CLASSES,
    FEATURES,
    LENGTH,
    Attention,
    Block,
    Sizes,
    Stream,
    causal,
    features,
    mixer,
    pair,
    two_features,
    weight,
)


class TalkingHeads(Attention):
    """Heads mixed before and after the softmax."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.before, self.after = weight(s.heads, s.heads, fan_in=s.heads), weight(s.heads, s.heads, fan_in=s.heads)

    def scored(self, scores: Tensor) -> Tensor:
        return torch.einsum("bhqk,hg->bgqk", scores, self.before)

    def mixed(self, probabilities: Tensor) -> Tensor:
        return torch.einsum("bhqk,hg->bgqk", probabilities, self.after)


class Differential(nn.Module):
    """The difference of two attentions over one value, a norm per head, and a learned λ out of four vectors."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.part = s.heads, s.head_dim // 2
        self.q, self.k, self.v = (nn.Linear(s.width, s.inner, bias=False) for _ in range(3))
        self.out = nn.Linear(s.inner, s.width, bias=False)
        self.lq1, self.lk1, self.lq2, self.lk2 = (weight(self.part, fan_in=100) for _ in range(4))
        self.gain = nn.Parameter(torch.ones(s.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 2 * self.heads, self.part).transpose(1, 2)
        k = self.k(x).view(batch, length, 2 * self.heads, self.part).transpose(1, 2)
        v = self.v(x).view(batch, length, self.heads, 2 * self.part).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2) * self.part**-0.5).masked_fill(causal(length), float("-inf")).softmax(-1)
        scores = scores.view(batch, self.heads, 2, length, length)
        factor = torch.exp((self.lq1 * self.lk1).sum()) - torch.exp((self.lq2 * self.lk2).sum()) + 0.2
        mixed = (scores[:, :, 0] - factor * scores[:, :, 1]) @ v
        mixed = mixed * torch.rsqrt(mixed.square().mean(-1, keepdim=True) + 1e-5) * self.gain * 0.8
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return y


class HalfRotary(Attention):
    """The usual rotary embedding, of two halves."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.register_buffer("frequency", 0.1 ** (torch.arange(0, s.head_dim, 2) / s.head_dim), persistent=False)

    frequency: Tensor

    def angle(self, length: int) -> Tensor:
        return torch.arange(length)[:, None] * self.frequency

    def turned(self, x: Tensor) -> Tensor:
        angle = self.angle(x.shape[-2])
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin


class PartialRotary(HalfRotary):
    """Only the first four of ten features turn."""

    def angle(self, length: int) -> Tensor:
        return super().angle(length)[:, :2]

    def turned(self, x: Tensor) -> Tensor:
        turning, still = x[..., :4], x[..., 4:]
        return torch.cat([super().turned(turning), still], -1)


class InterleavedRotary(HalfRotary):
    def turned(self, x: Tensor) -> Tensor:
        angle = self.angle(x.shape[-2])
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)


class ComplexRotary(HalfRotary):
    def turned(self, x: Tensor) -> Tensor:
        angle = self.angle(x.shape[-2])
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


class TableRotary(HalfRotary):
    """Cosines and sines gathered from a table that a buffer keeps, by positions."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        angle = torch.arange(29)[:, None] * self.frequency
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())

    cos: Tensor
    sin: Tensor

    def turned(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[-2])
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * self.cos[positions] + torch.cat((-b, a), dim=-1) * self.sin[positions]


class InterleavedQKV(Attention):
    """One projection, in which each head keeps its query, key and value together."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = self.qkv(x).view(*x.shape[:2], self.heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = fused.split(self.head_dim, -1)
        return q, k, v


class GroupedInterleavedQKV(nn.Module):
    """Groups of (two queries, key, value) in one projection."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.groups, self.head_dim = s.heads // 2, s.head_dim
        self.qkv, self.out = nn.Linear(s.width, self.groups * 4 * s.head_dim), nn.Linear(s.inner, s.width)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.qkv(x).view(*x.shape[:2], self.groups, 4, self.head_dim)
        q = fused[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k, v = (fused[..., [at], :].expand(-1, -1, -1, 2, -1).flatten(2, 3).transpose(1, 2) for at in (-2, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class Alibi(Attention):
    """A slope per head times the distance, made in the forward."""

    def scored(self, scores: Tensor) -> Tensor:
        slopes = 2.0 ** (-8.0 * torch.arange(1, self.heads + 1) / self.heads)
        positions = torch.arange(scores.shape[-1])
        return scores + slopes[:, None, None] * (positions[None, :] - positions[:, None])


class AlibiBuffer(Attention):
    """Slopes in a buffer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.register_buffer("slopes", 2.0 ** (-8.0 * torch.arange(1, s.heads + 1) / s.heads))

    slopes: Tensor

    def scored(self, scores: Tensor) -> Tensor:
        positions = torch.arange(scores.shape[-1])
        return scores + self.slopes[:, None, None] * (positions[None, :] - positions[:, None]).abs()


class RelativeBias(Attention):
    """T5's: an embedding of the distance's bucket, with a column per head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.bias = nn.Embedding(15, s.heads)

    def scored(self, scores: Tensor) -> Tensor:
        positions = torch.arange(scores.shape[-1])
        distance = (positions[:, None] - positions[None, :]).clamp_min(0)
        far = 4 + (torch.log(distance.float().clamp_min(1) / 4) / math.log(8) * 11).long().clamp_max(10)
        return scores + self.bias(torch.where(distance < 4, distance, far)).permute(2, 0, 1)


class ShiftedRelative(Attention):
    """Transformer-XL's: keys of distances, and the trick that shifts them by padding and viewing anew."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.distances = weight(s.heads, LENGTH, s.head_dim, fan_in=s.head_dim)
        self.bias = weight(s.heads, 1, s.head_dim, fan_in=s.head_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length, _ = q.shape
        relative = (q + self.bias) @ self.distances.mT
        relative = F.pad(relative, (1, 0)).view(batch, heads, length + 1, length)[:, :, 1:]
        scores = (q @ k.mT + relative) * self.head_dim**-0.5
        return scores.masked_fill(causal(length), float("-inf")).softmax(-1) @ v


class Latent(nn.Module):
    """MLA: low-rank queries, keys and values with norms between, and a rotary part that all heads share."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.plain, self.turning, self.value = s.heads, s.head_dim - 4, 4, s.head_dim - 3
        rank = s.units // 2
        self.q_down, self.q_norm, self.q_up = nn.Linear(s.width, rank), nn.RMSNorm(rank, eps=1e-6), nn.Linear(rank, s.inner)
        self.kv_down, self.kv_norm = nn.Linear(s.width, rank + 2 + 4), nn.RMSNorm(rank + 2, eps=1e-6)
        self.kv_up = nn.Linear(rank + 2, s.heads * (self.plain + self.value), bias=False)
        self.out = nn.Linear(s.heads * self.value, s.width)

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_up(self.q_norm(self.q_down(x))).view(batch, length, self.heads, -1).transpose(1, 2)
        q, q_turning = q.split([self.plain, self.turning], -1)
        low, k_turning = self.kv_down(x).split([self.kv_norm.normalized_shape[0], self.turning], -1)
        k, v = (
            self.kv_up(self.kv_norm(low)).view(batch, length, self.heads, -1).transpose(1, 2).split([self.plain, self.value], -1)
        )
        k_turning = self.turn(k_turning[:, None]).expand(-1, self.heads, -1, -1)
        q, k = torch.cat([q, self.turn(q_turning)], -1), torch.cat([k, k_turning], -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return y


class GroupedSdpa(nn.Module):
    """Grouped queries by sdpa's own `enable_gqa`, twice as many as keys, or four times."""

    def __init__(self, s: Sizes, ratio: int = 2) -> None:
        super().__init__()
        self.head_dim, kv = s.head_dim, s.inner // ratio
        self.q, self.k, self.v = nn.Linear(s.width, s.inner), nn.Linear(s.width, kv), nn.Linear(s.width, kv)
        self.out = nn.Linear(s.inner, s.width)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class RepeatedKeys(GroupedSdpa):
    """Grouped queries by repeat_interleave, and norms of queries and keys per head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.q_norm, self.k_norm = nn.RMSNorm(s.head_dim, eps=1e-6), nn.RMSNorm(s.head_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q_norm(self.split(self.q(x))), self.k_norm(self.split(self.k(x)))
        k, v = k.repeat_interleave(2, 1), self.split(self.v(x)).repeat_interleave(2, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class GroupedEinsum(GroupedSdpa):
    """Grouped queries as a digit of the einsum; the group is the inner one."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 2, self.head_dim))
        k, v = self.k(x).unflatten(-1, (-1, self.head_dim)), self.v(x).unflatten(-1, (-1, self.head_dim))
        scores = torch.einsum("bqhgd,bkhd->bhgqk", q, k) * self.head_dim**-0.5
        probabilities = scores.masked_fill(causal(x.shape[1]), float("-inf")).softmax(-1)
        y: Tensor = self.out(torch.einsum("bhgqk,bkhd->bqhgd", probabilities, v).flatten(2))
        return y


class MultiQuery(nn.Module):
    """One key and one value for all heads, in one fused projection."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.head_dim = s.heads, s.head_dim
        self.qkv, self.out = nn.Linear(s.width, s.inner + 2 * s.head_dim), nn.Linear(s.inner, s.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split([self.heads * self.head_dim, self.head_dim, self.head_dim], -1)
        q = q.unflatten(-1, (self.heads, self.head_dim))
        scores = torch.einsum("bqhd,bkd->bhqk", q, k) * self.head_dim**-0.5
        probabilities = scores.masked_fill(causal(x.shape[1]), float("-inf")).softmax(-1)
        y: Tensor = self.out(torch.einsum("bhqk,bkd->bqhd", probabilities, v).flatten(2))
        return y


class WideNorms(Attention):
    """Queries and keys normed over all heads at once, before they are split into heads."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.q_norm, self.k_norm = nn.LayerNorm(s.inner), nn.LayerNorm(s.inner)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))
        return q, k, v


class CosineAttention(Attention):
    """Queries and keys of length one, and a temperature per head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.temperature = nn.Parameter(torch.full((s.heads, 1, 1), 2.0))

    def turned(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)

    def scored(self, scores: Tensor) -> Tensor:
        return scores * self.temperature.exp().clamp_max(100)


class Sinks(Attention):
    """A learned logit per head that swallows probability."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.sinks = weight(s.heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT * self.head_dim**-0.5).masked_fill(causal(q.shape[-2]), float("-inf"))
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[-2], -1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1] @ v


class GatedHeads(Attention):
    """A gate per head and one per feature, both from the stream."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.head_gate, self.gate = nn.Linear(s.width, s.heads), nn.Linear(s.width, s.inner)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attend(*self.parts(x)).transpose(1, 2) * self.head_gate(x).sigmoid()[..., None]
        y: Tensor = self.out(mixed.flatten(2) * F.silu(self.gate(x)))
        return y


class SlidingWindow(Attention):
    """Every position sees itself and two before it, by unfolding keys and values along time."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (F.pad(part, (0, 0, 2, 0)).unfold(2, 3, 1) for part in (k, v))
        return torch.einsum("bhqw,bhqdw->bhqd", torch.einsum("bhqd,bhqdw->bhqw", q, k).softmax(-1), v)


class Linear(Attention):
    """Linear attention without a softmax: features of keys times values summed over time."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        summed = torch.einsum("bhkd,bhke->bhkde", k, v).cumsum(2)
        return torch.einsum("bhqd,bhqde->bhqe", q, summed) / (q * k.cumsum(2)).sum(-1, keepdim=True)


class Retention(Attention):
    """A decay per head instead of a softmax, a group norm over heads, and a gate."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.norm, self.gate = nn.GroupNorm(s.heads, s.inner, affine=False), nn.Linear(s.width, s.inner)
        self.register_buffer("decay", torch.log(1 - 2.0 ** (-1 - torch.arange(s.heads) / 4)))

    decay: Tensor

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        positions = torch.arange(x.shape[1])
        distance = positions[:, None] - positions[None, :]
        faded = torch.exp(distance.clamp_min(0) * self.decay[:, None, None]).masked_fill(distance < 0, 0)
        mixed = ((q @ k.mT) * faded @ v).transpose(1, 2).flatten(2)
        normed = self.norm(mixed.flatten(0, 1)).view_as(mixed)
        y: Tensor = self.out(normed * F.silu(self.gate(x)))
        return y


class Clustered(Attention):
    """Keys and values averaged over pairs of positions, as in compressed attention; not causal."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (F.avg_pool1d(F.pad(part, (0, 0, 0, 1)).flatten(0, 1).mT, 2).mT.unflatten(0, part.shape[:2]) for part in (k, v))
        return (q @ k.mT * self.head_dim**-0.5).softmax(-1) @ v


class Projected(Attention):
    """Linformer's: keys and values projected along time by parameters that know the length."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s)
        self.shorten = weight(LENGTH, 7, fan_in=LENGTH)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (torch.einsum("bhnd,nm->bhmd", part, self.shorten) for part in (k, v))
        return (q @ k.mT * self.head_dim**-0.5).softmax(-1) @ v


class ChannelAttention(Attention):
    """XCiT's: features of a head attend to each other, over all positions."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.normalize(q.mT, dim=-1), F.normalize(k.mT, dim=-1)
        return ((q @ k.mT).softmax(-1) @ v.mT).mT


class Cross(nn.Module):
    """Queries from one stream, keys and values from another."""

    def __init__(self, s: Sizes, memory: int) -> None:
        super().__init__()
        self.heads = s.heads
        self.q, self.kv, self.out = nn.Linear(s.width, s.inner), nn.Linear(memory, 2 * s.inner), nn.Linear(s.inner, s.width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, (k, v) = self.q(x), self.kv(memory).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class SeveralMemories(nn.Module):
    """A decoder that looks at two encoders of other widths in turn, at both in one layer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        widths = (s.width - 10, s.units - 2)
        self.enter = nn.Linear(FEATURES, s.width)
        self.first, self.second = nn.Linear(FEATURES, widths[0]), nn.Linear(FEATURES, widths[1])
        self.norms = nn.ModuleList(nn.LayerNorm(s.width) for _ in range(s.depth))
        self.one, self.other = (nn.ModuleList(Cross(s, width) for _ in range(s.depth)) for width in widths)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.depth))
        self.head = nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        first, second, x = self.first(memory), self.second(x).tanh(), self.enter(x)
        for norm, one, other, block in zip(self.norms, self.one, self.other, self.blocks, strict=True):
            normed = norm(x)
            x = block(x + one(normed, first) + other(normed, second))
        logits: Tensor = self.head(x)
        return logits


class Perceiver(nn.Module):
    """Learned latents read a long input again and again by one shared attention, and are read out by learned queries."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.latents, self.queries = weight(7, s.width), weight(3, s.width)
        self.norm, self.read, self.answer = nn.LayerNorm(s.width), Cross(s, FEATURES), Cross(s, s.width)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.expand(x.shape[0], -1, -1)
        for _ in range(2):
            latents = latents + self.read(self.norm(latents), x)
        queries = self.queries.expand(x.shape[0], -1, -1)
        logits: Tensor = self.head(queries + self.answer(queries, self.stream(latents)))
        return logits


class Pooled(nn.Module):
    """A seed that attends to the stream gives one vector; outputs the probabilities too."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.stream, self.seed = nn.Linear(FEATURES, s.width), Stream(s, Block), weight(s.width)
        self.key, self.head = nn.Linear(s.width, s.width), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stream(self.enter(x))
        probabilities = (self.key(x) @ self.seed * self.seed.shape[0] ** -0.5).softmax(-1)
        return self.head(torch.bmm(probabilities[:, None], x).squeeze(1)), probabilities


MODELS = (
    mixer("talking_heads", TalkingHeads),
    mixer("differential_attention", Differential),
    mixer("rotary", HalfRotary),
    mixer("rotary_partial", PartialRotary),
    mixer("rotary_interleaved", InterleavedRotary),
    mixer("rotary_complex", ComplexRotary),
    mixer("rotary_table", TableRotary),
    mixer("qkv_interleaved", InterleavedQKV),
    mixer("qkv_grouped_interleaved", GroupedInterleavedQKV),
    mixer("alibi", Alibi),
    mixer("alibi_buffer", AlibiBuffer),
    mixer("relative_bias", RelativeBias),
    mixer("relative_shift", ShiftedRelative),
    mixer("latent_attention", Latent),
    mixer("grouped_sdpa", GroupedSdpa),
    mixer("grouped_sdpa_by_four", lambda s: GroupedSdpa(s, 4)),
    mixer("grouped_repeat_qk_norm", RepeatedKeys),
    mixer("grouped_einsum", GroupedEinsum),
    mixer("multi_query", MultiQuery),
    mixer("qk_norm_wide", WideNorms),
    mixer("cosine_attention", CosineAttention),
    mixer("attention_sinks", Sinks),
    mixer("gated_heads", GatedHeads),
    mixer("sliding_window", SlidingWindow),
    mixer("linear_attention", Linear),
    mixer("retention", Retention),
    mixer("pooled_keys", Clustered),
    mixer("projected_keys", Projected),
    mixer("channel_attention", ChannelAttention),
    pair("several_memories", SeveralMemories, two_features),
    pair("perceiver", Perceiver, features),
    pair("attention_pooling", Pooled, features),
)
