"""Weights that are not simply the weights of a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from models_zoo.odd.frame import (
    CLASSES,
    FEATURES,
    POSITIONS,
    VOCABULARY,
    Attention,
    Block,
    LanguageModel,
    Mlp,
    Sizes,
    Stream,
    causal,
    features,
    image,
    language,
    mlp,
    pair,
    tokens,
    weight,
)


class Bare(nn.Module):
    """No layer anywhere: parameters in a dict, and einsum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        shapes = {
            "q": (s.depth, s.heads, s.width, s.head_dim), "k": (s.depth, s.heads, s.width, s.head_dim),
            "v": (s.depth, s.width, s.heads, s.head_dim), "o": (s.depth, s.head_dim, s.heads, s.width),
            "up": (s.depth, s.units, s.width), "down": (s.depth, s.width, s.units), "gain": (s.depth, 2, s.width),
            "embed": (s.width, VOCABULARY), "bias": (VOCABULARY,),
        }  # fmt: skip
        self.w = nn.ParameterDict({name: weight(*shape, fan_in=shape[-1]) for name, shape in shapes.items()})

    def forward(self, ids: Tensor) -> Tensor:
        w, x = self.w, F.one_hot(ids, VOCABULARY).float() @ self.w["embed"].T
        for at in range(w["q"].shape[0]):
            normed = x * w["gain"][at, 0] / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            q, k = (torch.einsum("btd,hde->bhte", normed, w[name][at]) for name in "qk")
            v = torch.einsum("btd,dhe->bhte", normed, w["v"][at])
            scores = (q @ k.mT / 3).masked_fill(causal(ids.shape[1]), float("-inf")).softmax(-1)
            x = x + torch.einsum("bhts,bhse,ehd->btd", scores, v, w["o"][at])
            normed = x * w["gain"][at, 1] / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            x = x + torch.einsum("btu,du->btd", torch.einsum("btd,ud->btu", normed, w["up"][at]).relu().square(), w["down"][at])
        return torch.einsum("btd,dv->btv", x, w["embed"]) + w["bias"]


class Stacked(nn.Module):
    """All layers in one parameter per role, taken apart by unbind."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, s.width), nn.Linear(s.width, CLASSES)
        self.gains = nn.Parameter(torch.ones(s.depth, s.width))
        self.up, self.gate = weight(s.depth, s.width, s.units, fan_in=s.width), weight(s.depth, s.width, s.units, fan_in=s.width)
        self.down = weight(s.depth, s.units, s.width, fan_in=s.units)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for gain, up, gate, down in zip(
            self.gains.unbind(), self.up.unbind(), self.gate.unbind(), self.down.unbind(), strict=True
        ):
            normed = F.rms_norm(x, (x.shape[-1],), gain, 1e-6)
            x = x + (F.silu(normed @ gate) * (normed @ up)) @ down
        y: Tensor = self.leave(x)
        return y


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Lambdas(nn.Module):
    """Functions wherever a layer would stand: in a Sequential, as attributes, and one closing over a parameter."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(s.units))
        self.net = nn.Sequential(
            nn.Linear(s.width, 2 * s.units), Lambda(lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1].sigmoid()),
            Lambda(lambda x: x * self.scale), Lambda(lambda x: x.transpose(1, 2)), nn.Conv1d(s.units, s.units, 3, padding=1),
            Lambda(lambda x: x.transpose(1, 2)), nn.Linear(s.units, s.width),
        )  # fmt: skip
        self.act = lambda x: F.leaky_relu(x, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.net(x))


class Lora(nn.Module):
    """A low-rank update merged into a frozen weight at each forward."""

    def __init__(self, s: Sizes, rank: int = 5) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)
        self.up.weight.requires_grad_(False)
        self.a, self.b = weight(rank, s.width, fan_in=s.width), weight(s.units, rank, fan_in=rank)
        self.c, self.d = weight(rank, s.units, fan_in=s.units), weight(s.width, rank, fan_in=rank)

    def forward(self, x: Tensor) -> Tensor:
        units = F.gelu(F.linear(x, self.up.weight + 0.5 * (self.b @ self.a), self.up.bias))
        return self.down(units) + (units @ self.c.T) @ self.d.T * 0.5  # type: ignore[no-any-return]


class Dora(nn.Module):
    """LoRA with the norm of each column of the merged weight, and a magnitude for it."""

    def __init__(self, s: Sizes, rank: int = 5) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)
        self.a, self.b = weight(rank, s.width, fan_in=s.width), weight(s.units, rank, fan_in=rank)
        self.magnitude = nn.Parameter(torch.ones(s.units))

    def forward(self, x: Tensor) -> Tensor:
        merged = self.up.weight + self.b @ self.a
        merged = merged * (self.magnitude / merged.norm(dim=1))[:, None]
        y: Tensor = self.down(F.linear(x, merged, self.up.bias).relu())
        return y


