"""Tiny models that no library names: torch's own encoder, and GPTs made of bare parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.entry import Inputs, entry, integers

VOCABULARY, POSITIONS = 61, 37


class Encoder(nn.Module):
    """torch.nn.TransformerEncoder between an embedding and a head.

    In eval mode without gradients each layer runs as one fused op, `_transformer_encoder_layer_fwd`, but not in a
    traced graph: the fused path is closed to tensors with a torch function, and torch.export works under a mode
    that has one. So the graph is the ordinary one, with gradients on or off, and equal to the model up to rounding.
    """

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 9)

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.encoder(self.embedding(ids)))
        return hidden


def weight(*shape: int, fan_in: int = 1) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / math.sqrt(fan_in))


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain


class EinsumGPT(nn.Module):
    """No module inside, only parameters and einsum. q, k and v are the outermost digit of one fused parameter.

    Its heads together are wider than its stream, and every layer's parameters have the same name in another list.
    """

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int, depth: int) -> None:
        super().__init__()

        def per_layer(make: Callable[[], nn.Parameter]) -> nn.ParameterList:
            return nn.ParameterList(make() for _ in range(depth))

        self.tokens = weight(VOCABULARY, width)
        self.positions = weight(POSITIONS, width, fan_in=4)
        self.gain1 = per_layer(lambda: nn.Parameter(torch.ones(width)))
        self.qkv = per_layer(lambda: weight(3, heads, head_dim, width, fan_in=width))
        self.out = per_layer(lambda: weight(heads, head_dim, width, fan_in=heads * head_dim))
        self.gain2 = per_layer(lambda: nn.Parameter(torch.ones(width)))
        self.up = per_layer(lambda: weight(width, hidden, fan_in=width))
        self.up_bias = per_layer(lambda: nn.Parameter(torch.zeros(hidden)))
        self.down = per_layer(lambda: weight(hidden, width, fan_in=hidden))
        self.gain = nn.Parameter(torch.ones(width))
        self.unembed = weight(width, VOCABULARY, fan_in=width)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.tokens[ids] + self.positions[:length]
        future = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        for layer in range(len(self.qkv)):
            normed = rms_norm(x, self.gain1[layer])
            q, k, v = torch.einsum("bte,chde->cbhtd", normed, self.qkv[layer])
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
            attention = scores.masked_fill(future, float("-inf")).softmax(-1)
            x = x + torch.einsum("bhqk,bhkd,hde->bqe", attention, v, self.out[layer])
            normed = rms_norm(x, self.gain2[layer])
            units = torch.einsum("bte,ef->btf", normed, self.up[layer]) + self.up_bias[layer]
            x = x + torch.einsum("btf,fe->bte", F.gelu(units), self.down[layer])
        return torch.einsum("bte,ev->btv", rms_norm(x, self.gain), self.unembed)


class StackedGPT(nn.Module):
    """One parameter per role, of shape (layers, …), indexed by layer. q, k and v are segments of one flat axis; tied."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.tokens = weight(VOCABULARY, width, fan_in=width)
        self.positions = weight(POSITIONS, width, fan_in=width)
        self.norm1_weight = nn.Parameter(torch.ones(depth, width))
        self.norm1_bias = nn.Parameter(torch.zeros(depth, width))
        self.qkv = weight(depth, 3 * inner, width, fan_in=width)
        self.qkv_bias = nn.Parameter(torch.zeros(depth, 3 * inner))
        self.out = weight(depth, width, inner, fan_in=inner)
        self.norm2_weight = nn.Parameter(torch.ones(depth, width))
        self.norm2_bias = nn.Parameter(torch.zeros(depth, width))
        self.up = weight(depth, 2 * hidden, width, fan_in=width)
        self.down = weight(depth, width, hidden, fan_in=hidden)
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))

    def forward(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        width = self.tokens.shape[1]
        x = F.embedding(ids, self.tokens) + self.positions[:length]
        for layer in range(self.qkv.shape[0]):
            normed = F.layer_norm(x, (width,), self.norm1_weight[layer], self.norm1_bias[layer])
            fused = F.linear(normed, self.qkv[layer], self.qkv_bias[layer])
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in fused.chunk(3, dim=-1))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), self.out[layer])
            normed = F.layer_norm(x, (width,), self.norm2_weight[layer], self.norm2_bias[layer])
            gate, units = F.linear(normed, self.up[layer]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * units, self.down[layer])
        return F.linear(F.layer_norm(x, (width,), self.norm_weight, self.norm_bias), self.tokens)


def tokens() -> Inputs:
    """A batch of 5, since 3 is the digit of q, k and v."""
    return (integers(VOCABULARY, 5, 11),), {}


MODELS = (
    entry("torch/encoder", lambda: Encoder(48, 8, 80, 4), lambda: Encoder(24, 4, 40, 2), tokens),
    entry("raw/einsum_gpt", lambda: EinsumGPT(48, 8, 10, 56, 4), lambda: EinsumGPT(24, 4, 10, 28, 2), tokens),
    entry("raw/stacked_gpt", lambda: StackedGPT(48, 8, 10, 56, 4), lambda: StackedGPT(24, 4, 10, 28, 2), tokens),
)
