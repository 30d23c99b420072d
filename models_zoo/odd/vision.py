"""Images, and grids of positions: windows, axes, patches cut by hand, modulation, Fourier mixing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.entry import Inputs, integers, reals
from models_zoo.odd.frame import BATCH, CLASSES, LENGTH, Block, Mlp, Sizes, Stream, Tagger, features, image, mixer, pair, weight

HEIGHT, WIDTH = 7, 11  # patches of 4 in an image of 28 × 44


def attend(qkv: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Attention over the last but one dim, of a fused projection in the last."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)
    mixed = ((q @ k.mT) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
    return mixed.transpose(-2, -3).flatten(-2)


class Grid(nn.Module):
    """Patches by a convolution, blocks on (batch, height, width, channels), a mean and a head."""

    def __init__(self, s: Sizes, blocks: list[nn.Module], patch: int = 4) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, s.width, patch, patch), nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(s.width), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits


class Windows(nn.Module):
    """Swin: windows of 5 × 5, every second layer rolled, with a mask and a table of relative positions."""

    def __init__(self, s: Sizes, shift: int) -> None:
        super().__init__()
        self.heads, self.shift, size = s.heads, shift, 5
        self.norm, self.qkv, self.out = nn.LayerNorm(s.width), nn.Linear(s.width, 3 * s.inner), nn.Linear(s.inner, s.width)
        self.norm2, self.mlp = nn.LayerNorm(s.width), Mlp(s)
        self.table = weight((2 * size - 1) ** 2, s.heads, fan_in=4)
        at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        distance = (at[:, :, None] - at[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", distance[..., 0] * (2 * size - 1) + distance[..., 1])

    index: Tensor

    def cut(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 5, 5, width // 5, 5, channels).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, 25, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        bias = self.table[self.index.view(-1)].view(25, 25, -1).permute(2, 0, 1)
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        if self.shift:
            region = torch.arange(height)[:, None].ge(height - 2) * 2 + torch.arange(width).ge(width - 2)
            region = self.cut(region[None, :, :, None].float())[..., 0]
            apart = (region[:, None, :] != region[:, :, None]) * -100.0
            bias = bias + apart.repeat(batch, 1, 1)[:, None]
        y = self.out(attend(self.qkv(self.cut(y)), self.heads, bias))
        y = y.view(batch, height // 5, width // 5, 5, 5, -1).permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Axial(nn.Module):
    """Attention along rows, then along columns."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads = s.heads
        self.norms = nn.ModuleList(nn.LayerNorm(s.width) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(s.width, 3 * s.inner) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(s.inner, s.width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out[0](attend(self.qkv[0](self.norms[0](x)), self.heads))
        x = x.transpose(1, 2)
        x = x + self.out[1](attend(self.qkv[1](self.norms[1](x)), self.heads))
        return x.transpose(1, 2)


class Merge(nn.Module):
    """Swin's merging of patches: four strided slices, one cat, norm, projection."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.down, self.up = nn.LayerNorm(4 * s.width), nn.Linear(4 * s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, a::2, b::2] for b in (0, 1) for a in (0, 1)], -1)
        y: Tensor = self.up(self.down(self.norm(x)).relu())
        return y


class ByHand(nn.Module):
    """A ViT whose patches are cut by view and permute, a class token by expand and cat, positions, registers."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patches, self.token = nn.Linear(3 * 16, s.width), weight(1, 1, s.width)
        self.registers, self.positions = weight(2, s.width), weight(1, HEIGHT * WIDTH + 1, s.width, fan_in=9)
        self.stream, self.head = Stream(s, Block), nn.Linear(2 * s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.view(batch, 3, HEIGHT, 4, WIDTH, 4).permute(0, 2, 4, 1, 3, 5).reshape(batch, HEIGHT * WIDTH, 48)
        x = torch.cat([self.token.expand(batch, -1, -1), self.patches(x)], 1) + self.positions
        x = self.stream(torch.cat([self.registers.unsqueeze(0).repeat(batch, 1, 1), x], 1))
        logits: Tensor = self.head(torch.cat([x[:, 2], x[:, 3:].mean(1)], -1))
        return logits


class Unfolded(nn.Module):
    """T2T: soft patches by unfold (im2col), back to an image by fold."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.stream, self.leave = nn.Linear(3 * 49, s.width), Stream(s, Block), nn.Linear(s.width, 3 * 49)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 7, padding=2, stride=4).transpose(1, 2)
        patches = self.leave(self.stream(self.enter(patches)))
        return x + F.fold(patches.transpose(1, 2), x.shape[-2:], 7, padding=2, stride=4)


class Outlook(nn.Module):
    """VOLO's: weights for a 3 × 3 neighbourhood from the centre alone, applied to unfolded values."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.norm = s.heads, nn.LayerNorm(s.width)
        self.weights, self.values, self.out = (
            nn.Linear(s.width, s.heads * 9),
            nn.Linear(s.width, s.inner),
            nn.Linear(s.inner, s.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        normed = self.norm(x)
        values = F.unfold(self.values(normed).permute(0, 3, 1, 2), 3, padding=1).view(batch, self.heads, -1, 9, height * width)
        weights = self.weights(normed).view(batch, height * width, self.heads, 9).softmax(-1)
        mixed = torch.einsum("bnhw,bhdwn->bnhd", weights, values).flatten(2)
        y: Tensor = x + self.out(mixed).view(x.shape)
        return y


class Modulated(nn.Module):
    """DiT's adaLN-Zero: shift, scale and gate of both branches from the condition, by one linear layer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(s.width, elementwise_affine=False, eps=1e-6), s.heads
        self.qkv, self.out, self.mlp = nn.Linear(s.width, 3 * s.inner), nn.Linear(s.inner, s.width), Mlp(s)
        self.adapt = nn.Sequential(nn.SiLU(), nn.Linear(s.width, 6 * s.width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adapt(condition)[:, None].chunk(6, -1)
        x = x + gate1 * self.out(attend(self.qkv(self.norm(x) * (1 + scale1) + shift1), self.heads))
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class Diffusion(nn.Module):
    """DiT: a time and a class make the condition; the last norm is modulated too; patches are put together again."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patches, self.time = (
            nn.Conv2d(3, s.width, 4, 4),
            nn.Sequential(nn.Linear(14, s.width), nn.SiLU(), nn.Linear(s.width, s.width)),
        )
        self.labels, self.positions = nn.Embedding(CLASSES + 1, s.width), weight(1, HEIGHT * WIDTH, s.width)
        self.blocks = nn.ModuleList(Modulated(s) for _ in range(s.depth))
        self.norm, self.adapt = nn.LayerNorm(s.width, elementwise_affine=False), nn.Linear(s.width, 2 * s.width)
        self.leave = nn.Linear(s.width, 3 * 16)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        angle = time[:, None] * torch.exp(-torch.arange(7) / 2)
        condition = self.time(torch.cat([angle.cos(), angle.sin()], -1)) + self.labels(label)
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.adapt(F.silu(condition)).chunk(2, 1)
        x = self.leave(self.norm(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))
        x = x.view(batch, height // 4, width // 4, 4, 4, 3)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(batch, 3, height, width)


class DoubleStream(nn.Module):
    """MMDiT: two streams of different width, one attention over both; a query norm each."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        other = s.width - 10
        self.heads, self.norms = s.heads, nn.ModuleList(nn.LayerNorm(width) for width in (s.width, other))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * s.inner) for width in (s.width, other))
        self.out = nn.ModuleList(nn.Linear(s.inner, width) for width in (s.width, other))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        fused = torch.cat([layer(norm(part)) for layer, norm, part in zip(self.qkv, self.norms, (x, y), strict=True)], 1)
        a, b = attend(fused, self.heads).split([x.shape[1], y.shape[1]], 1)
        return x + self.out[0](a), y + self.out[1](b)


class TwoModalities(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patches, self.words = nn.Conv2d(3, s.width, 4, 4), nn.Embedding(61, s.width - 10)
        self.blocks, self.head = nn.ModuleList(DoubleStream(s) for _ in range(s.depth)), nn.Linear(2 * s.width - 10, CLASSES)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        x, y = self.patches(x).flatten(2).mT, self.words(ids)
        for block in self.blocks:
            x, y = block(x, y)
        logits: Tensor = self.head(torch.cat([x.mean(1), y.amax(1)], -1))
        return logits


class FourierMixing(nn.Module):
    """FNet: the real part of a transform over time; channels stay apart."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(s.width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=1).real * self.scale * x.shape[1] ** -0.5


class FullFourierMixing(nn.Module):
    """FNet as published: over channels and time, so that channels mix."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(s.width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho").real * self.scale


class GlobalFilter(nn.Module):
    """GFNet: a learned complex filter over a transformed grid."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm, self.filter, self.mlp = nn.LayerNorm(s.width), weight(HEIGHT, WIDTH // 2 + 1, s.width, 2, fan_in=2), Mlp(s)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.norm(x), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.filter)
        return x + self.mlp(torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho"))


class Mixer(nn.Module):
    """MLPs over time and over channels."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(s.width), nn.LayerNorm(s.width), Mlp(s)
        self.over_time = nn.Sequential(nn.Linear(LENGTH, s.units // 2), nn.GELU(), nn.Linear(s.units // 2, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_time(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class SpatialGate(nn.Module):
    """gMLP: half of the units gate the other half, mixed over time by a parameter."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(s.width), nn.LayerNorm(s.units)
        self.up, self.down = nn.Linear(s.width, 2 * s.units), nn.Linear(s.units, s.width)
        self.mix, self.bias = weight(LENGTH, LENGTH, fan_in=LENGTH), nn.Parameter(torch.ones(LENGTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.gelu(self.up(self.norm1(x))).chunk(2, -1)
        y: Tensor = x + self.down(a * (torch.einsum("btu,ts->bsu", self.norm2(b), self.mix) + self.bias))
        return y


class Deformed(nn.Module):
    """Values sampled at places that the stream itself chooses (grid_sample)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.offset, self.value, self.out = nn.Linear(s.width, 2), nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x).permute(0, 3, 1, 2)
        start = F.affine_grid(torch.eye(2, 3).expand(x.shape[0], -1, -1), list(value.shape), align_corners=False)
        seen = F.grid_sample(value, start + 0.2 * self.offset(x).tanh(), align_corners=False)
        y: Tensor = x + self.out(seen.permute(0, 2, 3, 1))
        return y


class Squeezed(nn.Module):
    """A depthwise convolution, squeeze-and-excitation, global response norm, channels last and first in turn."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(s.width, s.width, 5, padding=2, groups=s.width), nn.LayerNorm(s.width)
        self.up, self.down = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)
        self.squeeze, self.excite = nn.Conv2d(s.width, 7, 1), nn.Conv2d(7, s.width, 1)
        self.gain, self.bias = nn.Parameter(torch.ones(1, 1, 1, s.units)), nn.Parameter(torch.zeros(s.units))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.permute(0, 3, 1, 2))
        y = y * F.hardsigmoid(self.excite(F.hardswish(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = F.gelu(self.up(self.norm(y.permute(0, 2, 3, 1))))
        energy = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        y = y + self.gain * y * (energy / (energy.mean(-1, keepdim=True) + 1e-6)) + self.bias
        out: Tensor = x + self.down(y)
        return out


class Resized(nn.Module):
    """Positions of a coarse grid brought to this one by bicubic interpolation; rotary in two directions by outer sums."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(3, s.width, 4, 4), weight(1, 5, 5, s.width)
        self.rows, self.columns = weight(HEIGHT, 1, s.width), weight(1, WIDTH, s.width)
        self.stream, self.head = Stream(s, Block), nn.Linear(s.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        table = F.interpolate(self.positions.permute(0, 3, 1, 2), size=x.shape[-2:], mode="bicubic", align_corners=False)
        x = (x + table).permute(0, 2, 3, 1) + (self.rows + self.columns)
        logits: Tensor = self.head(self.stream(x.flatten(1, 2))[:, 0])
        return logits


def diffusion() -> Inputs:
    return (reals(BATCH, 3, 28, 44), reals(BATCH, seed=1).abs(), integers(CLASSES + 1, BATCH)), {}


def two_modalities() -> Inputs:
    return (reals(BATCH, 3, 28, 44), integers(61, BATCH, 23)), {}


MODELS = (
    pair("swin_windows", lambda s: Grid(s, [Windows(s, 2 * (at % 2)) for at in range(s.depth)]), image(40, 60)),
    pair("axial", lambda s: Grid(s, [Axial(s) for _ in range(s.depth)]), image()),
    pair("patch_merging", lambda s: Grid(s, [Merge(s), Axial(s), Merge(s)]), image(80, 112)),
    pair("patches_by_hand_cls_mean", ByHand, image()),
    pair("patches_unfold_fold", Unfolded, image()),
    pair("outlook", lambda s: Grid(s, [Outlook(s) for _ in range(s.depth)]), image()),
    pair("dit_ada_norm", Diffusion, diffusion),
    pair("double_stream", TwoModalities, two_modalities),
    mixer("fourier_time", FourierMixing),
    mixer("fourier_full", FullFourierMixing),
    pair("global_filter", lambda s: Grid(s, [GlobalFilter(s) for _ in range(s.depth)]), image()),
    pair("mlp_mixer", lambda s: Tagger(s, Mixer), features),
    pair("spatial_gate", lambda s: Tagger(s, SpatialGate), features),
    pair("deformed_sampling", lambda s: Grid(s, [Deformed(s) for _ in range(s.depth)]), image()),
    pair("squeeze_excite_grn", lambda s: Grid(s, [Squeezed(s) for _ in range(s.depth)]), image()),
    pair("positions_resized", Resized, image()),
)
