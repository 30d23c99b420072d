"""The child in train mode: the parent captured once more, as it trains, and rewritten so that each tensor is the one of the eval mode.

Two captures are two graphs, whose factors are not the same objects and may not bear the same names. So the plan is carried over by the
tensors: what is kept of each of their dims says what is kept of the other layout's factors.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy
from torch import Tensor, nn

from graphclone import axes as algebra
from graphclone.capture import capture
from graphclone.errors import GraphcloneError, PlanError
from graphclone.execute import execute
from graphclone.execute.graph import Child
from graphclone.execute.memory import positions
from graphclone.layout import Layout, analyze
from graphclone.parity import as_it_was, difference, outputs
from graphclone.passes import Scale, whole
from graphclone.passes.drop_blocks import restacked
from graphclone.plan import Plan

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Kept = Mapping[str, list[tuple[int, Sequence[int]]]]  # what is kept of each dim of a tensor


def train_mode(plan: Plan, model: nn.Module, inputs: Inputs, fitted: Mapping[str, Tensor] | None = None) -> Child | str:
    """The child that a plan describes, as it trains; or why there is none. `fitted`: the values of the plan's fitted tensors."""
    try:
        with _training(model):
            before = random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[index]
            trace = capture(model, *inputs, dynamic=plan.inputs.get("dynamic", False), writes=True)
            if before != (random.getstate(), numpy.random.get_state()[1].tolist()):  # type: ignore[index]
                return "it draws random numbers from Python or numpy as it trains, which a graph would do once and for all"
            layout = analyze(trace)
            if told := _unlike(model, execute(whole(layout), model, trace=trace), inputs):
                return told
            return execute(carried(plan, layout), model, trace=trace, fitted=fitted)
    except GraphcloneError as error:
        return " ".join(str(error).split())
    except NotImplementedError:  # says an exported program
        return "its parent is a graph already, and has the mode alone that it was traced in"


def carried(plan: Plan, layout: Layout) -> Plan:
    """A plan, as a plan of another layout of the same model.

    **Raises** `PlanError` where the two would not make the same tensors.
    """
    stacks = {stack.name: len(stack) for stack in layout.blocks}
    for name, chosen in plan.stacks.items():
        if name not in stacks and chosen == tuple(range(len(chosen))):
            continue  # nothing is to be left out; whether all is there, the tensors tell
        if max(chosen) >= stacks.get(name, 0):
            raise PlanError(f"the blocks of '{name}' are not found in train mode", because=f"found: {stacks or 'none'}")
    if plan.literals:
        raise PlanError("the plan has numbers of a destination in it", because="it names the calls of the eval mode")
    found = restacked(whole(layout), layout, plan.stacks)
    kept: Kept = {name: dims for name, dims in positions(plan) if plan.tensors[name].source in layout.parameters}
    keep = _keep(plan, layout, kept)
    found = replace(found, keep={name: units for name, units in keep.items() if len(units) < found.sizes.get(name, 0)})
    if any(piece.scale != 1 for piece in plan.tensors.values()):
        found = Scale()(found, layout)
    shared = {
        name: replace(plan.tensors[name], axes=tuple(algebra.show(axis, lambda f: f.name) for axis in layout.axes(piece.source)))
        for name, piece in plan.tensors.items()
        if name in kept
    }
    found = replace(
        found, tensors={**shared, **{n: piece for n, piece in found.tensors.items() if n not in shared}}, aliases=plan.aliases
    )
    found = replace(found, fitted=tuple(name for name in plan.fitted if name in found.tensors))
    for name, now in positions(found):
        for dim, (size, units) in enumerate(now):
            if name in kept and list(units) != list(kept[name][dim][1]):
                raise PlanError(f"'{name}' would keep other units of dim {dim} in train mode", because=f"it is {size} there")
    return found


def _keep(plan: Plan, layout: Layout, kept: Kept) -> dict[str, tuple[int, ...]]:
    """What is kept of each factor of a layout, by what is kept of the tensors' dims.

    **Raises** `PlanError` where two tensors differ, or a factor that has to stay as it is would not.
    """
    keep: dict[str, tuple[int, ...]] = {}
    for name, dims in kept.items():
        for axis, (_, chosen) in zip(layout.axes(plan.tensors[name].source), dims, strict=True):
            for factor in dict.fromkeys(algebra.factors(axis)):
                labels = algebra.labels(axis, factor)
                units: tuple[int, ...] = tuple(dict.fromkeys(labels[position] for position in chosen if labels[position] >= 0))
                if keep.setdefault(factor.name, units) != units:
                    raise PlanError(f"'{name}' shares '{factor.name}' with others in train mode, of which it keeps other units")
                if factor.frozen is not None and units != tuple(range(factor.size)):
                    raise PlanError(f"'{factor.name}' has to stay as it is in train mode", because=str(factor.frozen))
    return keep


def _unlike(model: nn.Module, child: Child, inputs: Inputs) -> str | None:
    """What there is to say if the graph does not compute what the model does as it trains, with the same random numbers."""
    with as_it_was(model):
        try:
            expected = outputs(model, inputs)
        except Exception as error:  # a model may ask for more when it trains, such as labels
            return f"the model itself raises {type(error).__name__} as it trains: {error}"
        found = outputs(child.train(), inputs)
    apart = difference(expected, found)
    return (
        f"in train mode its graph differs from the model by {apart:.1e}: part of it was traced otherwise"
        if apart > 1e-6
        else None
    )


@contextlib.contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """The model in train mode, and afterwards as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
