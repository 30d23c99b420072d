"""Importance of units from what calibration data makes them do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.calibration import Calibration, Look, between, finite
from graphclone.errors import UnknownNameError
from graphclone.layout import Layout, origin
from graphclone.rules import Typed
from graphclone.scores.blocks import Influence
from graphclone.scores.kinds import PLACES, STREAM, UNITS
from graphclone.scores.scores import Scores
from graphclone.scores.units import norms, per_unit

Operand = tuple[fx.Node, int]
Said = dict[str, dict[str, list[Tensor]]]  # factor → place → what each batch says


def score_activations(
    model: nn.Module, batches: Iterable[Any], *, stream: str = "mean_abs", units: str = "contribution", places: str = "mean"
) -> Scores:
    """Scores from data: the model's own graph runs on calibration batches and every factor's places are measured.

    - A factor of the residual stream: `stream` of its activations over batch and positions, at every value between blocks; all layers
      share one ranking (weight subcloning, arXiv 2312.09299, §3.2).
    - Any other: `units` of what is summed by a weight. A `contribution` is the mean norm of what a unit adds there: for an MLP unit
      mean |activation| × the norm of its outgoing weights, for a head the norm of the head's share of the output projection.

    **Arguments**: `batches`, each a mapping of keyword arguments, a tuple of positional ones, or one tensor. A batch of other shapes
    than those before (a last, smaller one) costs one more capture. `stream`, `units`: names in `graphclone.scores.kinds`; `places`: how
    what the places of one factor say becomes one number (over batches it is always the mean).

    **Raises** `WeightsError` when an activation is not finite, `GraphcloneError` when there is no batch, `UnknownNameError`.
    """
    return score_calibrated(Calibration.of(model, batches), stream=stream, units=units, places=places)


def score_calibrated(
    calibration: Calibration,
    *,
    stream: str = "mean_abs",
    units: str = "contribution",
    places: str = "mean",
    influence: bool = False,
    beside: Iterable[Look] = (),
) -> Scores:
    """The same from batches whose graphs are there already. `influence`: and `block_influence`, in the same run; `beside`: who else looks
    on."""
    for name, known in ((stream, STREAM), (units, UNITS), (places, PLACES)):
        if name not in known:
            raise UnknownNameError(f"there is no way '{name}' to score units", attempt=" or ".join(known))
    said: Said = defaultdict(lambda: defaultdict(list))
    blocks = Influence()
    calibration.each(lambda layout: _Places(layout, stream, units, said).visit, *[blocks.look] * influence, *beside)
    merge = PLACES[places]
    merged = {name: merge([torch.stack(batches).mean(0) for batches in each.values()]) for name, each in said.items()}
    return Scores({name: tuple(values.tolist()) for name, values in merged.items()}) | blocks.scores()


class _Places:
    """Where a layout's factors are measured, and what was found there."""

    def __init__(self, layout: Layout, stream: str, units: str, said: Said) -> None:
        self.layout, self.said, self.stream, self.units = layout, said, stream, units
        self.streams = between(layout)
        self.residual = [f for f in layout.factors if f.kind == "residual" and f.frozen is None]
        self.readers = _reading(layout)

    def visit(self, node: fx.Node, value: Any, env: Mapping[fx.Node, Any]) -> None:
        typed = self.layout.types.get(node)
        if node in self.streams and isinstance(typed, Typed):
            finite(node, value)
            for factor in self.residual:
                for dim, axis in enumerate(typed.axes):
                    if factor in set(algebra.factors(axis)):
                        found = STREAM[self.stream](_rows(value.detach().double().movedim(dim, -1)))
                        self.said[factor.name][node.name].append(per_unit(found, axis, factor))
        for at, (factor, axis, x, w) in enumerate(self.readers.get(node, ())):
            self.said[factor.name][f"{node.name}.{at}"].append(self._part(factor, axis, (env[x[0]], x[1]), (env[w[0]], w[1])))

    def _part(self, factor: Factor, axis: Axis, value: tuple[Tensor, int], weight: tuple[Tensor, int]) -> Tensor:
        """What each unit has in a sum. A contribution is exact for matrices; else the parts of a unit's positions count as independent."""
        x = _rows(value[0].movedim(value[1], -1))
        w = weight[0].detach()
        owners = torch.tensor(algebra.labels(axis, factor), device=w.device)
        single = bool((owners[owners >= 0].bincount(minlength=factor.size) == 1).all())
        if self.units != "contribution" or w.dim() > 2 or single:
            part = UNITS[self.units](x.double(), norms(w, weight[1]).double()).square()
            return per_unit(part, axis, factor).sqrt()
        w = w.movedim(weight[1], 0)
        chosen = ((owners == unit).nonzero()[:, 0] for unit in range(factor.size))
        return torch.stack([_norms_of_product(x[:, each], w[each]).mean() for each in chosen]).double().cpu()


def _norms_of_product(x: Tensor, w: Tensor) -> Tensor:
    """‖x w‖ of each row; by w wᵀ where a unit has fewer positions than x w has, in float64 because numbers are squared before they are
    summed."""
    if x.is_complex() or w.is_complex() or len(w) >= w.shape[1]:
        found: Tensor = torch.linalg.vector_norm(x @ w, dim=-1)
    else:
        x, w = x.double(), w.double()
        found = ((x @ (w @ w.T)) * x).sum(-1).clamp_min(0).sqrt()
    return found


def _rows(x: Tensor) -> Tensor:
    """[tokens, n], of one token where there is no other dim."""
    return x.reshape(-1, x.shape[-1])


def _reading(layout: Layout) -> Mapping[fx.Node, list[tuple[Factor, Axis, Operand, Operand]]]:
    """Ops that sum a factor of activations with a parameter: (factor, axis, activation, parameter)."""
    reading = defaultdict(list)
    for contraction in layout.contractions:
        owners = [(origin(node) in layout.trace.parameters, (node, dim)) for node, dim in contraction.operands]
        weights = [place for owned, place in owners if owned]
        values = [place for owned, place in owners if not owned]
        if len(weights) == len(values) == 1:
            for factor in dict.fromkeys(algebra.factors(contraction.axis)):
                if factor.kind != "residual" and factor.frozen is None and factor.slots:
                    reading[contraction.node].append((factor, contraction.axis, values[0], weights[0]))
    return reading
