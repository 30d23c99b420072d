"""What says something of shapes, or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


@instead_of(aten.detach.default)
def detached(tensor: Tensor) -> Tensor:
    """Nobody asks for gradients of a file; and the exporter knows no complex one."""
    return tensor


@instead_of(aten.squeeze.dim, aten.squeeze.dims)
def squeeze(tensor: Tensor, dims: int | Sequence[int]) -> Any:
    """torch leaves a dim that is not 1 as it is; ONNX refuses."""
    dims = [dims] if isinstance(dims, int) else list(dims)
    ones = [dim for dim in dims if isinstance(tensor.shape[dim], int) and tensor.shape[dim] == 1]
    if len(ones) == len(dims):
        return NotImplemented
    return tensor.squeeze(ones) if ones else tensor


@instead_of(aten._is_all_true.default)
def all_true(tensor: Tensor) -> Tensor:
    """What an assertion asks: nobody reads it in the end, but the exporter translates it."""
    return tensor.all()


def _of_all(target: Any) -> None:
    @instead_of(target)
    def rewrite(tensor: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
        """The exporter asks for dims, where torch takes none for all."""
        return NotImplemented if dim or not tensor.dim() else target(tensor, list(range(tensor.dim())), keepdim)


_of_all(aten.amax.default)
_of_all(aten.amin.default)


@instead_of(aten.aminmax.default)
def both_extremes(tensor: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    dims = list(range(tensor.dim())) if dim is None else [dim]
    return tensor.amin(dims, keepdim), tensor.amax(dims, keepdim)
