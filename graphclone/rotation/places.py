"""Where a tensor has the units of a factor, and to which head each belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor


@dataclass(frozen=True)
class Places:
    """The units of a factor along one dim of a tensor.

    - `at`: int64 [rows, units], positions on `dim`, one row for each time that the units occur;
    - `head`: int64, the head of each row; or, where `across` is another dim, of each position on that.
    """

    dim: int
    at: Tensor
    head: Tensor
    across: int | None = None

    @classmethod
    def of(cls, axes: Sequence[Axis], dim: int, factor: Factor, heads: Factor | None = None) -> Places | None:
        """None where a unit belongs to no head, or to several."""
        label = torch.tensor(algebra.labels(axes[dim], factor))
        at = torch.stack([(label == unit).nonzero().flatten() for unit in range(factor.size)], 1)
        if heads is None:
            return cls(dim, at, torch.zeros(len(at), dtype=torch.long))
        holders = [other for other, axis in enumerate(axes) if heads in algebra.factors(axis)]
        if len(holders) != 1:
            return None
        head = torch.tensor(algebra.labels(axes[holders[0]], heads))
        if holders[0] != dim:
            return cls(dim, at, head, holders[0]) if bool((head >= 0).all()) else None
        own = head[at]
        return cls(dim, at, own[:, 0]) if bool((own == own[:, :1]).all() and (own >= 0).all()) else None

    def turned(self, tensor: Tensor, axes: Tensor) -> Tensor:
        """The tensor with its units along `axes`, [heads, d, d]: unit i is what it had along column i of its head."""
        moved = self._last(tensor).clone()
        form = "...gd,gde->...ge" if self.across is None else "o...gd,ode->o...ge"
        moved[..., self.at] = torch.einsum(form, moved[..., self.at], axes[self.head])
        return moved.movedim((0, -1), (self.across, self.dim)) if self.across is not None else moved.movedim(-1, self.dim)

    def moments(self, value: Tensor, heads: int) -> Tensor:
        """The second moments of the units, summed over everything else: float64 [heads, d, d]."""
        picked = self._last(value.detach())[..., self.at].double()
        each = torch.einsum("...gd,...ge->gde" if self.across is None else "o...gd,o...ge->ode", picked, picked)
        return torch.zeros(heads, *each.shape[1:], dtype=each.dtype).index_add(0, self.head, each)

    def _last(self, tensor: Tensor) -> Tensor:
        """The units last; what tells the heads, if that is another dim, first."""
        if self.across is not None:
            return tensor.movedim((self.across, self.dim), (0, -1))
        return tensor.movedim(self.dim, -1)
