"""Repair: linear maps of a child fitted, in closed form, to what they did in the parent.

When units are cut, what a linear map sums is no longer there. The parent's graph and the child's run side by side on the calibration
batches, and each map W′ [o′, i′] of the child is set to the least-squares solution of X′ W′ᵀ ≈ Y: X′ [n, i′] is what it is given in the
child, and Y [n, o′] the kept units of what its own map put out in the parent. Every map is fitted by itself: in the child's run, values
between blocks and results of maps are replaced by the parent's, so that no map learns to undo the errors of others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from graphclone import axes as algebra
from graphclone.calibration import Calibration, Run
from graphclone.execute.graph import Child, execute
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.rules import Typed, identity, name_of

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT = 4  # every fourth batch


@dataclass(frozen=True)
class Map:
    """A linear map of the child: `op` in its graph and `of` in the parent's; `weight`, a tensor of the plan, [out, in] if `rows`, else
    [in, out]. `last`: what it adds to the stream is the last that its block does."""

    op: fx.Node
    of: fx.Node
    weight: str
    rows: bool
    last: bool = False


@dataclass
class _Moments:
    """Sums over tokens: of x xᵀ, x yᵀ and |y|²."""

    xx: Tensor
    xy: Tensor
    yy: float
    count: int

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def error(self, w: Tensor) -> float:
        """The squared error of y = w x, [out, in]."""
        return float((w @ self.xx * w).sum() - 2 * (w.T * self.xy).sum()) + self.yy


@torch.no_grad()
def refitted(
    calibration: Calibration, plan: Plan, fitted: Mapping[str, Tensor] | None = None, *, spans: bool = True
) -> dict[str, Tensor]:
    """The child's linear maps that lost inputs, fitted to the parent's, by the child's names.

    The solution is drawn towards the plan's own weights by a ridge, for each map the one of `RIDGES` (shares of the mean squared input)
    that does best on every fourth batch; where none does better than the plan's weights, these stay.

    **Arguments**

    - `calibration`: of the parent that the plan was made of (a rotated one is), at least two batches;
    - `spans`: where blocks are dropped, let the last map before them add what they did, too.
    """
    found = {name: _solved(*each) for name, each in _measured(calibration, plan, fitted, spans).items()}
    return {name: weight for name, weight in found.items() if weight is not None}


@torch.no_grad()
def matched(calibration: Calibration, plan: Plan, fitted: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The child's linear maps that lost inputs, each multiplied by the one number that makes the mean square of its results (of the
    units that are kept, without the bias) what it is in the parent; by the child's names. Arguments as for `refitted`."""
    found = {}
    for name, (moments, weight, rows) in _measured(calibration, plan, fitted, spans=False).items():
        every = sum(moments[1:], moments[0])
        mapped = weight.double() if rows else weight.double().T
        size = float((mapped @ every.xx * mapped).sum())
        if size > 0:
            found[name] = weight * (every.yy / size) ** 0.5
    return found


def _measured(
    calibration: Calibration, plan: Plan, fitted: Mapping[str, Tensor] | None, spans: bool
) -> dict[str, tuple[list[_Moments], Tensor, bool]]:
    """For each map, by its weight's name: the moments of each batch, the plan's weight, and whether it is [out, in]."""
    moments: dict[str, list[_Moments]] = {}
    start: dict[str, tuple[Tensor, bool]] = {}
    for layout, batches in calibration.parts:
        child = execute(replace(plan, inputs={}), torch.nn.Module(), trace=layout.trace, fitted=fitted)
        maps = {each.op: each for each in _maps(layout, plan, child)}
        start.update({each.weight: (child.get_parameter(each.weight).detach(), each.rows) for each in maps.values()})
        side = _Beside(layout, plan, child, maps, moments, spans)
        for batch in batches:
            side.show(batch)
    return {name: (each, *start[name]) for name, each in moments.items()}


def _solved(moments: list[_Moments], weight: Tensor, rows: bool) -> Tensor | None:
    held_out = moments[_HELD_OUT - 1 :: _HELD_OUT] or moments[-1:]
    rest = [each for each in moments if not any(each is other for other in held_out)] or moments
    train, test = sum(rest[1:], rest[0]), sum(held_out[1:], held_out[0])
    first = weight.double() if rows else weight.double().T
    best, least = None, test.error(first)
    for ridge in RIDGES:
        if (error := test.error(_ridge(train, first, ridge))) < least:
            best, least = ridge, error
    if best is None:
        return None
    solution = _ridge(train + test if rest is not moments else train, first, best)
    return (solution if rows else solution.T).to(weight.dtype).contiguous()


def _ridge(moments: _Moments, first: Tensor, ridge: float) -> Tensor:
    """argmin |X Wᵀ - Y|² + λ |W - W₀|², with λ a share of the mean squared input."""
    damped = moments.xx + ridge * moments.xx.diagonal().mean() * torch.eye(len(moments.xx), dtype=torch.float64)
    change: Tensor = torch.linalg.solve(damped, moments.xy - moments.xx @ first.T)
    return first + change.T


