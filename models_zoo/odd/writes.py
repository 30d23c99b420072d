"""In-place writes, wrappers, casts, custom ops: what is odd is how it is written, not what it computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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
    mlp,
    pair,
    weight,
)


@torch.library.custom_op("graphclone_zoo::bend", mutates_args=())
def bend(x: Tensor, slope: float) -> Tensor:
    """Elementwise, but nobody is told."""
    return torch.where(x > 0, x, x * slope) + 0.0


@bend.register_fake
def _(x: Tensor, slope: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("graphclone_zoo::turn", mutates_args=())
def turn(x: Tensor, by: int) -> Tensor:
    """Moves elements: a roll of the last axis."""
    return torch.roll(x, by, -1).clone()


@turn.register_fake
def _(x: Tensor, by: int) -> Tensor:
    return torch.empty_like(x)


class SliceWrites(nn.Module):
    """Slices of features and of positions written in place."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).clone()
        hidden[..., -4:] *= 2
        hidden[..., :7] = hidden[..., :7].tanh()
        hidden[:, :3] += 1
        hidden[:, 0] = hidden[:, 1]
        y: Tensor = self.down(hidden)
        return y


class ClassWrite(nn.Module):
    """The first position overwritten by a class token."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.token = nn.Linear(FEATURES, s.width), weight(s.width)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x[:, 0] = self.token
        x[:, 1, :] = x[:, 2, :] * 0.5
        logits: Tensor = self.head(self.stream(x)[:, 0])
        return logits


class SelectScatter(nn.Module):
    """The functional forms: slice_scatter and select_scatter, masked_scatter's cousin where, index_copy."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        units = self.up(x)
        units = torch.slice_scatter(units, units[..., 3:9].relu(), dim=-1, start=3, end=9)
        units = torch.select_scatter(units, units[:, 2] * 0.5, dim=1, index=1)
        units = units.index_copy(1, torch.tensor([4, 6]), units[:, 7:9])
        y: Tensor = self.down(units)
        return y


class PutWrites(nn.Module):
    """index_put_, masked_fill_, index_fill_, scatter_ and addcmul_ on features."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down, self.gain = (
            nn.Linear(s.width, s.units),
            nn.Linear(s.units, s.width),
            nn.Parameter(torch.ones(s.units)),
        )

    def forward(self, x: Tensor) -> Tensor:
        units = self.up(x)
        units.masked_fill_(units < -1, -1.0)
        units[:, [1, 3]] = units[:, [3, 1]]
        units.index_fill_(1, torch.tensor([5]), 0.5)
        units.addcmul_(units, self.gain, value=0.5)
        units.mul_(0.7).clamp_(max=3)
        y: Tensor = self.down(units)
        return y


class InPlace(nn.Module):
    """relu_, add_, copy_ into a fresh buffer, out of one view of another."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(s.width), Attention(s)
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        buffer = torch.empty_like(x)
        buffer.copy_(self.norm(x))
        out = self.attention(buffer)
        out.add_(x)
        units = F.relu_(self.up(out))
        units.view(*units.shape[:2], 2, -1)[:, :, 1].mul_(0.5)
        return out.add_(self.down(units), alpha=0.5)


class Preallocated(nn.Module):
    """Heads computed one after the other, each written into its place of a fresh tensor."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.head_dim, self.out = s.head_dim, nn.Linear(4 * s.head_dim, s.width)
        self.enter = nn.ModuleList(nn.Linear(s.width, s.head_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.new_empty(*x.shape[:2], 4 * self.head_dim)
        for at, layer in enumerate(self.enter):
            parts[..., at * self.head_dim : (at + 1) * self.head_dim] = layer(x).cumsum(1).tanh()
        y: Tensor = self.out(parts)
        return y


class Autocast(nn.Module):
    """Islands: autocast off around a norm in float32 and around the MLP, and a no_grad part between."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.mlp, self.gate = nn.LayerNorm(s.width), Mlp(s), nn.Linear(s.width, s.width)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            normed = self.norm(x.float())
        with torch.no_grad():
            gate = self.gate(normed).sigmoid()
        with torch.autocast("cpu", enabled=False):
            return x + (self.mlp(normed) * gate).to(x.dtype)


