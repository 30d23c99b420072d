"""Ops over space: convolution, pooling, resampling. Channels are factors; space and kernels are positional."""

from __future__ import annotations

from collections.abc import Sequence

from graphclone import axes as algebra
from graphclone.axes import Axis, product
from graphclone.rules.op import Axes, Op, as_int, rule


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", mixing=True)
def convolution(op: Op) -> Axes:
    """`b (g i) …, (g o) i … -> b (g o) …`"""
    if op.get("transposed"):
        return conv_transpose(op)
    groups = as_int(op["groups"])
    g, i = algebra.split(op.axes("input")[-_rank(op) - 1], op.axes("weight")[1].size)
    g2, o = algebra.split(op.axes("weight")[0], op.axes("weight")[0].size // groups)
    return _convolved(op, (g, g2), (i, op.axes("weight")[1], 1), o)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(op: Op) -> Axes:
    """`b (g i) …, (g i) o … -> b (g o) …`"""
    groups, weight = as_int(op["groups"]), op.axes("weight")
    g, i = algebra.split(op.axes("input")[-_rank(op) - 1], weight[0].size // groups)
    g2, i2 = algebra.split(weight[0], weight[0].size // groups)
    return _convolved(op, (g, g2), (i, i2, 0), weight[1])


def _rank(op: Op) -> int:
    return len(op.axes("weight")) - 2


def _convolved(op: Op, groups: tuple[Axis, Axis], inputs: tuple[Axis, Axis, int], out: Axis) -> Axes:
    rank = _rank(op)
    group = op.unify(*groups)
    contracted = op.unify(inputs[0], inputs[1])
    op.contract(contracted, ("input", -rank - 1), ("weight", inputs[2]))
    op.sizes("groups", group)
    channels = product(algebra.find(group), algebra.find(out))
    if op.has("bias"):
        channels = op.unify(channels, op.axes("bias")[0])
    axes, shape = op.axes("input"), op.shape()
    for axis in op.axes("weight")[2:]:
        op.freeze(axis, "positions of a kernel")
    pointwise = all(axis.size == 1 for axis in op.axes("weight")[2:]) and shape[-rank:] == tuple(a.size for a in axes[-rank:])
    space = axes[-rank:] if pointwise else _space(op, axes[-rank:], shape[-rank:], "convolved")
    return (*axes[: -rank - 1], algebra.find(channels), *space)


def _space(op: Op, axes: Sequence[Axis], shape: Sequence[int], why: str) -> Axes:
    return tuple(op.positional(size, why) for axis, size in zip(axes, shape, strict=True) if op.freeze(axis, why) or True)


def window(rank: int, *names: str, results: int = 1) -> None:
    """Positional in the last `rank` dims, elementwise in the others; a result of one position averages or picks from all."""

    @rule(*names)
    def slide(op: Op) -> Axes | list[Axes]:
        first = op.first
        axes = op.axes(first)
        shape = op.shape(0 if results > 1 else None)
        whole = "adaptive" in str(op.node.target) and results == 1
        space: list[Axis] = []
        for axis, size in zip(axes[-rank:], shape[-rank:], strict=True):
            if whole and all(each == 1 for each in shape[-rank:]):
                op.contract(axis)
                op.normalise(axis)
                space.append(algebra.UNIT)
            else:
                space += _space(op, [axis], [size], "pooled or resampled")
        one = (*axes[:-rank], *space)
        return one if results == 1 else [one] * results


window(
    1, "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_linear1d", "_upsample_nearest_exact1d"
)
window(2, "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d")
window(2, "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d")
window(3, "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d", "_adaptive_avg_pool3d")
window(1, "max_pool1d_with_indices", "adaptive_max_pool1d", results=2)
window(2, "max_pool2d_with_indices", "adaptive_max_pool2d", results=2)
window(3, "max_pool3d_with_indices", "adaptive_max_pool3d", results=2)


@rule("unfold")
def unfold(op: Op) -> Axes:
    """Sliding windows of one dim, each of them a new last dim."""
    axes, shape = list(op.axes("self")), op.shape()
    if not axes:
        return tuple(op.positional(size) for size in shape)
    dim = op.dim("dimension", len(axes))
    op.freeze(axes[dim], "read in windows")
    axes[dim] = op.positional(shape[dim], "read in windows")
    return (*axes, op.positional(shape[-1], "positions in a window"))


@rule("im2col")
def im2col(op: Op) -> Axes:
    """`b c h w -> b (c kernel) windows`"""
    *lead, c, h, w = op.axes("self")
    rows, columns = op.shape()[-2:]
    _space(op, (h, w), (1, 1), "read in windows")
    return (*lead, product(c, op.positional(rows // c.size, "positions in a window")), op.positional(columns, "read in windows"))


@rule("col2im")
def col2im(op: Op) -> Axes:
    """`b (c kernel) windows -> b c h w`"""
    *lead, rows, windows = op.axes("self")
    shape = op.shape()
    c, kernel = algebra.split(rows, rows.size // shape[-3])
    for axis in (kernel, windows):
        op.freeze(axis, "windows are added up")
    return (*lead, c, *(op.positional(size, "windows are added up") for size in shape[-2:]))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(op: Op) -> Axes:
    """`b c [h] [w], b y x [2] -> b c y x`"""
    axes, (b, *places, coordinates) = op.axes("input"), op.axes("grid")
    for axis in (*axes[2:], coordinates):
        op.freeze(axis, "sampled at coordinates")
    return (op.unify(axes[0], b), axes[1], *places)


@rule("pixel_shuffle")
def pixel_shuffle(op: Op) -> Axes:
    """`b (c r r) h w -> b c (h r) (w r)`, and all but c positional."""
    *lead, channels, h, w = op.axes("self")
    r = as_int(op["upscale_factor"])
    c, inner = algebra.split(channels, r * r)
    op.freeze(inner, "becomes space")
    shape = op.shape()
    return (*lead, c, *_space(op, (h, w), shape[-2:], "interleaved with channels"))
