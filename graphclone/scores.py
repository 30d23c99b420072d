"""Importance of units. The only thing that needs data, and kept apart from everything else: scores are an input to the passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.capture import capture
from graphclone.errors import GraphcloneError, WeightsError
from graphclone.layout import Layout, analyze, origin
from graphclone.rules import Typed


@dataclass(frozen=True)
class Scores:
    """Factor name → the importance of each of its units (any scale; more is kept first). What is missing is kept at even distances.

    **Raises** `WeightsError` where a score is no number.
    """

    units: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.units.items():
            if any(value != value for value in values):
                raise WeightsError(f"the scores of '{name}' are not all numbers: NaN among them has no place in a ranking")


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
                energy = _norms(state[name].detach(), dim).double().square()
                for factor in free:
                    squares[factor] = squares.get(factor, 0) + _per_unit(energy, axis, factor)
    return Scores({factor.name: tuple(total.sqrt().tolist()) for factor, total in squares.items()})


def score_activations(model: nn.Module, batches: Iterable[Any]) -> Scores:
    """Scores from data: the model's own graph runs on calibration batches and every factor's places are measured.

    - A factor of the residual stream: mean |activation| over batch and positions, averaged over every value between blocks, so that
      all layers share one ranking (weight subcloning, arXiv 2312.09299, §3.2).
    - Any other: the mean norm of what a unit adds where it is summed by a weight. For an MLP unit that is mean |activation| × the norm
      of its outgoing weights; for a head, the norm of the head's share of the output projection.

    **Arguments**: `batches`, each a mapping of keyword arguments, a tuple of positional ones, or one tensor. A batch of other shapes
    than those before (a last, smaller one) costs one more capture.

    **Raises** `WeightsError` when an activation is not finite, `GraphcloneError` when there is no batch.
    """
    measures: dict[object, _Measure] = {}
    for batch in map(_call, batches):
        leaves, spec = pytree.tree_flatten(batch)
        shapes = (str(spec), *(tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        if shapes not in measures:
            measures[shapes] = _Measure(analyze(capture(model, *batch)))
        with torch.no_grad():
            measures[shapes].run(*leaves)
    if not measures:
        raise GraphcloneError("there are no calibration batches to score units on", attempt="score_weights(layout)")
    return _mean(measures.values())


def _mean(measures: Iterable[_Measure]) -> Scores:
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)
    for measure in measures:
        for factor, total in measure.totals.items():
            totals[factor.name] = totals.get(factor.name, 0) + total
            counts[factor.name] += measure.counts[factor]
    return Scores({name: tuple((total / counts[name]).tolist()) for name, total in totals.items()})


def _call(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch), {}) if isinstance(batch, (tuple, list)) else ((batch,), {})


def _norms(tensor: Tensor, dim: int) -> Tensor:
    """The norm of what lies at each position of a dim."""
    others = [each for each in range(tensor.dim()) if each != dim % tensor.dim()]
    size = tensor.abs() if tensor.is_complex() else tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return torch.linalg.vector_norm(size, dim=others) if others else size.abs()


def _per_unit(values: Tensor, axis: Axis, factor: Factor) -> Tensor:
    """Values along an axis, summed per unit of a factor."""
    owners = torch.tensor(algebra.labels(axis, factor), device=values.device)
    inside = owners >= 0
    return torch.zeros(factor.size, dtype=torch.float64).index_add_(0, owners[inside].cpu(), values[inside].double().cpu())


class _Measure(fx.Interpreter):
    """Runs a layout's graph and sums up, per factor, what its places say."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(nn.Module(), graph=layout.trace.graph)
        self.state, self.layout = layout.trace.state, layout
        self.totals: dict[Factor, Tensor] = {}
        self.counts: dict[Factor, int] = defaultdict(int)
        self.streams = {v for stack in layout.blocks for block in stack.blocks for v in (block.entry, block.exit)}
        self.residual = [f for f in layout.factors if f.kind == "residual" and f.frozen is None]
        self.readers = self._reading(layout)

    def _reading(self, layout: Layout) -> Mapping[fx.Node, list[tuple[Factor, Axis, tuple[fx.Node, int], tuple[fx.Node, int]]]]:
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

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.state[target]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        typed = self.layout.types.get(n)
        if n in self.streams and isinstance(typed, Typed):
            if not result.isfinite().all():
                raise WeightsError(
                    f"the activations of '{n.name}' are not finite",
                    attempt="other weights, or calibration data that they can take",
                )
            for factor in self.residual:
                for dim, axis in enumerate(typed.axes):
                    if factor in set(algebra.factors(axis)):
                        mean = result.detach().abs().double().mean([d for d in range(result.dim()) if d != dim])
                        self._add(factor, _per_unit(mean, axis, factor))
        for factor, axis, value, weight in self.readers.get(n, ()):
            self._add(factor, self._contribution(factor, axis, value, weight))
        return result

    def _contribution(self, factor: Factor, axis: Axis, value: tuple[fx.Node, int], weight: tuple[fx.Node, int]) -> Tensor:
        """Mean norm of each unit's part of the sum. Exact for matrices; else the parts of a unit's positions count as independent."""
        x = self.env[value[0]].movedim(value[1], -1).flatten(0, -2)
        w = self.env[weight[0]].detach()
        owners = torch.tensor(algebra.labels(axis, factor))
        single = bool((owners[owners >= 0].bincount(minlength=factor.size) == 1).all())
        if w.dim() > 2 or single:
            part = (x.abs().double().mean(0) * _norms(w, weight[1]).double()).square()
            return _per_unit(part, axis, factor).sqrt()
        w = w.movedim(weight[1], 0)
        norms = [
            (x[:, chosen] @ w[chosen]).norm(dim=-1).mean()
            for chosen in ((owners == unit).nonzero()[:, 0] for unit in range(factor.size))
        ]
        return torch.stack(norms).double()

    def _add(self, factor: Factor, values: Tensor) -> None:
        self.totals[factor] = self.totals.get(factor, 0) + values
        self.counts[factor] += 1
