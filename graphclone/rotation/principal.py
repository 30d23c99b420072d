"""The principal axes of a calibrated stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphclone.calibration import Calibration, Visit, along, between, finite
from graphclone.layout import Layout


@dataclass(frozen=True)
class Principal:
    """The axes along which a stream of d units has most of its energy.

    - `axes`: float64 [d, d], orthogonal; column i is the i-th axis;
    - `energy`: float64 [d], the share of the stream's energy along each, all places counted alike.
    """

    axes: Tensor
    energy: Tensor

    def retained(self, width: int) -> float:
        """The share of the energy that the first axes have."""
        return float(self.energy[:width].sum())


def principal_axes(calibration: Calibration, name: str, centred: bool = False) -> Principal:
    """The eigenvectors of the stream's second moment, averaged over every value between blocks.

    Each token counts alike at each place, whatever its norm: a norm in front of what reads it removes that, and a sum of the raw
    moments would be that of the last layers alone. `centred`: of the stream less its mean over units.

    **Raises** `WeightsError` when an activation is not finite.
    """
    found = StreamMoment(name, centred)
    calibration.each(found.look)
    return found.principal()


class StreamMoment:
    """Looks on while batches are run: the sum of a stream's second moments, as `principal_axes` has them."""

    def __init__(self, name: str, centred: bool) -> None:
        self.name, self.centred = name, centred
        self.total: Tensor | None = None

    def look(self, layout: Layout) -> Visit:
        factor, streams = layout[self.name], between(layout)

        def visit(node: fx.Node, value: Any, _: Any) -> None:
            dim = along(layout, node, factor) if node in streams else None
            if dim is not None:
                finite(node, value)
                moment = _moment(value, dim, self.centred)
                self.total = moment if self.total is None else self.total.add_(moment)

        return visit

    def principal(self) -> Principal:
        assert self.total is not None
        values, vectors = torch.linalg.eigh(self.total)
        energy = values.flip(0).clamp_min(0)
        return Principal(vectors.flip(1), energy / energy.sum())


def _moment(value: Tensor, dim: int, centred: bool) -> Tensor:
    tokens = value.detach().movedim(dim, -1)
    tokens = tokens.reshape(-1, tokens.shape[-1]).double()
    tokens = tokens - tokens.mean(-1, keepdim=True) if centred else tokens
    tokens = tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    moment: Tensor = tokens.T @ tokens
    return moment / len(tokens)