class Multiplied(nn.Module):
    """A weight that is a Hadamard product of two low-rank ones (LoHa), and one that is a Kronecker product (LoKr)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = weight(s.units, 3), weight(3, s.width), weight(s.units, 3), weight(3, s.width)
        self.left, self.right = weight(4, 2), weight(s.width // 4, s.units // 2)

    def forward(self, x: Tensor) -> Tensor:
        units = F.linear(x, (self.a @ self.b) * (self.c @ self.d)).tanh()
        return F.linear(units, torch.kron(self.left, self.right))


def weight_normed(s: Sizes) -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(s.width, s.units)),
        nn.GELU(),
        parametrizations.weight_norm(nn.Linear(s.units, s.width)),
    )


class OldWeightNorm(nn.Module):
    """The op of torch's deprecated weight norm, without its hooks."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.v, self.g = weight(s.units, s.width, fan_in=s.width), nn.Parameter(torch.ones(s.units, 1))
        self.u, self.h = weight(s.width, s.units, fan_in=s.units), nn.Parameter(torch.ones(1, s.units))

    def forward(self, x: Tensor) -> Tensor:
        units = F.linear(x, torch._weight_norm(self.v, self.g, 0)).relu()
        return F.linear(units, torch._weight_norm(self.u, self.h, 1))


def spectral_normed(s: Sizes) -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(s.width, s.units)), nn.GELU(), nn.Linear(s.units, s.width))


