"""Unequal widths: which units inside blocks go, of all blocks at once, until a child is within a budget."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.errors import SizeError, UnknownNameError
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.rules import Typed, name_of
from graphclone.scores.scores import Scores

Widths = Mapping[str, int]
Cost = Callable[[Widths], float]  # what a child with these widths costs, of the factors that are allocated
Table = Mapping[str, Mapping[int, float]]  # factor → width → seconds, see `latency`
INSIDE = ("hidden", "heads", "kv_groups")


def parameters(layout: Layout, plan: Plan) -> Cost:
    """The plan's child's parameters."""
    every = [layout.axes(piece.source) for piece in plan.tensors.values() if piece.source in layout.trace.parameters]
    return lambda widths: sum(_product(axes, layout, plan, widths) for axes in every)


def flops(layout: Layout, plan: Plan) -> Cost:
    """Two for each multiply-add of the plan's child's matrix products, at the example inputs' sizes. Of a convolution, the channels count
    and not the kernel."""
    every = list(_products(layout, _gone(layout, plan)))
    return lambda widths: 2 * sum(_product(axes, layout, plan, widths) for axes in every)


def _products(layout: Layout, gone: set[fx.Node]) -> Iterator[tuple[Axis, ...]]:
    """For each matrix product, the axes of its result and those that it sums over."""
    summed: dict[fx.Node, list[Axis]] = defaultdict(list)
    for each in layout.contractions:
        if each.node not in gone and len(each.operands) > 1:  # one operand is a sum
            summed[each.node].append(each.axis)
    for node, axes in summed.items():
        typed = layout.types.get(node)
        if not isinstance(typed, Typed):
            continue
        if name_of(node.target) == "aten.scaled_dot_product_attention":  # q kᵀ, and p v: as much for each where v is as wide as k
            keys = layout.types[node.args[1]].axes[-2]  # type: ignore[index]
            yield from [(*typed.axes, keys)] * 2
        else:
            yield (*typed.axes, *axes)


def latency(table: Table) -> Cost:
    """An estimate of how long the plan's child takes, from measurements such as `graphclone.measure.measured` makes.

    **Arguments**: `table`, for each factor the time of the *whole* child at some widths of that factor, all others as wide as they can be
    (its widest entry is the same child in each row). Narrowing several factors is taken to save the sum of what each one saves by
    itself; between two widths times are linear. The budget is in the table's unit.

    **Raises** `SizeError` for a width outside the table, or an empty table.
    """
    if not table or not all(table.values()):
        raise SizeError("no time was measured", attempt="a table with at least one width of each of its factors")
    whole = statistics.median(times[max(times)] for times in table.values())

    def cost(widths: Widths) -> float:
        saved = (times[max(times)] - _between(name, times, widths[name]) for name, times in table.items() if name in widths)
        return whole - sum(saved)

    return cost


def allocate(
    layout: Layout,
    scores: Scores,
    plan: Plan,
    cost: Cost,
    budget: float,
    *,
    kinds: Sequence[str] = INSIDE,
    least: float = 0.125,
) -> dict[str, int]:
    """The widths with which a child is within the budget and of which the scores say that least is lost.

    The units of least score for what they cost go first, whichever block they are in. A factor of 64 units and more loses 8 at a time.
    Scores are taken to add up, which they may do less well between kinds of units than within one: `kinds` can be shared out by themselves.

    **Arguments**

    - `scores`: of units, comparable between blocks, as those from gradients are (`score_gradients`);
    - `plan`: the child's blocks and the widths of its stream; `cost`: of that child, such as `parameters(layout, plan)`; `budget`: in its
      unit, which for `latency` is the table's (seconds);
    - `kinds`: what may shrink, in the blocks that are kept: `hidden` units, `heads`, `kv_groups` (with them no heads inside groups);
    - `least`: the share of its units that each factor keeps at least.

    **Raises** `SizeError` when even the least is beyond the budget, or a factor has no scores; `UnknownNameError` for a kind.
    """
    if not 0 < least <= 1 or math.isnan(budget):
        raise SizeError(
            f"cannot share out {budget} with at least {least} of each factor", attempt="a number, and a share up to 1"
        )
    if unknown := [kind for kind in kinds if kind not in INSIDE]:
        raise UnknownNameError(f"no kind of units inside blocks is called '{unknown[0]}'", attempt=" or ".join(INSIDE))
    chosen = inside(layout, plan, kinds)
    steps = {factor.name: 8 if factor.size >= 64 else 1 for factor in chosen}
    floors = {factor.name: max(steps[factor.name], math.ceil(factor.size * least)) for factor in chosen}
    ranked = {factor.name: _ranked(factor, scores) for factor in chosen}
    widths = {factor.name: factor.size for factor in chosen}
    spent = cost(widths)
    offers = {name: _offer(name, widths, steps[name], floors[name], ranked[name], cost, spent) for name in widths}
    while spent > budget:
        best = min((offer for offer in offers.values() if offer is not None), default=None)
        if best is None:
            raise SizeError(
                f"no child within {_figure(budget)}",
                because=f"one with {least:.0%} of the units inside its blocks still costs {_figure(spent)}",
                attempt="a larger budget, fewer blocks, or a narrower stream",
            )
        _, name, size = best
        widths[name] = size
        spent = cost(widths)
        offers[name] = _offer(name, widths, steps[name], floors[name], ranked[name], cost, spent)
    return widths


def _offer(
    name: str, widths: Widths, step: int, floor: int, ranked: Sequence[float], cost: Cost, spent: float
) -> tuple[float, str, int] | None:
    """What is lost for each unit of cost if a factor's next units go; None where none may. Of measured times, the next few may save
    nothing: then more go at once."""
    size = widths[name]
    while size > floor:
        size = max(floor, (size - 1) // step * step)
        saved = spent - cost({**widths, name: size})
        if saved > 0:
            return sum(ranked[size : widths[name]]) / saved, name, size
    return None


def _figure(cost: float) -> str:
    """Parameters whole, seconds to four digits."""
    return f"{cost:,.0f}" if abs(cost) >= 1000 else f"{cost:.4g}"


def _ranked(factor: Factor, scores: Scores) -> list[float]:
    values = scores.units.get(factor.name)
    if values is None or len(values) != factor.size:
        raise SizeError(f"there are no scores of '{factor.name}'", attempt="score_gradients, or score_activations")
    return sorted(values, reverse=True)


def inside(layout: Layout, plan: Plan, kinds: Sequence[str]) -> list[Factor]:
    """What may shrink: free factors inside blocks that the plan has; of an attention with KV groups, these."""
    sources = {piece.source for piece in plan.tensors.values()}
    free = [
        factor
        for factor in layout.factors
        if factor.kind in kinds and factor.frozen is None and any(name in sources for name, _ in factor.slots)
    ]
    grouped = {slot for factor in free if factor.kind == "kv_groups" for slot in factor.slots}
    return [factor for factor in free if factor.size > 1 and (factor.kind != "heads" or not grouped & set(factor.slots))]


def _product(axes: Sequence[Axis], layout: Layout, plan: Plan, widths: Widths) -> int:
    keep = {layout[name]: kept for name, kept in plan.keep.items()} | {layout[name]: range(size) for name, size in widths.items()}
    return math.prod(algebra.size(axis, keep) for axis in axes)


def _gone(layout: Layout, plan: Plan) -> set[fx.Node]:
    return {
        node
        for stack in layout.blocks
        for index, block in enumerate(stack.blocks)
        if index not in plan.stacks.get(stack.name, range(len(stack)))
        for node in block.nodes
    }


def _between(name: str, table: Mapping[int, float], width: int) -> float:
    below, above = (max((w for w in table if w <= width), default=None), min((w for w in table if w >= width), default=None))
    if below is None or above is None:
        raise SizeError(f"no time is known of '{name}' with {width} units", attempt=f"a measurement beyond {sorted(table)}")
    share = (width - below) / (above - below) if above != below else 0.0
    return table[below] + share * (table[above] - table[below])
