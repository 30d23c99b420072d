"""What each choice of a recipe is worth: children that begin as `paper` or `full` do, but for one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

import graphclone as gc
from benchmarks.convergence.arms import ARMS, FULL, Arm, Subject, cloned, filled, kept_blocks
from graphclone.allocate import allocate, parameters
from graphclone.calibration import Calibration
from graphclone.destination import plan_for
from graphclone.layout import Layout
from graphclone.passes import whole
from graphclone.passes.drop_blocks import even, first, restacked
from graphclone.plan import Plan
from graphclone.recipe import PAPER, begin, look
from graphclone.scores import Scores, angular, greedy, score_gradients, score_weights


def _scored(scores: Callable[[Subject], Scores]) -> Arm:
    """As the paper, where these scores say nothing else."""

    def made(subject: Subject) -> nn.Module:
        found = look(subject.layout, subject.calibration, PAPER).scores | scores(subject)
        return filled(subject, plan_for(subject.layout, subject.goal, found, True))

    return made


def _of_gradients(subject: Subject, layout: Layout, kind: str) -> Scores:
    labelled = {id(batch.inputs): batch for batch in subject.labelled}
    return score_gradients(
        layout, subject.parent.module, subject.batches, lambda out, given: subject.race.loss(out, labelled[id(given)]), kind=kind
    )


def by_greedy(subject: Subject) -> Scores:
    """The block goes without which the parent's loss on the calibration batches is least; and so on."""
    found = Scores()
    for stack, goal in zip(subject.layout.blocks, subject.goal.blocks, strict=True):

        def loss(kept: tuple[int, ...], name: str = stack.name) -> float:
            plan = restacked(whole(subject.layout), subject.layout, {name: kept})
            shallow = gc.execute(plan, subject.parent.module, trace=subject.layout.trace)
            with torch.no_grad():
                return sum(float(subject.race.loss(shallow(**batch.inputs), batch)) for batch in subject.labelled)

        found |= greedy(stack, loss, len(goal))
    return found


def unequal(subject: Subject) -> nn.Module:
    """As `full`, with as many parameters, but hidden units are shared out over all blocks by first-order Taylor scores: a
    rewritten graph, since no config says such sizes."""
    layout = gc.analyze(gc.capture(subject.parent.module, kwargs=subject.batches[0], dynamic=True))
    taylor = _of_gradients(subject, layout, "taylor")
    budget = sum(each.numel() for each in subject.destination().parameters())
    heads = {each.name: each.size for each in subject.goal.factors if each.kind == "heads"}
    width, depth = {"residual": subject.goal["residual"].size, "*.heads": min(heads.values())}, len(subject.goal.blocks[0])

    def planned(layout: Layout, found: Scores) -> Plan:
        base = gc.plan(layout, width=width, depth=depth, scores=found)
        inside = allocate(layout, taylor, base, parameters(layout, base), budget, kinds=["hidden"])
        return gc.plan(layout, width={**width, **inside}, depth=depth, scores=found)

    begun = begin(layout, Calibration.of(subject.parent.module, subject.batches), FULL, planned)
    return gc.execute(begun.plan, subject.parent.module, trace=layout.trace, fitted=begun.fitted)


ABLATIONS: dict[str, Arm] = {
    "paper, no scale": cloned(PAPER, scale=False),
    "paper, statistics matched": cloned(replace(PAPER, match=True), scale=False),
    "paper, each layer counts alike": cloned(replace(PAPER, places="even_mean")),
    "paper + influence": cloned(replace(PAPER, influence=True)),
    "paper + refit": cloned(replace(PAPER, refit=True)),
    "influence + rotation": cloned(replace(FULL, refit=False)),
    "full, spans": cloned(replace(FULL, spans=True)),
    "full, no scale": cloned(FULL, scale=False),
    "full, unequal widths": unequal,
}
SCORES: dict[str, Arm] = {
    "paper, variance": cloned(replace(PAPER, stream="variance")),
    "paper, rms": cloned(replace(PAPER, stream="rms")),
    "paper, max": cloned(replace(PAPER, stream="max")),
    "paper, rank mean": cloned(replace(PAPER, places="rank_mean")),
    "paper, units by wanda": cloned(replace(PAPER, units="wanda")),
    "paper, weight norms": _scored(lambda subject: score_weights(subject.layout)),
    "paper, taylor": _scored(lambda subject: _of_gradients(subject, subject.layout, "taylor")),
    "paper, fisher": _scored(lambda subject: _of_gradients(subject, subject.layout, "fisher")),
}
DEPTHS: dict[str, Arm] = {
    "paper, first blocks": _scored(lambda subject: kept_blocks(subject, first)),
    "paper, even blocks": _scored(lambda subject: kept_blocks(subject, even)),
    "paper, angular": _scored(lambda subject: angular(subject.calibration, len(subject.goal.blocks[0]))),
    "paper, greedy": _scored(by_greedy),
}
ABLATIONS |= SCORES | DEPTHS
EVERY = {**ARMS, **ABLATIONS}
