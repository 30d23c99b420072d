"""Convolution, pooling, resampling, windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.programs.moves.rearrange import divisors
from tests.programs.world import Unfit, World, move


@move(2)
def convolve(w: World, x: Tensor) -> Tensor:
    """In one or two dims of space; dense, grouped or depthwise; to as many channels or others."""
    if not 3 <= x.dim() <= 4:
        raise Unfit
    rank, c = x.dim() - 2, x.shape[1]
    groups = w.rng.choice((1, c, w.rng.choice([1, *divisors(c)])))
    out = w.rng.choice((c, c * 2, groups * w.rng.choice((1, 2, 3))))
    k = w.rng.choice((1, 2, 3))
    padding = w.rng.choice((0, k // 2))
    weight = w.parameter(out, c // groups, *(k,) * rank)
    bias = w.parameter(out) if w.coin() else None
    call = (F.conv1d, F.conv2d)[rank - 1]
    if w.coin(0.1):
        return call(x, weight, bias, padding="same", groups=groups)
    return call(x, weight, bias, stride=w.rng.choice((1, 1, 2)), padding=padding, groups=groups)


@move(0.5)
def convolve_back(w: World, x: Tensor) -> Tensor:
    if not 3 <= x.dim() <= 4:
        raise Unfit
    rank, c = x.dim() - 2, x.shape[1]
    groups = w.pick([1, c, *divisors(c)])
    weight = w.parameter(c, w.rng.choice((1, 2, 3)), *(2,) * rank)
    call = (F.conv_transpose1d, F.conv_transpose2d)[rank - 1]
    return call(x, weight, stride=w.rng.choice((1, 2)), groups=groups)


@move(1)
def pool(w: World, x: Tensor) -> Tensor:
    options = {
        3: [
            lambda: F.avg_pool1d(x, 2),
            lambda: F.max_pool1d(x, 2, 1),
            lambda: F.adaptive_avg_pool1d(x, 1),
            lambda: F.adaptive_avg_pool1d(x, 2),
            lambda: F.interpolate(x, scale_factor=2, mode="nearest"),
            lambda: F.interpolate(x, size=5, mode="linear"),
            lambda: F.adaptive_max_pool1d(x, 1),
            lambda: F.lp_pool1d(x, 2.0, 2),
        ],
        4: [
            lambda: F.avg_pool2d(x, 2),
            lambda: F.max_pool2d(x, 2, 1),
            lambda: F.adaptive_avg_pool2d(x, 1),
            lambda: F.adaptive_avg_pool2d(x, (1, 2)),
            lambda: F.interpolate(x, scale_factor=2.0, mode="nearest"),
            lambda: F.interpolate(x, size=(3, 4), mode="bilinear"),
            lambda: F.interpolate(x, size=(3, 4), mode="bicubic", align_corners=True),
            lambda: F.adaptive_max_pool2d(x, 1),
        ],
    }
    return w.pick(options.get(x.dim(), []))()


@move(0.7)
def windows(w: World, x: Tensor) -> Tensor:
    dim = w.dim(x, 2)
    options = [lambda: x.unfold(dim, 2, w.rng.choice((1, 2)))]
    if x.dim() == 4:
        options += [
            lambda: F.unfold(x, 2),
            lambda: F.unfold(x, (1, 2), stride=2),
            lambda: F.pixel_shuffle(x, 2),
            lambda: F.pixel_unshuffle(x, 2),
            lambda: F.channel_shuffle(x, w.pick(divisors(x.shape[1]))),
        ]
    return w.pick(options)()


@move(0.5)
def patches(w: World, x: Tensor) -> Tensor:
    """`b c (h p) (v q) -> b (h v) (c p q)`"""
    if x.dim() != 4:
        raise Unfit
    b, c, height, width = x.shape
    p, q = w.pick([1, *divisors(height)]), w.pick([1, *divisors(width)])
    cut = x.reshape(b, c, height // p, p, width // q, q).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(b, height // p * (width // q), c * p * q)


@move(0.3)
def sample_grid(w: World, x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise Unfit
    grid = torch.tanh(w.parameter(x.shape[0], 2, 3, 2))
    return F.grid_sample(x, grid, align_corners=False)
