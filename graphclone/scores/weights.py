"""Importance of units from weights alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.errors import WeightsError
from graphclone.layout import Layout
from graphclone.scores.scores import Scores
from graphclone.scores.units import norms, per_unit


def score_weights(layout: Layout, state: Mapping[str, Tensor] | None = None) -> Scores:
    """Data-free scores: the norm of all weights that a unit touches, over all slots of its factor.

    **Raises** `WeightsError` when the weights have no values (a model on `meta`).
    """
    state = state or layout.trace.state
    squares: dict[Factor, Tensor] = {}
    for name in filter(layout.trace.parameters.__contains__, layout.parameters):
        for dim, axis in enumerate(layout.axes(name)):
            if free := dict.fromkeys(factor for factor in algebra.factors(axis) if factor.frozen is None):
                if state[name].is_meta:
                    raise WeightsError(
                        f"'{name}' has no values, so its units cannot be ranked",
                        because="the model is on the meta device",
                        attempt="score_weights(layout, state) with the weights by name, or no scores: units at even distances",
                    )
                energy = norms(state[name].detach(), dim).double().square()
                for factor in free:
                    squares[factor] = squares.get(factor, 0) + per_unit(energy, axis, factor)
    return Scores({factor.name: tuple(total.sqrt().tolist()) for factor, total in squares.items()})
