"""From the words of a command to a plan, and what writing a child needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

import graphclone as gc
from graphclone import sources
from graphclone.budget import Option, options
from graphclone.capture import capture
from graphclone.cli import children
from graphclone.cli.console import working
from graphclone.cli.expressed import expressed
from graphclone.cli.options import Asked
from graphclone.cli.ranking import ranked
from graphclone.cli.wanted import Wanted
from graphclone.destination import plan_for
from graphclone.errors import CaptureError, DestinationError, GraphcloneError
from graphclone.execute.memory import positions
from graphclone.layout import Layout, analyze
from graphclone.parity import DIFFERS
from graphclone.plan import Plan
from graphclone.recipe import PAPER, Beginning, begin, recipe_named
from graphclone.scores import Scores
from graphclone.sources import Parent


@dataclass(frozen=True)
class Job:
    """A plan and what it was made of. `child` is the destination, where the parent's class was built in other sizes, `overrides` by which
    settings. `options`: the sizes that a number of parameters leaves open, the chosen ones first; `begun`: how the child begins, where
    that is not by selection alone.
    """

    asked: Asked
    parent: Parent
    layout: Layout
    plan: Plan
    overrides: dict[str, object]
    child: nn.Module | None
    options: tuple[Option, ...] = ()
    begun: Beginning | None = None

    @property
    def fitted(self) -> Mapping[str, Tensor]:
        return self.begun.fitted if self.begun else {}

    @property
    def axes(self) -> Mapping[str, Tensor]:
        return self.begun.axes if self.begun else {}

    @property
    def folder(self) -> Path | None:
        """The parent's, if it lies in one."""
        folder = Path(self.asked.spec).expanduser()
        return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Known:
    """What all plans of one parent and one size have in common: `child` and its layout, the `target`, where settings or a config say what
    it is."""

    parent: Parent
    layout: Layout
    child: nn.Module | None
    target: Layout | None


def known(asked: Asked, wanted: Wanted, inputs: Mapping[str, Tensor] | None = None) -> Known:
    """`inputs`: to capture the parent with, in place of those that its source finds.

    **Raises** any of `GraphcloneError`."""
    with working(f"loading {asked.spec}"):
        parent = children.load(asked, examples=inputs)
        if inputs is not None and parent.program is None:
            parent = replace(parent, args=(), kwargs=dict(inputs))
        child = asked_for(parent, sources.assignments(wanted.set), wanted)
    with working("capturing and analysing"):
        layout = analyze(capture(parent.program or parent.module, parent.args, parent.kwargs, dynamic=wanted.dynamic))
        return Known(parent, layout, child, _destination(child, parent, layout) if child is not None else None)


def planned(asked: Asked, wanted: Wanted, of: Known | None = None) -> Job:
    """`of`: what is known already of the parent and the child.

    **Raises** any of `GraphcloneError`: this is where most of what can be wrong is found."""
    given, of = of, of or known(asked, wanted)
    parent, layout, child, target = of.parent, of.layout, of.child, of.target
    overrides = sources.assignments(wanted.set)
    budget: list[Option] = []
    with working("ranking units"):
        seen, calibration = ranked(asked, wanted, parent, layout)
        scores = seen.scores
    if target is not None:
        plan = plan_for(layout, target, scores, wanted.scale)
    else:
        budget = options(layout, total) if (total := wanted.parameters()) is not None else []
        width, depth = (budget[0].width, budget[0].depth) if budget else (wanted.widths(), wanted.depths())
        plan = _noted(gc.plan(layout, width=width, depth=depth, scores=scores, scale=wanted.scale), wanted, layout)
        if parent.fields and not wanted.graph:
            with working("looking for settings of its class"):
                found = expressed(parent, layout, plan, scores, wanted.scale, wanted.seed)
            if isinstance(found, str):
                plan = plan.remark(f"the child is a rewritten graph: {found}")
            else:
                plan, overrides, child = found.plan, found.settings, found.child
        elif parent.build is not None and not wanted.graph:
            plan = plan.remark(
                "the child is a rewritten graph: which arguments of its factory say its sizes, --set NAME=VALUE has to tell"
            )
    if child is None and not wanted.graph and given is None:
        opened = _opened(asked, wanted, parent, plan)
        if isinstance(opened, Job):
            return replace(opened, plan=_remarked(opened.plan, plan), options=tuple(budget))
        plan = plan.remark(f"it takes inputs of the example's sizes only, which could not be left open: {opened}")
    begun = None
    if calibration is not None and (recipe := recipe_named(wanted.begins)) != PAPER:
        with working("rotating and refitting"):
            goal = target if target is not None else _destination(child, parent, layout) if child is not None else None
            begun = begin(layout, calibration, recipe, lambda ours, found: _replanned(ours, found, goal, plan, wanted), seen)
        plan = _remarked(begun.plan, plan)
    return Job(asked, parent, layout, plan, overrides, child, tuple(budget), begun)


