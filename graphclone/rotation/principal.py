"""The principal axes of a calibrated stream, and of what is inside heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.calibration import Calibration, Visit, along, between, finite
from graphclone.layout import Layout
from graphclone.rotation.meetings import meetings
from graphclone.rotation.places import Places


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


def principal_axes_of_heads(calibration: Calibration, names: Collection[str]) -> dict[str, Tensor]:
    """For each factor inside heads, float64 [heads, d, d]: the eigenvectors of the second moment of each head, averaged over the values
    that are summed over its units (queries and keys; what attention puts out), each place counted alike.

    **Raises** `WeightsError` when an activation is not finite; `FrozenError` where one cannot be turned.
    """
    moments: dict[str, list[Tensor]] = {name: [] for name in names}

    def look(layout: Layout) -> Visit:
        every: dict[fx.Node, list[tuple[str, Places, int]]] = defaultdict(list)
        for name in names:
            heads = meetings(layout, layout[name]).heads
            for value, dim in _summed_values(layout, layout[name]):
                places = Places.of(layout.types[value].axes, dim, layout[name], heads)
                if places is not None:
                    every[value].append((name, places, heads.size if heads is not None else 1))

        def visit(node: fx.Node, value: Any, _: Any) -> None:
            for name, places, heads in every.get(node, ()):
                finite(node, value)
                moment = places.moments(value, heads)
                moments[name].append(moment / moment.diagonal(dim1=-2, dim2=-1).sum().clamp_min(1e-30))

        return visit

    calibration.each(look)
    return {name: torch.linalg.eigh(torch.stack(found).sum(0))[1].flip(-1) for name, found in moments.items() if found}


def _summed_values(layout: Layout, factor: Factor) -> set[tuple[fx.Node, int]]:
    """The values, and their dims, that something sums over the units of a factor."""
    return {
        (value, dim % len(layout.types[value].axes))
        for each in layout.contractions
        if factor in algebra.factors(each.axis)
        for value, dim in each.operands
        if not (value.op == "get_attr" and value.target in layout.trace.parameters)
    }