class HalfAutocast(nn.Module):
    """Autocast to bfloat16 around the MLP."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(s.width), Mlp(s)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            added = self.mlp(self.norm(x))
        return x + added


class Casts(nn.Module):
    """double for a softmax, bfloat16 for a product, back and forth."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        units = self.up(x).double()
        units = units.softmax(-1).type_as(x) * units.shape[-1]
        y: Tensor = self.down(units.to(torch.float64).to(x.dtype))
        return x + y


class Checkpointed(nn.Module):
    """Activation checkpointing around a block."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.block = Block(s)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return y


class CustomOp(nn.Module):
    """An op that no rule knows, between two layers."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(bend(self.up(x), 0.1))
        return y


class MovingOp(CustomOp):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(turn(self.up(x), 3))
        return y


class Interpolated(nn.Module):
    """Odd but harmless spellings: einsum with ellipsis, tensordot, addmm, baddbmm, inner, outer, mv, bilinear einsum, cumprod."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.a, self.b = weight(s.width, s.units, fan_in=s.width), weight(s.units, 4, 6)
        self.c, self.bias = weight(4, 6, s.width, fan_in=24), weight(s.width)
        self.v = weight(s.width, fan_in=s.width)

    def forward(self, x: Tensor) -> Tensor:
        units = torch.einsum("...d,du->...u", x, self.a).sigmoid()
        parts = torch.tensordot(units, self.b, dims=1).tanh()
        y = torch.addmm(self.bias, parts.flatten(2).flatten(0, 1), self.c.flatten(0, 1)).view_as(x)
        scores = torch.mv(x.flatten(0, 1), self.v).view(x.shape[:2])
        return torch.baddbmm(y, scores[..., None].softmax(1), torch.outer(scores[:, 0], self.v)[:, None])


class Halves(nn.Module):
    """Unequal pieces: split by sizes, tensor_split, narrow, unbind, movedim, stack, roll, flip."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.sizes = [s.units // 4, s.units // 2, s.units // 4 + 3]
        self.up, self.down = nn.Linear(s.width, sum(self.sizes)), nn.Linear(2 * (s.units // 4) + 3 + s.units // 2, s.width)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.up(x).split(self.sizes, -1)
        left, right = b.tensor_split(2, -1)
        y: Tensor = x + self.down(torch.cat([c.relu(), torch.hstack([left.mT, right.mT]).mT.tanh(), a.flip(1)], -1))
        return y


class Strided(nn.Module):
    """as_strided, expand_as, repeat, tile and unfold over channels: views that a rule may not know."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.up, self.down, self.extra = (
            nn.Linear(s.width, s.units),
            nn.Linear(s.units * 2 + s.units // 2, s.width),
            weight(s.units // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        units = self.up(x).contiguous()
        shape, stride = (*x.shape[:2], units.shape[-1] // 2), (units.stride(0), units.stride(1), 2)
        y: Tensor = self.down(torch.cat([units.tile(1, 1, 2), units.as_strided(shape, stride) * self.extra], -1))
        return x + y


class Branches(LanguageModel):
    """Sizes read from shapes, None for an argument, a keyword, an integer list; numbers that a Python loop computes."""

    def forward(self, ids: Tensor, *, shift: int = 2, mask: Tensor | None = None) -> Tensor:
        x = self.tokens(ids) + self.positions[shift : shift + ids.size(1)]
        if mask is not None:
            x = x * mask[..., None]
        scale = sum(1 / n for n in range(1, x.shape[-1] // x.shape[-1] + 3))
        logits: Tensor = self.head(self.stream(x * scale)).view(-1, VOCABULARY).view(*ids.shape, -1)
        return logits


MODELS = (
    mlp("slice_writes", SliceWrites),
    pair("class_token_write", ClassWrite, features),
    mlp("scatter_of_slices", SelectScatter),
    mlp("put_writes", PutWrites),
    language("in_place", InPlace),
    mlp("preallocated", Preallocated),
    language("autocast_islands", Autocast),
    language("autocast_bfloat16", HalfAutocast),
    language("casts", Casts),
    language("checkpointed", Checkpointed),
    mlp("custom_op", CustomOp),
    mlp("custom_op_moving", MovingOp),
    mlp("odd_products", Interpolated),
    language("unequal_pieces", Halves),
    language("strided_views", Strided),
    pair("branches", lambda s: Branches(s, Block)),
)
