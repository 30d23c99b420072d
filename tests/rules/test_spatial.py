"""Channels are factors; space and kernels are positional. The notation is explained in `notation.py`."""

from __future__ import annotations

import torch

from tests.rules.notation import check

aten = torch.ops.aten

test_convolutions = check(
    [
        ("conv1d", "b i [s], o i [k], o -> b o [t] | k=2"),
        ("conv2d", "b i [h] [w], o i [k] [l] -> b o [y] [x] | k=2 l=2"),
        ("conv3d", "b i [d] [h] [w], o i [k] [k2] [k3] -> b o [z] [y] [x] | k=2 k2=2 k3=2"),
        ("conv1d", "b (g i) [s], (g o) i [k], (g o) -> b (g o) [t] | k=2", lambda x, w, b, n: aten.conv1d(x, w, b, groups=n.g)),
        ("conv1d", "b c [s], c 1 [k] -> b c [t] | k=2", lambda x, w, n: aten.conv1d(x, w, groups=n.c)),
        ("conv1d", "b g [s], (g m) 1 [k] -> b (g m) [t] | k=2", lambda x, w, n: aten.conv1d(x, w, groups=n.g)),
        ("conv_transpose1d", "b i [s], i o [k], o -> b o [t] | k=2"),
        (
            "conv_transpose2d",
            "b (g i) [h] [w], (g i) o [k] [l] -> b (g o) [y] [x] | k=2 l=2",
            lambda x, w, n: aten.conv_transpose2d(x, w, None, [1, 1], [0, 0], [0, 0], n.g),
        ),
        ("conv1d", "b i s, o i 1, o -> b o s"),
        ("conv1d", "b i [s], o i 1 -> b o [t]", lambda x, w: aten.conv1d(x, w, None, [2])),
        (
            "_convolution",
            "b i [s], o i [k], o -> b o [t] | k=2",
            lambda x, w, b: aten._convolution(x, w, b, [1], [0], [1], False, [0], 1, False, False, False, False),
        ),
        (
            "convolution",
            "b i [h] [w], o i [k] [l], o -> b o [y] [x] | k=2 l=2",
            lambda x, w, b: aten.convolution(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        ),
    ]
)

test_windows = check(
    [
        ("col2im", "b (c [k]) [n] -> b c [h] [w] | n=6 k=4", lambda x: aten.col2im(x, [3, 4], [2, 2], [1, 1], [0, 0], [1, 1])),
        ("grid_sampler", "b c [h] [w], b y x [k] -> b c y x | k=2", lambda x, grid: aten.grid_sampler(x, grid, 0, 0, False)),
        ("max_pool1d", "b c [s] -> b c [t]", lambda x: aten.max_pool1d(x, [2])),
        ("max_pool2d", "b c [h] [w] -> b c [y] [x]", lambda x: aten.max_pool2d(x, [2, 2])),
        ("max_pool2d_with_indices", "b c [h] [w] -> b c [y] [x], b c [y] [x]", lambda x: aten.max_pool2d_with_indices(x, [2, 2])),
        ("avg_pool2d", "b c [h] [w] -> b c [y] [x]", lambda x: aten.avg_pool2d(x, [2, 2])),
        ("max_pool1d_with_indices", "b c [s] -> b c [t], b c [t]", lambda x: aten.max_pool1d_with_indices(x, [2])),
        ("max_pool3d_with_indices", "b [c] [h] [w] -> b [z] [y] [x], b [z] [y] [x]", dict(kernel_size=[2])),
        ("adaptive_avg_pool1d", "b c s -> b c 1", lambda x: aten.adaptive_avg_pool1d(x, [1])),
        ("adaptive_avg_pool2d", "b c h w -> b c 1 1", lambda x: aten.adaptive_avg_pool2d(x, [1, 1])),
        ("adaptive_avg_pool2d", "b c [h] [w] -> b c [y] [x]", lambda x: aten.adaptive_avg_pool2d(x, [2, 3])),
        ("upsample_nearest2d", "b c [h] [w] -> b c [y] [x]", lambda x: aten.upsample_nearest2d(x, [14, 22])),
        ("upsample_bilinear2d", "b c [h] [w] -> b c [y] [x]", lambda x: aten.upsample_bilinear2d(x, [14, 22], False)),
        ("upsample_nearest1d", "b c [s] -> b c [t]", dict(output_size=[14])),
        ("_upsample_nearest_exact1d", "b c [s] -> b c [t]", dict(output_size=[14])),
        ("upsample_linear1d", "b c [s] -> b c [t]", dict(output_size=[14], align_corners=False)),
        ("_upsample_nearest_exact2d", "b c [h] [w] -> b c [y] [x]", dict(output_size=[14, 22])),
        ("upsample_bicubic2d", "b c [h] [w] -> b c [y] [x]", dict(output_size=[14, 22], align_corners=False)),
        ("_upsample_bicubic2d_aa", "b c [h] [w] -> b c [y] [x]", dict(output_size=[4, 6], align_corners=False)),
        ("_adaptive_avg_pool2d", "b c [h] [w] -> b c [y] [x]", dict(output_size=[2, 3])),
        ("upsample_nearest3d", "b c [d] [h] [w] -> b c [z] [y] [x]", dict(output_size=[4, 6, 8])),
        ("upsample_trilinear3d", "b c [d] [h] [w] -> b c [z] [y] [x]", dict(output_size=[4, 6, 8], align_corners=False)),
        ("_adaptive_avg_pool3d", "b [c] [h] [w] -> b [z] [y] [x]", dict(output_size=[2, 3, 4])),
        ("unfold", "a [s] -> a [t] [k]", lambda x: aten.unfold(x, 1, 3, 1)),
        ("im2col", "b c [h] [w] -> b (c [k]) [t]", lambda x: aten.im2col(x, [3, 3], [1, 1], [0, 0], [1, 1])),
        ("pixel_shuffle", "b (c [r]) [h] [w] -> b c [y] [x] | r=4", lambda x: aten.pixel_shuffle(x, 2)),
    ]
)
