"""Recurrences over time: state-space layers, gated and delta rules, as loops and as scans."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.odd.frame import Sizes, language, mixer, weight


class Mamba(nn.Module):
    """Selective state space with a causal depthwise convolution; the scan is a loop over time."""

    def __init__(self, s: Sizes, state: int = 6, rank: int = 3) -> None:
        super().__init__()
        self.sizes = [rank, state, state]
        self.enter, self.leave = nn.Linear(s.width, 2 * s.units, bias=False), nn.Linear(s.units, s.width, bias=False)
        self.conv = nn.Conv1d(s.units, s.units, 4, groups=s.units, padding=3)
        self.select, self.step = nn.Linear(s.units, sum(self.sizes), bias=False), nn.Linear(rank, s.units)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(s.units, 1))
        self.skip = nn.Parameter(torch.ones(s.units))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.enter(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        low, write, read = self.select(u).split(self.sizes, -1)
        step = F.softplus(self.step(low))
        decay = torch.exp(-step[..., None] * self.log_a.exp())
        added = (step * u)[..., None] * write[:, :, None]
        state, outputs = torch.zeros_like(added[:, 0]), []
        for at in range(x.shape[1]):
            state = decay[:, at] * state + added[:, at]
            outputs.append((state * read[:, at, None]).sum(-1))
        y: Tensor = self.leave((torch.stack(outputs, 1) + u * self.skip) * F.silu(gate))
        return y


class Mamba2(nn.Module):
    """A scalar decay per head, computed as one masked matrix (the quadratic form), with a gated norm."""

    def __init__(self, s: Sizes, state: int = 6) -> None:
        super().__init__()
        self.heads, self.sizes = s.heads, [s.inner, s.inner, state, state, s.heads]
        self.enter, self.leave = nn.Linear(s.width, sum(self.sizes)), nn.Linear(s.inner, s.width)
        self.log_a, self.bias, self.skip = weight(s.heads), weight(s.heads), nn.Parameter(torch.ones(s.heads))
        self.gain = nn.Parameter(torch.ones(s.inner))

    def forward(self, x: Tensor) -> Tensor:
        gate, u, write, read, step = self.enter(x).split(self.sizes, -1)
        step = F.softplus(step + self.bias)
        u = F.silu(u).unflatten(-1, (self.heads, -1))
        total = (-step * self.log_a.exp()).cumsum(1)
        difference = total[:, :, None] - total[:, None]
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)[None, :, :, None]
        decay = torch.exp(difference.masked_fill(future, float("-inf")))
        y = torch.einsum("bqn,bkn,bqkh,bkh,bkhd->bqhd", read, write, decay, step, u) + u * self.skip[:, None]
        y = y.flatten(2) * F.silu(gate)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * self.gain
        out: Tensor = self.leave(y)
        return out


class Rwkv(nn.Module):
    """RWKV-4-like: token shift by padding, exponential decays per channel, numerator and denominator."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(3, 1, 1, s.width))
        self.k, self.v, self.r = (nn.Linear(s.width, s.units, bias=False) for _ in range(3))
        self.out = nn.Linear(s.units, s.width, bias=False)
        self.decay, self.first = weight(s.units), weight(s.units)

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        k, v, r = (layer(x * mix + before * (1 - mix)) for layer, mix in zip((self.k, self.v, self.r), self.mix, strict=True))
        above = below = torch.zeros_like(k[:, 0])
        fade, outputs = torch.exp(-torch.exp(self.decay)), []
        for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
            key, now = key.clamp(max=4), (self.first + key.clamp(max=4)).exp()
            outputs.append((above + now * value) / (below + now + 1e-6))
            above, below = fade * above + key.exp() * value, fade * below + key.exp()
        y: Tensor = self.out(r.sigmoid() * torch.stack(outputs, 1))
        return y


class ChannelMix(nn.Module):
    """RWKV's MLP: squared ReLU under a gate of the stream, both of a shifted stream."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mix_k, self.mix_r = nn.Parameter(torch.rand(s.width)), nn.Parameter(torch.rand(s.width))
        self.norm, self.r = nn.LayerNorm(s.width), nn.Linear(s.width, s.width)
        self.k, self.v = nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        before = nn.ZeroPad2d((0, 0, 1, -1))(x)
        k, r = x * self.mix_k + before * (1 - self.mix_k), torch.lerp(before, x, self.mix_r)
        y: Tensor = self.r(r).sigmoid() * self.v(self.k(k).relu() ** 2)
        return y


class MinGru(nn.Module):
    """Gates that depend on the input only, by a scan in logarithms: cumsum and logcumsumexp."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(s.width, 2 * s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.both(x).chunk(2, -1)
        forget = -F.softplus(gate)
        added = -F.softplus(-gate) + torch.where(hidden >= 0, (F.relu(hidden) + 0.5).log(), -F.softplus(-hidden))
        total = forget.cumsum(1)
        y: Tensor = self.out((total + (added - total).logcumsumexp(1)).exp())
        return y


