"""Positions: what is sought, sorted, looked up and written, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._python_dispatch import _disable_current_modes

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


@instead_of(aten.bucketize.Tensor)
def bucketize(values: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries lie below: ONNX cannot search."""
    values = values.unsqueeze(-1)
    below = boundaries.le(values) if right else boundaries.lt(values)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


@instead_of(aten.searchsorted.Tensor)
def search(
    boundaries: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """The same, in boundaries of each row's own."""
    if sorter is not None:
        return NotImplemented
    rows = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2)
    return bucketize(values, rows, out_int32=out_int32, right=right or side == "right")


@instead_of(aten.repeat_interleave.self_Tensor)
def repeated(tensor: Tensor, repeats: Tensor, dim: int | None = None, *, output_size: int | None = None) -> Any:
    """Each of a row a number of times, where it is known how many that are: the exporter takes no such number."""
    if output_size is None:
        return NotImplemented
    if dim is None:
        tensor, dim = tensor.flatten(), 0
    ends = repeats.expand(tensor.shape[dim]).cumsum(0)
    place = torch.arange(output_size, device=tensor.device)
    return tensor.index_select(dim, (ends <= place[:, None]).sum(-1))


@instead_of(aten.isin.Tensor_Tensor)
def isin(values: Tensor, among: Tensor, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each value is equal to one of some others: torch would search them, which ONNX cannot."""
    found = (values.unsqueeze(-1) == among.reshape(-1)).any(-1)
    return found.logical_not() if invert else found


def _up_to(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tensor with this dim last and one before it, in which each position looks at all; the positions; and which come no later."""
    moved = tensor.movedim(dim, -1).unsqueeze(-2)
    place = torch.arange(moved.shape[-1], device=tensor.device)
    return moved, place, place <= place[:, None]


def _so_far(tensor: Tensor, dim: int, worst: float, best: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """The best so far, and where: ONNX has running sums only. Every position looks at all that come no later."""
    if not tensor.dim():
        return tensor.clone(), torch.zeros_like(tensor, dtype=torch.int64)
    moved, place, earlier = _up_to(tensor, dim)
    found = best(torch.where(earlier, moved, worst), -1)
    where = torch.where(earlier & (moved == found.unsqueeze(-1)), place, 0).amax(-1)  # of equal ones the last
    return found.movedim(-1, dim), where.movedim(-1, dim)


@instead_of(aten.cumprod.default)
def running_product(tensor: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Every position multiplies all that come no later."""
    if not tensor.dim():
        return NotImplemented
    if dtype is not None or not tensor.is_floating_point():
        tensor = tensor.to(dtype or torch.int64)
    moved, _, earlier = _up_to(tensor, dim)
    return torch.where(earlier, moved, 1).prod(-1).movedim(-1, dim)


def _range(tensor: Tensor) -> Any:
    return (torch.finfo if tensor.is_floating_point() else torch.iinfo)(tensor.dtype)


@instead_of(aten.cummax.default)
def running_maximum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _so_far(tensor, dim, _range(tensor).min, torch.amax)


@instead_of(aten.cummin.default)
def running_minimum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _so_far(tensor, dim, _range(tensor).max, torch.amin)


@instead_of(aten.sort.stable)
def sort(tensor: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """ONNX has one way of sorting, in which what comes first stays first."""
    found: tuple[Tensor, Tensor] = aten.sort.default(tensor, dim, descending)
    return found


@instead_of(aten.argsort.default, aten.argsort.stable)
def argsort(tensor: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    found: Tensor = aten.sort.default(tensor, dim, descending)[1]
    return found


@instead_of(aten.index_put_.default)
def put_in_place(tensor: Tensor, *args: Any, **options: Any) -> Any:
    found = put(tensor, *args, **options)
    return found if found is NotImplemented else tensor.copy_(found)


@instead_of(aten.index_put.default)
def put(tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """`tensor[:, mask] = values`: the exporter knows masks over the first dims only. Each place looks up which value it gets."""
    *before, mask = indices
    if (
        not before
        or any(each is not None for each in before)
        or mask is None
        or mask.dtype != torch.bool
        or mask.dim() > 1
        or accumulate
    ):
        return NotImplemented
    dim = len(before) - tensor.dim()  # of the mask, from the last one on
    several = values.shape[dim] if values.dim() >= -dim else 1
    if not isinstance(several, int) or several != 1:
        values = values.index_select(dim, (mask.cumsum(0) - 1).clamp(min=0))
    return torch.where(mask.reshape(-1, *[1] * (-dim - 1)), values, tensor)


@instead_of(aten.as_strided.default)
def strided(tensor: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Any:
    """Looked up in the tensor as it lies in memory: the exporter takes every tensor to lie there in the order of its dims."""
    dims = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    lying = tensor.permute(dims)
    if not lying.is_contiguous():
        return NotImplemented
    place: Any = torch.zeros((), dtype=torch.int64, device=tensor.device)
    if storage_offset is not None:
        place = place + (storage_offset - tensor.storage_offset())
    for count, step in zip(size, stride, strict=True):
        place = place.unsqueeze(-1) + torch.arange(count, device=tensor.device) * step
    return lying.reshape(-1)[place]


@instead_of(aten.arange.start_step)
def stepped(start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """Of real numbers, each as torch rounds it: the runtime adds in single precision, and may come to one more or less of them."""
    if {type(start), type(end), type(step)} - {int, float} or not {type(start), type(end), type(step)} - {int}:
        return NotImplemented
    with _disable_current_modes():
        numbers = torch.arange(start, end, step, dtype=dtype).tolist()
    made = [torch.full((), each, dtype=torch.get_default_dtype() if dtype is None else dtype) for each in numbers]
    return torch.stack(made) if made else NotImplemented


@instead_of(aten.kthvalue.default)
def kth_value(tensor: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """ONNX sorts, and no less."""
    if not tensor.dim():
        return NotImplemented
    values, where = (each.narrow(dim, k - 1, 1) for each in aten.sort.default(tensor, dim))
    return (values, where) if keepdim else (values.squeeze(dim), where.squeeze(dim))


@instead_of(aten.median.dim)
def median(tensor: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower of two in the middle."""
    return kth_value(tensor, (tensor.shape[dim] + 1) // 2, dim, keepdim) if tensor.dim() else NotImplemented


@instead_of(aten.median.default)
def median_of_all(tensor: Tensor) -> Tensor:
    found: Tensor = median(tensor.reshape(-1), 0)[0]
    return found


def _read(index: Tensor, source: Tensor) -> Tensor:
    """What is read of a source: as much as there are indices, where ONNX asks that no more be there."""
    if all(statically_known_true(size == wanted) for size, wanted in zip(source.shape, index.shape, strict=True)):
        return source
    return source[tuple(slice(size) for size in index.shape)]


def _scattering(target: Any) -> None:
    @instead_of(target)
    def rewrite(tensor: Tensor, dim: int, index: Tensor, source: Tensor, *rest: Any, **options: Any) -> Any:
        read = _read(index, source)
        return NotImplemented if read is source else target(tensor, dim, index, read, *rest, **options)


for _target in (aten.scatter.src, aten.scatter.reduce, aten.scatter_add.default, aten.scatter_reduce.two):
    _scattering(_target)


@instead_of(aten.scatter_reduce.two)
def mean_of_scattered(tensor: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True) -> Any:
    """A sum over a count: ONNX knows no mean, and the exporter takes the last one."""
    if reduce != "mean":
        return NotImplemented
    ones, one = torch.ones_like(tensor), torch.ones_like(source)
    if not include_self:
        tensor, ones = tensor.scatter(dim, index, 0), ones.scatter(dim, index, 0)
    total, count = tensor.scatter_add(dim, index, source), ones.scatter_add(dim, index, one).clamp(min=1)
    return total / count if tensor.is_floating_point() else total.floor_divide(count)
