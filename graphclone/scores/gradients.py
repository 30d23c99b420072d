"""Importance of units from the gradients of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.calibration import call
from graphclone.errors import GraphcloneError, UnknownNameError
from graphclone.layout import Layout
from graphclone.scores.kinds import GRADIENTS
from graphclone.scores.scores import Scores
from graphclone.scores.units import per_unit


def score_gradients(
    layout: Layout, model: nn.Module, batches: Iterable[Any], loss: Callable[[Any, Any], Tensor], *, kind: str = "taylor"
) -> Scores:
    """Scores from a loss: for each unit, the size of the sum of `kind` over all weights that it touches, over all slots of its factor;
    averaged over batches. The model's own gradients are left as they were.

    **Arguments**: `loss(outputs, batch)`, a scalar; `kind`: `taylor` or `fisher`.

    **Raises** `GraphcloneError` when there is no batch, `UnknownNameError`.
    """
    if kind not in GRADIENTS:
        raise UnknownNameError(f"there is no way '{kind}' to score units", attempt=" or ".join(GRADIENTS))
    named = {name: each for name, each in model.named_parameters() if name in layout.parameters and each.requires_grad}
    if not named:
        raise GraphcloneError(
            "there are no gradients to score units by",
            because="no parameter of the layout requires one",
            attempt="model.requires_grad_(True), or score_activations",
        )
    totals: dict[Factor, Tensor] = {}
    count = 0
    for batch in batches:
        args, kwargs = call(batch)
        with torch.enable_grad():
            value = loss(model(*args, **kwargs), batch)
        if not isinstance(value, Tensor) or value.dim():
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise GraphcloneError("the loss to score units by is no scalar", because=f"loss(outputs, batch) gives {shape}")
        gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        count += 1
        for factor, total in _summed(layout, dict(zip(named, gradients, strict=True)), named, kind).items():
            totals[factor] = totals.get(factor, 0) + total.abs()
    if not count:
        raise GraphcloneError("there are no batches to score units on", attempt="score_weights(layout)")
    return Scores({factor.name: tuple((total / count).tolist()) for factor, total in totals.items()})


def _summed(layout: Layout, gradients: dict[str, Any], weights: dict[str, nn.Parameter], kind: str) -> dict[Factor, Tensor]:
    found: dict[Factor, Tensor] = {}
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        each = GRADIENTS[kind](weights[name].detach().double(), gradient.double())
        for dim, axis in enumerate(layout.axes(name)):
            along = each.movedim(dim, 0).flatten(1).sum(1) if each.dim() > 1 else each
            for factor in dict.fromkeys(factor for factor in algebra.factors(axis) if factor.frozen is None):
                found[factor] = found.get(factor, 0) + per_unit(along, axis, factor)
    return found