class LinearRecurrence(nn.Module):
    """LRU: complex eigenvalues on the unit disc, real input and output matrices made complex."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.size, self.angle = weight(s.units), weight(s.units)
        self.b_re, self.b_im, self.c_re, self.c_im = (
            *(weight(s.units, s.width, fan_in=s.width) for _ in range(2)), *(weight(s.width, s.units, fan_in=s.units) for _ in range(2)),
        )  # fmt: skip
        self.skip = weight(s.width)

    def forward(self, x: Tensor) -> Tensor:
        poles = torch.polar(torch.exp(-self.size.exp()), self.angle)
        u = x.to(torch.complex64) @ torch.complex(self.b_re, self.b_im).T
        state, outputs = torch.zeros_like(u[:, 0]), []
        for step in u.unbind(1):
            state = poles * state + step
            outputs.append(state)
        out = torch.stack(outputs, 1) @ torch.complex(self.c_re, self.c_im).T
        return out.real + x * self.skip


class S4d(nn.Module):
    """A diagonal state space as a long convolution by FFT over time; channels stay apart."""

    def __init__(self, s: Sizes, state: int = 6) -> None:
        super().__init__()
        self.log_a, self.imaginary = weight(s.width, state), weight(s.width, state)
        self.c, self.step, self.skip = weight(s.width, state, 2, fan_in=state), weight(s.width), weight(s.width)
        self.out = nn.Linear(s.width, 2 * s.width)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        a = torch.complex(-self.log_a.exp(), self.imaginary) * F.softplus(self.step)[:, None]
        powers = torch.exp(a[..., None] * torch.arange(length))
        kernel = 2 * torch.einsum("dn,dnl->dl", torch.view_as_complex(self.c), powers).real
        mixed = torch.fft.irfft(torch.fft.rfft(x.mT, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)[
            ..., :length
        ]
        return F.glu(self.out(F.gelu(mixed.mT + x * self.skip)), -1)


class DeltaNet(nn.Module):
    """The delta rule: each step corrects what the state already says about its key."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.heads, self.qkv, self.beta = s.heads, nn.Linear(s.width, 3 * s.inner), nn.Linear(s.width, s.heads)
        self.norm, self.out = nn.RMSNorm(s.head_dim, eps=1e-6), nn.Linear(s.inner, s.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).unbind(1) for part in self.qkv(x).chunk(3, -1))
        beta, outputs = self.beta(x).sigmoid().unbind(1), []
        state = x.new_zeros(x.shape[0], self.heads, v[0].shape[-1], v[0].shape[-1])
        for at in range(x.shape[1]):
            key = F.normalize(k[at], dim=-1)
            seen = torch.einsum("bhkv,bhk->bhv", state, key)
            state = state + torch.einsum("bhk,bhv->bhkv", key, (v[at] - seen) * beta[at][..., None])
            outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[at]))
        y: Tensor = self.out(self.norm(torch.stack(outputs, 1)).flatten(2))
        return y


class Griffin(nn.Module):
    """A gated linear recurrence with block-diagonal gates, beside a gated branch."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(s.width, s.units), nn.Linear(s.width, s.units), nn.Linear(s.units, s.width)
        self.gates, self.lam = weight(2, 4, s.units // 4, s.units // 4, fan_in=s.units // 4), weight(s.units)

    def forward(self, x: Tensor) -> Tensor:
        u = self.right(x)
        r, i = torch.einsum("bthi,ghij->gbthj", u.unflatten(-1, (4, -1)), self.gates).flatten(-2).sigmoid().unbind(0)
        a = torch.exp(-2 * r * F.softplus(self.lam))
        added, state, outputs = (1 - a.square()).clamp_min(1e-6).sqrt() * i * u, torch.zeros_like(u[:, 0]), []
        for at in range(x.shape[1]):
            state = a[:, at] * state + added[:, at]
            outputs.append(state)
        y: Tensor = self.out(torch.stack(outputs, 1) * F.gelu(self.left(x)))
        return y


class Hyena(nn.Module):
    """Gated long convolutions whose filters a small network makes from positions."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.short = (
            nn.Linear(s.width, 3 * s.units),
            nn.Conv1d(3 * s.units, 3 * s.units, 3, padding=2, groups=3 * s.units),
        )
        self.filter = nn.Sequential(nn.Linear(5, 14), nn.SiLU(), nn.Linear(14, s.units, bias=False))
        self.decay, self.out = weight(s.units), nn.Linear(s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        a, b, v = self.short(self.enter(x).mT)[..., :length].chunk(3, 1)
        time = torch.arange(length) / length
        embedded = torch.stack([time, *(f(6.28 * n * time) for n in (1, 2) for f in (torch.sin, torch.cos))], -1)
        kernel = self.filter(embedded).mT * torch.exp(-self.decay.abs()[:, None] * torch.arange(length))
        spectrum = torch.fft.rfft(a * v, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        y: Tensor = self.out((b * torch.fft.irfft(spectrum, n=2 * length)[..., :length]).mT)
        return y


class Pooling(nn.Module):
    """A causal running mean and a running maximum in place of attention."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(s.width, 2 * s.units), nn.Linear(2 * s.units, s.width)

    def forward(self, x: Tensor) -> Tensor:
        mean, most = self.enter(x).chunk(2, -1)
        mean = mean.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        y: Tensor = self.out(torch.cat([mean, most.cummax(1).values], -1))
        return y


def _bidirectional(s: Sizes) -> nn.Module:
    return _Both(Mamba(s), Mamba(s))


class _Both(nn.Module):
    def __init__(self, forth: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.forth, self.back = forth, back

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.forth(x) + self.back(x.flip(1)).flip(1)
        return y


MODELS = (
    mixer("mamba", Mamba),
    mixer("mamba_bidirectional", _bidirectional),
    mixer("mamba2", Mamba2),
    mixer("rwkv", Rwkv),
    language("rwkv_channel_mix", ChannelMix),
    mixer("min_gru", MinGru),
    mixer("lru_complex", LinearRecurrence),
    mixer("s4d_fft", S4d),
    mixer("delta_net", DeltaNet),
    mixer("griffin", Griffin),
    mixer("hyena", Hyena),
    mixer("running_mean_max", Pooling),
)
