"""A plan of widths and depths in the parent's own class: settings are looked for that make the class build what the plan needs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import nn

from graphclone import sources
from graphclone.capture import capture
from graphclone.destination import plan_for
from graphclone.errors import GraphcloneError
from graphclone.layout import Layout, analyze
from graphclone.passes import whole
from graphclone.plan import Plan
from graphclone.scores import Scores
from graphclone.sizes import Shape, kept_layers, renumbered
from graphclone.sources import Parent
from graphclone.sources.solver import Settings, Shapes, solve

_TRIES = 12  # how many settings that give the shapes are captured, to see whether they give the plan


@dataclass(frozen=True)
class Expressed:
    """The `child`, built with `settings`, and the plan that fills it."""

    settings: Settings
    child: nn.Module
    plan: Plan


def expressed(parent: Parent, layout: Layout, plan: Plan, scores: Scores, scale: bool, seed: int) -> Expressed | str:
    """The plan's child as an instance of the parent's class, or the reason why no settings give one."""
    wanted, layers = renumbered(plan, layout), kept_layers(plan, layout)
    idle = {name for name, _ in parent.module.named_parameters(remove_duplicate=False)} - renumbered(whole(layout), layout).keys()

    def build(settings: Settings) -> Shapes | None:
        found = sources.shapes(parent, settings, layers)
        return None if found is None else {name: shape for name, shape in found.items() if name not in idle}

    def made(settings: Settings) -> Expressed | str:
        try:
            child = sources.destination(parent, settings, layers=layers, seed=seed)
            target = analyze(capture(child, parent.args, parent.kwargs, check=False), like=layout.blocks)
            found = plan_for(layout, target, scores, scale)
        except GraphcloneError as error:
            return str(error).splitlines()[0]
        if (found.keep, found.stacks) != (plan.keep, plan.stacks):
            return "an instance of its class in these sizes would be made of other blocks or units"
        return Expressed(settings, child, found)

    counts = [(len(stack), len(plan.stacks[stack.name])) for stack in layout.blocks if stack.name in plan.stacks]
    units = {(plan.sizes[name], len(kept)) for name, kept in plan.keep.items() if len(kept) != plan.sizes[name]}
    reasons: list[str] = []
    for solution in itertools.islice(solve(wanted, parent.fields, build, counts, units), _TRIES):
        if solution.unmet:
            return _unmet(*next(iter(solution.unmet.items())), len(solution.unmet))
        found = made(solution.settings)
        if isinstance(found, Expressed):
            return found
        reasons.append(found)
    return reasons[0]


def _unmet(name: str, shapes: tuple[Shape | None, Shape | None], count: int) -> str:
    want, have = (" × ".join(map(str, shape)) if shape is not None else None for shape in shapes)
    others = f" (and {count - 1} other tensors)" if count > 1 else ""
    if want is None or have is None:
        return (
            f"its class would build '{name}', which the plan has not{others}"
            if want is None
            else (f"its class would not build '{name}', which the plan has{others}")
        )
    return f"no settings of its config were found that give all sizes: with the nearest, '{name}' is {have}, and has to be {want}{others}"
