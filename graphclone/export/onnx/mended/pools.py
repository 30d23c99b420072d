"""Pools whose windows are as many as was asked for, and so of unequal sizes: one by one, where the sizes are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


def _windows(size: int, count: int) -> Iterator[tuple[int, int]]:
    """The start and the length of each."""
    return ((i * size // count, -(-(i + 1) * size // count) - i * size // count) for i in range(count))


def _known(tensor: Tensor, wanted: Sequence[int]) -> bool:
    return all(isinstance(size, int) for size in (*tensor.shape[-len(wanted) :], *wanted))


@instead_of(aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default)
def means(tensor: Tensor, wanted: Sequence[int]) -> Any:
    """Dim after dim: of windows of equal sizes, a mean of means is the mean."""
    if not _known(tensor, wanted):
        return NotImplemented
    for dim, count in enumerate(wanted, -len(wanted)):
        windows = (tensor.narrow(dim, start, size) for start, size in _windows(tensor.shape[dim], count))
        tensor = torch.cat([each.mean(dim, keepdim=True) for each in windows], dim)
    return tensor


@instead_of(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def largest(tensor: Tensor, wanted: Sequence[int]) -> Any:
    """Dim after dim, the last one first, so that of equal values the first one counts."""
    if not _known(tensor, wanted):
        return NotImplemented
    sizes = tensor.shape[-len(wanted) :]
    places = torch.arange(sizes.numel(), device=tensor.device).reshape(sizes).expand(tensor.shape)
    for dim, count in reversed(list(enumerate(wanted, -len(wanted)))):
        found = []
        for start, size in _windows(tensor.shape[dim], count):
            best, where = tensor.narrow(dim, start, size).max(dim, keepdim=True)
            found.append((best, places.narrow(dim, start, size).gather(dim, where)))
        tensor, places = (torch.cat(each, dim) for each in zip(*found, strict=True))
    return tensor, places
