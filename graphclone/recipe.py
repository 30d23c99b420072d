"""Recipes: how a child begins. Which blocks and units it has, along which axes, scaled how, and what is fitted in closed form.

A recipe is data; `begin` follows it. No step trains anything: what a recipe costs is a few runs of the parent over calibration batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from graphclone.axes import Factor
from graphclone.calibration import Calibration
from graphclone.errors import FrozenError, GraphcloneError, UnknownNameError
from graphclone.execute.memory import weights
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.repair import Beside, beside, matched, refitted
from graphclone.rotation import Meetings, StreamMoment, mean_free, meetings, principal_axes, principal_axes_of_heads, rotated
from graphclone.scores import Scores, score_calibrated

Planner = Callable[[Layout, Scores], Plan]


@dataclass(frozen=True)
class Recipe:
    """How a child begins.

    - `stream`, `units`, `places`: how units are scored (see `graphclone.scores.kinds`);
    - `influence`: whether the blocks that change the stream least are dropped, and not the middle ones;
    - `rotate`: whether residual streams, and what is inside heads, are cut along their principal axes, where they can be rotated;
    - `refit`: whether linear maps that lost inputs are fitted to what they did in the parent; `spans`: the last one before dropped blocks
      to what these did, too (better before training, and worse after it: benchmarks/CONVERGENCE.md);
    - `match`: whether linear maps that lost inputs are multiplied by what makes their results as large as in the parent, instead.

    **Raises** `GraphcloneError` for `match`, or `spans` alone: the one stands in place of the refit, the other is part of it.
    """

    stream: str = "mean_abs"
    units: str = "contribution"
    places: str = "even_mean"
    influence: bool = True
    rotate: bool = True
    refit: bool = True
    spans: bool = False
    match: bool = False

    def __post_init__(self) -> None:
        if self.match and self.refit:
            raise GraphcloneError(
                "a recipe cannot both match and refit",
                because="both change the same maps",
                attempt="Recipe(refit=False, match=True)",
            )
        if self.spans and not self.refit:
            raise GraphcloneError(
                "spans are part of the refit, which this recipe has not", attempt="Recipe(spans=True) or Recipe(refit=False)"
            )


PAPER = Recipe(places="mean", influence=False, rotate=False, refit=False)
RECIPES: Mapping[str, Recipe] = {"paper": PAPER, "full": Recipe()}
DEFAULT = "full"  # where there is data: benchmarks/CONVERGENCE.md


def recipe_named(name: object) -> Recipe:
    """**Raises** `UnknownNameError`."""
    if name not in RECIPES:
        raise UnknownNameError(f"no recipe is called '{name}'", attempt=" or ".join(RECIPES))
    return RECIPES[str(name)]


@dataclass(frozen=True)
class Beginning:
    """The `plan` of a child, and its tensors that are computed rather than selected (`fitted`, by the child's names).

    `axes`: for each stream that is rotated, float32 [d, d′]: `parent_stream @ axes` is what the child's stream stands for.
    """

    plan: Plan
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    axes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What one run of the parent over the calibration data shows: the units' `scores`, and the moments of streams that may be rotated."""

    scores: Scores
    streams: Mapping[str, StreamMoment] = field(default_factory=dict)


def look(layout: Layout, calibration: Calibration, recipe: Recipe) -> Seen:
    """Run the parent once, for all that a recipe wants to know before there is a plan.

    **Raises** `WeightsError` when an activation is not finite.
    """
    streams = {}
    for factor in layout.factors if recipe.rotate else ():
        if factor.kind == "residual":
            with contextlib.suppress(FrozenError):  # `begin` says why
                streams[factor.name] = StreamMoment(factor.name, meetings(layout, factor).centred)
    scores = score_calibrated(
        calibration,
        stream=recipe.stream,
        units=recipe.units,
        places=recipe.places,
        influence=recipe.influence,
        beside=[each.look for each in streams.values()],
    )
    return Seen(scores, streams)


def begin(layout: Layout, calibration: Calibration, recipe: Recipe, planner: Planner, seen: Seen | None = None) -> Beginning:
    """Follow a recipe.

    **Arguments**

    - `layout`: of the parent; `calibration`: of the same parent, on data;
    - `planner`: from a layout and scores to a plan, such as `graphclone.plan` with widths and a depth. It is asked twice: the sizes that
      it comes to say along which axes a stream is cut;
    - `seen`: what `look` has found on the same data, by the same recipe.

    **Raises** whatever the planner raises; `WeightsError` when an activation is not finite.
    """
    seen = seen or look(layout, calibration, recipe)
    scores = seen.scores
    plan = planner(layout, scores)
    turned: dict[str, tuple[Meetings, Tensor]] = {}
    notes = []
    for factor in layout.factors if recipe.rotate else ():
        if factor.kind == "residual" and plan.size(factor.name) < factor.size:
            try:
                layout, calibration, turned[factor.name] = _rotated(
                    layout, calibration, factor, plan.size(factor.name), seen.streams.get(factor.name)
                )
            except FrozenError as error:
                notes.append(f"'{factor.name}' is selected from, not rotated: {error.because}")
    inside: dict[str, Meetings] = {}
    if recipe.rotate:
        layout, calibration, inside, said = _rotated_heads(layout, calibration, plan)
        notes += said
    if turned or inside:
        scores |= Scores({name: _in_order(layout[name]) for name in (*turned, *inside)})  # what else there is, is as it was
        plan = planner(layout, scores)
    changed = {name for met in (*(met for met, _ in turned.values()), *inside.values()) for name in met.changes()}
    made = {
        name: tensor for name, tensor in weights(plan, layout.trace.state.__getitem__) if plan.tensors[name].source in changed
    }
    for note in notes:
        plan = plan.remark(note)
    plan = replace(plan, fitted=tuple(made), rotated=(*turned, *inside))
    if recipe.match:
        made |= matched(beside(calibration, plan, layout, made))
    if recipe.refit:
        runs = beside(calibration, plan, layout, made)
        solved = refitted(runs, spans=recipe.spans) if runs.count() > 1 else {}
        plan = _told(plan, runs, len(solved), calibration.count())
        made |= solved
    plan = replace(plan, fitted=tuple(name for name in plan.tensors if name in made))
    return Beginning(plan, made, {name: _kept(met, axes, plan.size(name)) for name, (met, axes) in turned.items()})


def _told(plan: Plan, runs: Beside, solved: int, batches: int) -> Plan:
    """The plan with a remark where less was refitted than its reader would think."""
    if runs.refused:
        plan = plan.remark(f"maps are refitted on {runs.count()} of {batches} calibration batches: {runs.refused}")
    if runs.count() == 1:
        return plan.remark("no map is refitted: of one calibration batch nothing can be held out")
    if runs.count() and plan.keep and not solved:
        return plan.remark(
            "no map is refitted: of those that lost inputs none is a matrix of its own that another one would better"
        )
    return plan


def _kept(met: Meetings, axes: Tensor, width: int) -> Tensor:
    """The first axes, of a stream whose mean is taken out if its norms take it out."""
    return (axes - axes.mean(0) if met.centred else axes)[:, :width].float()


def _rotated(
    layout: Layout, calibration: Calibration, factor: Factor, width: int, seen: StreamMoment | None
) -> tuple[Layout, Calibration, tuple[Meetings, Tensor]]:
    """The parent on a turned stream, and how it was turned.

    **Raises** `FrozenError` where a rotation is no invariance.
    """
    met = meetings(layout, factor)
    axes = (seen.principal() if seen is not None else principal_axes(calibration, factor.name, met.centred)).axes

    def along(axes: Tensor) -> Calibration:
        return calibration.with_state(lambda each: rotated(each, meetings(each, each[factor.name]), axes))

    turned = along(mean_free(axes, factor.size) if met.centred else axes)
    if not calibration.same(turned):  # the analysis has overlooked something
        raise FrozenError(f"cannot rotate '{factor.name}'", because="on the calibration data a rotation changes the outputs")
    if met.centred:  # at full width another rotation than that of a narrower child
        axes = mean_free(axes, width)
        turned = along(axes)
    return rotated(layout, met, axes), turned, (met, axes)


def _rotated_heads(
    layout: Layout, calibration: Calibration, plan: Plan
) -> tuple[Layout, Calibration, dict[str, Meetings], list[str]]:
    """The parent with the inside of its heads turned, wherever the plan cuts it; by what, and where it cannot be."""
    met, notes = dict[str, Meetings](), dict[str, str]()
    for factor in layout.factors:
        if factor.kind == "head_dim" and plan.size(factor.name) < factor.size:
            try:
                met[factor.name] = meetings(layout, factor)
            except FrozenError as error:
                notes.setdefault(str(error.because), f"'{factor.name}' is selected from, not rotated: {error.because}")
    if not met:
        return layout, calibration, {}, list(notes.values())
    axes = principal_axes_of_heads(calibration, met)
    found = {name: each for name, each in met.items() if name in axes}

    def along(each: Layout) -> Layout:
        for name in found:
            each = rotated(each, meetings(each, each[name]), axes[name])
        return each

    turned = calibration.with_state(along)
    if not calibration.same(turned):  # the analysis has overlooked something
        why = "on the calibration data a rotation inside heads changes the outputs: they are selected from"
        return layout, calibration, {}, [*notes.values(), why]
    return along(layout), turned, found, list(notes.values())


def _in_order(factor: Factor) -> tuple[float, ...]:
    """The axis with the most energy is the first."""
    return tuple(float(factor.size - index) for index in range(factor.size))