def _opened(asked: Asked, wanted: Wanted, parent: Parent, plan: Plan) -> Job | str:
    """The rewritten graph once more, of a capture whose sizes are open; or why there is none that is as small."""
    if parent.program is not None:
        return "its parent is a program of such sizes"
    try:
        with working("leaving the sizes of its inputs open"):
            layout = analyze(capture(parent.module, parent.args, parent.kwargs, dynamic=True))
        if layout.trace.open is None or not layout.trace.open.varies():
            return "the model allows no others"
        job = planned(asked, replace(wanted, dynamic=True, graph=True), Known(parent, layout, None, None))
    except GraphcloneError as error:
        return str(error).splitlines()[0]
    if differs := [remark for remark in layout.trace.remarks if remark.startswith(DIFFERS)]:
        return differs[0]
    return job if _extent(job.plan) == _extent(plan) else "less of it would be free then"


def _extent(plan: Plan) -> list[list[int]]:
    """The shapes of a child's tensors."""
    return [[len(kept) for _, kept in dims] for _, dims in positions(plan)]


def _replanned(layout: Layout, scores: Scores, goal: Layout | None, plan: Plan, wanted: Wanted) -> Plan:
    """A plan of the same sizes, by other scores: into the destination, or with the widths and depths of a plan that there is."""
    if goal is not None:
        return plan_for(layout, goal, scores, wanted.scale)
    width = {name: len(kept) for name, kept in plan.keep.items()}
    depth = {name: len(blocks) for name, blocks in plan.stacks.items()}
    return gc.plan(layout, width=width, depth=depth, scores=scores, scale=wanted.scale)


def _remarked(plan: Plan, before: Plan) -> Plan:
    for remark in before.remarks:
        plan = plan.remark(remark)
    return plan


def asked_for(parent: Parent, overrides: dict[str, object], wanted: Wanted) -> nn.Module | None:
    """A new instance of the child's class; None where nothing names one."""
    if wanted.like is not None:
        return sources.alike(parent, wanted.like, overrides, seed=wanted.seed)
    return sources.destination(parent, overrides, seed=wanted.seed) if overrides else None


def _noted(plan: Plan, wanted: Wanted, layout: Layout) -> Plan:
    """The plan, with a remark on the sizes of its child's inputs."""
    found = layout.trace.open
    if found is None:
        return plan.remark("no size of the inputs could be left open (is one of them 1?)") if wanted.dynamic else plan
    return plan.remark(f"open sizes: {found.varies()}" + (f"; fixed: {fixed}" if (fixed := found.fixed()) else ""))


def _destination(child: nn.Module, parent: Parent, layout: Layout) -> Layout:
    try:
        return analyze(capture(child, parent.args, parent.kwargs, check=False), like=layout.blocks)
    except CaptureError as error:
        raise DestinationError(
            "the child cannot run on the parent's inputs",
            because=str(error).splitlines()[0],
            attempt="the parent's own settings for what goes in and out: image size, channels, length, vocabulary",
        ) from error