class Convs(nn.Module):
    """A small residual net of convolutions of one kind, with group norms."""

    def __init__(self, s: Sizes, conv: Callable[[int, int], nn.Module], groups: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, s.width, 4, 4), nn.Linear(s.width, CLASSES)
        self.first = nn.ModuleList(conv(s.width, s.units) for _ in range(s.depth))
        self.second = nn.ModuleList(conv(s.units, s.width) for _ in range(s.depth))
        self.norms = nn.ModuleList(nn.GroupNorm(groups, s.units) for _ in range(s.depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            x = x + second(norm(first(x)).relu())
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class StandardConv(nn.Conv2d):
    """Weights standardised by batch_norm in training mode, as timm does it."""

    def __init__(self, enter: int, leave: int) -> None:
        super().__init__(enter, leave, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(leave))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        w = F.batch_norm(flat, None, None, weight=self.gain * 0.3, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, w.reshape_as(self.weight), self.bias, padding=1)


class HandStandardConv(nn.Conv2d):
    def __init__(self, enter: int, leave: int) -> None:
        super().__init__(enter, leave, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5) * self.weight[0].numel() ** -0.5, self.bias, padding=1)


class Frozen(LanguageModel):
    """No parameter asks for a gradient."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s, Block)
        self.requires_grad_(False)


class ScaledTied(nn.Module):
    """A tied head, embeddings times √hidden, logits divided by √hidden and capped."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.stream = nn.Embedding(VOCABULARY, s.width), Stream(s, Block)
        self.head = nn.Linear(s.width, VOCABULARY, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(self.table(ids) * self.table.embedding_dim**0.5)
        return torch.tanh(self.head(x) * x.shape[-1] ** -0.5 / 5) * 5


class Sinusoids(nn.Module):
    """Positions made in the forward out of the width."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.table, self.stream, self.head = nn.Embedding(VOCABULARY, s.width), Stream(s, Block), nn.Linear(s.width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        width = self.table.embedding_dim
        angle = torch.arange(ids.shape[1])[:, None] * torch.exp(torch.arange(0, width, 2) * (-9.21 / width))
        logits: Tensor = self.head(self.stream(self.table(ids) + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)))
        return logits


class ChannelBuffers(nn.Module):
    """Buffers as long as the stream and as the units: statistics, masks, permutations."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mlp = Mlp(s)
        self.register_buffer("mean", torch.randn(s.width))
        self.register_buffer("deviation", torch.rand(s.width) + 0.5)
        self.register_buffer("mask", torch.arange(s.width) % 3 > 0)

    mean: Tensor
    deviation: Tensor
    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp((x - self.mean) / self.deviation) * self.mask


class Shuffled(nn.Module):
    """Channels put into another order by an index that a buffer holds."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)
        self.register_buffer("order", torch.randperm(s.units))

    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(self.up(x)[..., self.order].relu())
        return y


class Monarch(nn.Module):
    """Two block-diagonal matrices with a transposition between."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.first, self.second = weight(4, s.width // 4, 7, fan_in=12), weight(7, 4, s.width // 4, fan_in=4)
        self.out = nn.Linear(7 * (s.width // 4), s.width)

    def forward(self, x: Tensor) -> Tensor:
        blocks = torch.einsum("btgi,gio->btgo", x.unflatten(-1, (4, -1)), self.first).transpose(-1, -2)
        y: Tensor = x + self.out(torch.einsum("btog,ogi->btoi", blocks, self.second).flatten(2).relu())
        return y


class Hyper(nn.Module):
    """A weight for each sample, made from the mean of its stream."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.make, self.units, self.down = nn.Linear(s.width, 3 * s.width), 3, nn.Linear(3, s.width)

    def forward(self, x: Tensor) -> Tensor:
        made = self.make(x.mean(1)).view(x.shape[0], self.units, -1)
        y: Tensor = x + self.down(torch.bmm(x, made.transpose(1, 2)).tanh())
        return y


class Quantised(nn.Module):
    """Weights rounded to three bits per output row at each forward, with a straight-through detour."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def rounded(self, w: Tensor) -> Tensor:
        step = w.abs().amax(1, keepdim=True) / 3
        return w + (torch.round(w / step).clamp(-3, 3) * step - w).detach()

    def forward(self, x: Tensor) -> Tensor:
        units = F.linear(x, self.rounded(self.up.weight), self.up.bias).relu()
        return x + F.linear(units, self.rounded(self.down.weight), self.down.bias)


class Packed(nn.Module):
    """int8 weights with a scale per row, as buffers."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.down = nn.Linear(s.units, s.width)
        self.register_buffer("ints", torch.randint(-7, 8, (s.units, s.width), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(s.units, 1) * 0.1)

    ints: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(F.linear(x, self.ints.to(x.dtype) * self.scale).relu())
        return y


class Orthogonal(nn.Module):
    """A Cayley transform: the stream is turned by an orthogonal matrix that a solve gives."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.skew, self.mlp = weight(s.width, s.width, fan_in=s.width), Mlp(s)

    def forward(self, x: Tensor) -> Tensor:
        skew = self.skew - self.skew.T
        one = torch.eye(skew.shape[0])
        turned: Tensor = x @ torch.linalg.solve(one + skew, one - skew)
        return turned + self.mlp(turned)


class Partly(LanguageModel):
    """Parameters that nothing reads, an embedding of which only a slice is, and a table longer than the sequence."""

    def __init__(self, s: Sizes) -> None:
        super().__init__(s, Block)
        self.unread, self.extra = nn.Linear(s.width, 3), weight(POSITIONS, s.width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[2 : ids.shape[1] + 2] + self.extra.narrow(0, 5, ids.shape[1])
        logits: Tensor = self.head(self.stream(x))
        return logits


def depthwise(enter: int, leave: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(enter, enter, 3, padding=1, groups=enter), nn.Conv2d(enter, leave, 1))


def _attention(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(s.width), Attention(s))


MODELS = (
    pair("bare_parameters", Bare),
    pair("stacked_unbind", Stacked, features),
    language("lambdas", Lambdas),
    mlp("lora_merged", Lora),
    mlp("dora_merged", Dora),
    mlp("loha_lokr", Multiplied),
    mlp("weight_norm", weight_normed),
    mlp("weight_norm_op", OldWeightNorm),
    mlp("spectral_norm", spectral_normed),
    pair("standardised_conv", lambda s: Convs(s, StandardConv, 4), image()),
    pair("standardised_conv_by_hand", lambda s: Convs(s, HandStandardConv, 2), image()),
    pair("group_norm", lambda s: Convs(s, lambda a, b: nn.Conv2d(a, b, 3, padding=1), 4), image()),
    pair("depthwise_group_norm", lambda s: Convs(s, depthwise, 1), image()),
    pair("grouped_conv", lambda s: Convs(s, lambda a, b: nn.Conv2d(a, b, 3, padding=1, groups=4), 4), image()),
    pair("all_frozen", Frozen),
    pair("tied_scaled", ScaledTied, tokens),
    pair("sinusoids", Sinusoids),
    language("channel_buffers", ChannelBuffers),
    language("channel_order", Shuffled),
    language("monarch", Monarch),
    language("hyper_network", Hyper),
    language("quantised_weights", Quantised),
    language("int8_weights", Packed),
    language("cayley", Orthogonal),
    pair("partly_read", Partly),
    language("attention_without_residual_norm", _attention),
)