def _maps(layout: Layout, plan: Plan, child: Child) -> Iterator[Map]:
    """The linear maps of the child that sum fewer inputs than in the parent, each of a weight that is used but once."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    shrunk = {c.node for c in layout.contractions if algebra.size(c.axis, keep) != c.axis.size}
    last = set(_last_maps(layout))
    for node in child.graph.nodes:
        of, at = node.meta.get("of"), _WEIGHT.get(name_of(node.target))
        if node.op == "call_function" and of in shrunk and at is not None:
            weight = node.args[at]
            rows = name_of(node.target) == "aten.linear"
            if name_of(weight.target) == "aten.t":
                weight, rows = weight.args[0], not rows
            if (
                weight.op == "get_attr"
                and len(weight.users) == 1
                and "tensor" in weight.meta
                and child.get_parameter(weight.meta["tensor"]).dim() == 2
            ):
                yield Map(node, of, weight.meta["tensor"], rows, of in last)


_WEIGHT = {"aten.linear": 1, "aten.addmm": 2, "aten.mm": 1, "aten.matmul": 1}


def _last_maps(layout: Layout) -> Iterator[fx.Node]:
    """Maps whose result is what a block adds to its stream last."""
    for block in itertools.chain.from_iterable(stack.blocks for stack in layout.blocks):
        if name_of(block.exit.target) == "aten.add":
            for node in block.exit.all_input_nodes:
                while node.op == "call_function" and (identity(node.target) or name_of(node.target) == "aten.reshape"):
                    node = node.all_input_nodes[0]
                if name_of(node.target) in _WEIGHT and len(node.users) == 1:
                    yield node


class _Beside(fx.Interpreter):
    """The child's graph, with the parent's values put in where these are known."""

    def __init__(
        self,
        layout: Layout,
        plan: Plan,
        child: Child,
        maps: Mapping[fx.Node, Map],
        moments: dict[str, list[_Moments]],
        spans: bool,
    ) -> None:
        super().__init__(child)
        self.layout, self.maps, self.moments = layout, maps, moments
        self.keep = {layout[name]: kept for name, kept in plan.keep.items()}
        self.parent: dict[fx.Node, Any] = {}
        self.stream = {end: end for stack in layout.blocks for block in stack.blocks for end in (block.entry, block.exit)}
        if spans:
            self.stream.update(_ends_of_spans(layout, plan))

    def show(self, batch: list[Any]) -> None:
        self.parent = {}
        Run(self.layout, lambda node, value, _: self.parent.update({node: value})).run(*batch)
        self.run(*batch)

    def run_node(self, n: fx.Node) -> Any:
        result, of = super().run_node(n), n.meta.get("of")
        if n in self.maps:
            return self._look(self.maps[n], result)
        return self._kept(of, self.parent[self.stream[of]]) if of in self.stream else result

    def _look(self, each: Map, result: Tensor) -> Tensor:
        target = self._kept(each.of, self.parent[each.of])
        if each.last and (exit := next((user for user in _outward(each.of) if user in self.stream), None)) is not None:
            beyond = self._kept(exit, self.parent[self.stream[exit]] - self.parent[exit])
            target = target + beyond.reshape(target.shape)
        args = each.op.args
        x = self.env[args[1] if name_of(each.op.target) == "aten.addmm" else args[0]].flatten(0, -2).double()  # type: ignore[index]
        y = target.flatten(0, -2).double()
        bias = (
            args[2]
            if name_of(each.op.target) == "aten.linear" and len(args) > 2
            else args[0]
            if name_of(each.op.target) == "aten.addmm"
            else None
        )
        if isinstance(bias, fx.Node):
            y = y - self.env[bias].double()
        self.moments.setdefault(each.weight, []).append(_Moments(x.T @ x, x.T @ y, float(y.square().sum()), len(x)))
        return target

    def _kept(self, of: fx.Node, value: Tensor) -> Tensor:
        """What the child has of a value of the parent."""
        typed = self.layout.types[of]
        for dim, axis in enumerate(typed.axes if isinstance(typed, Typed) else ()):
            positions = algebra.select(axis, self.keep)
            if positions != range(axis.size):
                value = value.index_select(dim, torch.as_tensor(positions))
        return value


def _outward(node: fx.Node) -> Iterator[fx.Node]:
    while len(node.users) == 1:
        (node,) = node.users
        yield node


def _ends_of_spans(layout: Layout, plan: Plan) -> dict[fx.Node, fx.Node]:
    """The exit of each kept block → the value of the parent that the next kept block begins with."""
    found = {}
    for stack in layout.blocks:
        chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
        if len(set(chosen)) == len(chosen):
            for index, following in itertools.pairwise((*chosen, len(stack))):
                found[stack.blocks[index].exit] = stack.blocks[following - 1].exit
    return found
