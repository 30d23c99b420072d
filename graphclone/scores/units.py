"""From values along an axis to values per unit of a factor."""

from __future__ import annotations

import torch
from torch import Tensor

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor


def per_unit(values: Tensor, axis: Axis, factor: Factor) -> Tensor:
    """Values along an axis, summed per unit of a factor: float64 [units]."""
    owners = torch.tensor(algebra.labels(axis, factor), device=values.device)
    inside = owners >= 0
    return torch.zeros(factor.size, dtype=torch.float64).index_add_(0, owners[inside].cpu(), values[inside].double().cpu())


def norms(tensor: Tensor, dim: int) -> Tensor:
    """The norm of what lies at each position of a dim."""
    others = [each for each in range(tensor.dim()) if each != dim % tensor.dim()]
    size = tensor.abs() if tensor.is_complex() else tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return torch.linalg.vector_norm(size, dim=others) if others else size.abs()
