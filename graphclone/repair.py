"""Repair: linear maps of a child fitted, in closed form, to what they did in the parent.

When units are cut, what a linear map sums is no longer there. The parent's graph and the child's run side by side on the calibration
batches, and each map W′ [o′, i′] of the child is set to the least-squares solution of X′ W′ᵀ ≈ Y: X′ [n, i′] is what it is given in the
child, and Y [n, o′] the kept units of what its own map put out in the parent. Every map is fitted by itself: in the child's run, values
between blocks and results of maps are replaced by the parent's, so that no map learns to undo the errors of others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphclone import axes as algebra
from graphclone.calibration import Calibration, Run
from graphclone.errors import PlanError
from graphclone.execute.graph import Child, execute
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.reshaped import reshaped
from graphclone.rules import Typed, identity, name_of

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT = 4  # every fourth batch
_MEMORY = 2**31  # bytes


@dataclass(frozen=True)
class Map:
    """A linear map of the child: `op` in its graph and `of` in the parent's; `weight`, a tensor of the plan, [out, in] if `rows`, else
    [in, out], or a stack of such. `last`: what it adds to the stream is the last that its block does."""

    op: fx.Node
    of: fx.Node
    weight: str
    rows: bool
    last: bool = False


@dataclass
class _Moments:
    """Sums over tokens: of x xᵀ, x yᵀ and |y|²; the first two for each matrix of a stack, over its tokens."""

    xx: Tensor
    xy: Tensor
    yy: float

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    def error(self, w: Tensor) -> float:
        """The squared error of y = w x, [out, in]."""
        return float((w @ self.xx * w).sum() - 2 * (w.mT * self.xy).sum()) + self.yy


@dataclass(frozen=True)
class Part:
    """Batches of one shape, with the graphs of parent and child at that shape, and the plan that the child's is of."""

    layout: Layout
    batches: tuple[list[Any], ...]
    plan: Plan
    child: Child


@dataclass(frozen=True)
class Beside:
    """The child beside its parent. `refused`: why there is no child's graph for some of the batches, empty where there is for all."""

    parts: tuple[Part, ...]
    refused: str = ""

    def count(self) -> int:
        """How many batches there are."""
        return sum(len(part.batches) for part in self.parts)


def beside(calibration: Calibration, plan: Plan, layout: Layout, fitted: Mapping[str, Tensor] | None = None) -> Beside:
    """**Arguments**: `calibration`, of the parent that the plan was made of (a rotated one is), and `layout`, which it was made of;
    `fitted`, tensors of the child that are no selection."""
    parts, refused = [], ""
    for ours, batches in calibration.parts:
        try:
            there = reshaped(plan, layout, ours)
            child = execute(there, torch.nn.Module(), trace=ours.trace, fitted=fitted)
        except PlanError as error:
            refused = refused or ": ".join(filter(None, (str(error).splitlines()[0], error.because)))
        else:
            parts.append(Part(ours, batches, there, child))
    return Beside(tuple(parts), refused)


@torch.no_grad()
def refitted(beside: Beside, *, spans: bool = False) -> dict[str, Tensor]:
    """The child's linear maps that lost inputs, fitted to the parent's, by the child's names.

    The solution is drawn towards the plan's own weights by a ridge, for each map the one of `RIDGES` (shares of the mean squared input)
    that does best on every fourth batch; where none does better than the plan's weights, these stay.

    **Arguments**: `beside`, of at least two batches; `spans`: where blocks are dropped, let the last map before them add what they
    did, too.
    """
    found: dict[str, Tensor] = {}
    for each in _measured(beside, spans):
        weight = each.solved()
        if weight is not None:
            found[each.weight] = weight
    return found


@torch.no_grad()
def matched(beside: Beside) -> dict[str, Tensor]:
    """The child's linear maps that lost inputs, each multiplied by the one number that makes the mean square of its results (of the
    units that are kept, without the bias) what it is in the parent; by the child's names."""
    factors = {each.weight: (each.start, each.matched()) for each in _measured(beside, spans=False)}
    return {name: start * factor for name, (start, factor) in factors.items() if factor is not None}


@dataclass
class _Measured:
    """What was seen of one map: moments of batches that are learnt from, and of the others."""

    weight: str
    start: Tensor
    rows: bool
    train: _Moments | None = None
    test: _Moments | None = None

    def add(self, moments: _Moments, held_out: bool) -> None:
        if held_out:
            self.test = moments if self.test is None else self.test + moments
        else:
            self.train = moments if self.train is None else self.train + moments

    @property
    def first(self) -> Tensor:
        """The plan's own weight, [out, in], or a stack of such."""
        return self.start.double() if self.rows else self.start.double().mT

    def solved(self) -> Tensor | None:
        """The weight that fits best; None where the plan's own does, or where nothing is held out that could tell."""
        if self.train is None or self.test is None:
            return None
        best, least = None, self.test.error(self.first)
        for ridge in RIDGES:
            if (error := self.test.error(_ridge(self.train, self.first, ridge))) < least:
                best, least = ridge, error
        if best is None:
            return None
        solution = _ridge(self.train + self.test, self.first, best)
        return (solution if self.rows else solution.mT).to(self.start.dtype).contiguous()

    def matched(self) -> float | None:
        every = [each for each in (self.train, self.test) if each is not None]
        size, wanted = sum(float((self.first @ each.xx * self.first).sum()) for each in every), sum(each.yy for each in every)
        return float((wanted / size) ** 0.5) if size > 0 else None


def _measured(beside: Beside, spans: bool) -> Iterator[_Measured]:
    """Each map with its moments. So many maps at a time as `_MEMORY` holds moments of; each time the batches are run anew."""
    found: dict[str, _Measured] = {}
    for part in beside.parts:
        for one in _maps(part.layout, part.plan, part.child):
            start = part.child.get_parameter(one.weight).detach()
            found.setdefault(one.weight, _Measured(one.weight, start, one.rows))
    total = beside.count()
    for group in _groups(list(found.values())):
        at = itertools.count()
        for part in beside.parts:
            side = _Side(part, set(group), spans)
            for batch in part.batches:
                index = next(at)
                for name, moments in side.show(batch):
                    group[name].add(moments, index % _HELD_OUT == _HELD_OUT - 1 or (index == total - 1 > 0 and total < _HELD_OUT))
        yield from group.values()
        for each in group.values():
            each.train = each.test = None


def _groups(every: list[_Measured]) -> Iterator[dict[str, _Measured]]:
    group: dict[str, _Measured] = {}
    held = 0
    for each in every:
        *stack, out, given = each.first.shape
        size = 2 * 8 * math.prod(stack) * given * (given + out)
        if group and held + size > _MEMORY:
            yield group
            group, held = {}, 0
        group[each.weight], held = each, held + size
    if group:
        yield group


def _ridge(moments: _Moments, first: Tensor, ridge: float) -> Tensor:
    """argmin |X Wᵀ - Y|² + λ |W - W₀|², with λ a share of the mean squared input. Where nothing goes in, W₀."""
    mean = moments.xx.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    damped = moments.xx + torch.where(mean > 0, ridge * mean, 1.0) * torch.eye(moments.xx.shape[-1]).to(moments.xx)
    change: Tensor = torch.linalg.solve(damped, moments.xy - moments.xx @ first.mT)
    return torch.where(mean > 0, first + change.mT, first)


def _maps(layout: Layout, plan: Plan, child: Child) -> Iterator[Map]:
    """The linear maps of the child that sum fewer inputs than in the parent, each of a weight that is used but once."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    shrunk = {c.node for c in layout.contractions if algebra.size(c.axis, keep) != c.axis.size}
    last, parameters = set(_last_maps(layout)), dict(child.named_parameters(remove_duplicate=False))
    for node in child.graph.nodes:
        of, at = node.meta.get("of"), _WEIGHT.get(name_of(node.target))
        if node.op == "call_function" and of in shrunk and at is not None:
            weight, grouped = node.args[at], name_of(node.target) in _GROUPED
            rows = name_of(node.target) == "aten.linear"
            if name_of(weight.target) == "aten.t" or (grouped and _swaps(weight)):
                weight, rows = weight.args[0], not rows
            if (
                weight.op == "get_attr"
                and len(weight.users) == 1
                and "tensor" in weight.meta
                and weight.meta["tensor"] in parameters
                and parameters[weight.meta["tensor"]].dim() == 2 + grouped
                and (not grouped or _whole(layout, plan, weight.meta["tensor"]))
                and (node.kwargs.keys() <= {"offs"} if grouped else not node.kwargs)  # an alpha or beta of addmm
                and not (grouped and any(node.args[3:]))  # nor a bias or another dtype
            ):
                yield Map(node, of, weight.meta["tensor"], rows, of in last)


_WEIGHT = {
    "aten.linear": 1,
    "aten.addmm": 2,
    "aten.mm": 1,
    "aten.matmul": 1,
    "aten._grouped_mm": 1,
    "transformers.grouped_mm_fallback": 1,
}
_GROUPED = ("aten._grouped_mm", "transformers.grouped_mm_fallback")  # rows up to each boundary, with one matrix of a stack each


def _swaps(node: fx.Node) -> bool:
    return name_of(node.target) == "aten.transpose" and {int(dim) % 3 for dim in node.args[1:3]} == {1, 2}  # type: ignore[arg-type]


def _whole(layout: Layout, plan: Plan, weight: str) -> bool:
    """Whether the child has every matrix of a stack, so that it can be given the rows that the parent's is."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    axis = layout.axes(plan.tensors[weight].source)[0]
    return 0 not in plan.tensors[weight].take and algebra.size(axis, keep) == axis.size


def _last_maps(layout: Layout) -> Iterator[fx.Node]:
    """Maps whose result is what a block adds to its stream last."""
    for block in itertools.chain.from_iterable(stack.blocks for stack in layout.blocks):
        if name_of(block.exit.target) == "aten.add":
            for node in block.exit.all_input_nodes:
                while node.op == "call_function" and (identity(node.target) or name_of(node.target) == "aten.reshape"):
                    node = node.all_input_nodes[0]
                if name_of(node.target) in _WEIGHT and len(node.users) == 1:
                    yield node


class _Side(fx.Interpreter):
    """The child's graph, with the parent's values put in where these are known; maps of these `weights` are looked at."""

    def __init__(self, part: Part, weights: Set[str], spans: bool) -> None:
        super().__init__(part.child)
        self.layout, layout, plan = part.layout, part.layout, part.plan
        maps = list(_maps(layout, plan, part.child))
        self.maps = {each.op: each for each in maps if each.weight in weights}
        self.results = {each.op: each.of for each in maps}
        self.keep = {layout[name]: kept for name, kept in plan.keep.items()}
        self.stream = {end: end for stack in layout.blocks for block in stack.blocks for end in (block.entry, block.exit)}
        if spans:
            self.stream.update(_ends_of_spans(layout, plan))
        self.needed = self._needed()
        self.chosen = self._choices()
        self.wanted = {*self.results.values(), *self.stream, *self.stream.values(), *self.chosen.values()}
        self.parent: dict[fx.Node, Any] = {}
        self.given: tuple[fx.Node, Tensor, Tensor] | None = None
        self.seen: list[tuple[str, _Moments]] = []

    def show(self, batch: list[Any]) -> list[tuple[str, _Moments]]:
        """Run one batch: the moments of each map, by its weight's name."""
        self.parent, self.given, self.seen = {}, None, []
        Run(self.layout, lambda node, value, _: self.parent.update({node: value} if node in self.wanted else {})).run(*batch)
        self.run(*batch, enable_io_processing=False)
        return self.seen

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.needed and n.op != "placeholder":  # which takes its input off the list
            return None
        of = n.meta.get("of")
        if n in self.chosen:
            return self.parent[self.chosen[n]]
        if n in self.results:
            target = self._kept(self.results[n], self.parent[self.results[n]])
            return self._look(self.maps[n], target) if n in self.maps else target
        return self._kept(of, self.parent[self.stream[of]]) if of in self.stream else super().run_node(n)

    def _needed(self) -> set[fx.Node]:
        """The maps that are looked at and what they are given, back to where the parent's values stand in."""
        found, waiting = set(self.maps), [node for op in self.maps for node in op.all_input_nodes]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                known = node in self.results or node.meta.get("of") in self.stream
                waiting += () if known else node.all_input_nodes
        return found

    def _choices(self) -> dict[fx.Node, fx.Node]:
        """Whole numbers that say which rows go to which matrix of a stack: the child's are the parent's, so that rows are the same ones."""
        found, waiting = dict[fx.Node, fx.Node](), [op for op in self.maps if name_of(op.target) in _GROUPED]
        passed = {*self.results, *(node for node in self.needed if node.meta.get("of") in self.stream)}
        while waiting:
            for node in waiting.pop().all_input_nodes:
                if node in passed or node.op != "call_function":
                    continue
                passed.add(node)
                value = node.meta["of"].meta.get("val")
                if isinstance(value, Tensor) and not value.is_floating_point():
                    found[node] = node.meta["of"]
                else:
                    waiting.append(node)
        return found

    def _look(self, each: Map, result: Tensor) -> Tensor:
        target = result
        if each.last and (exit := next((user for user in _outward(each.of) if user in self.stream), None)) is not None:
            beyond = self._kept(exit, self.parent[self.stream[exit]] - self.parent[exit])
            target = target + beyond.reshape(target.shape)
        args = each.op.args
        if name_of(each.op.target) in _GROUPED:
            self.seen.append((each.weight, _by_matrix(self.env[args[0]], target, self.env[_ends(each.op)])))  # type: ignore[index]
            return target
        x, xx = self._input(args[1] if name_of(each.op.target) == "aten.addmm" else args[0])  # type: ignore[arg-type]
        y = target.reshape(-1, target.shape[-1]).double()
        bias = _bias(each.op)
        if bias is not None:
            y = y - self.env[bias].double()
        self.seen.append((each.weight, _Moments(xx, x.T @ y, float(y.square().sum()))))
        return target

    def _input(self, node: fx.Node) -> tuple[Tensor, Tensor]:
        """What a map is given, and the sum of x xᵀ: several in a row (queries, keys, values) are given the same."""
        if self.given is None or self.given[0] is not node:
            x = self.env[node]
            x = x.reshape(-1, x.shape[-1]).double()
            self.given = node, x, x.T @ x
        return self.given[1:]

    def _kept(self, of: fx.Node, value: Tensor) -> Tensor:
        """What the child has of a value of the parent."""
        typed = self.layout.types[of]
        for dim, axis in enumerate(typed.axes if isinstance(typed, Typed) else ()):
            positions = algebra.select(axis, self.keep)
            if positions != range(axis.size):
                value = value.index_select(dim, torch.as_tensor(positions, device=value.device))
        return value


def _ends(op: fx.Node) -> fx.Node:
    found = op.kwargs.get("offs", op.args[2] if len(op.args) > 2 else None)
    assert isinstance(found, fx.Node)
    return found


def _by_matrix(x: Tensor, y: Tensor, ends: Tensor) -> _Moments:
    """Of rows x [n, i] and y [n, o], those from one boundary to the next are one matrix's."""
    bounds = [0, *ends.tolist()]
    parts = [(x[start:end].double(), y[start:end].double()) for start, end in itertools.pairwise(bounds)]
    xx, xy = torch.stack([a.T @ a for a, _ in parts]), torch.stack([a.T @ b for a, b in parts])
    return _Moments(xx, xy, sum(float(b.square().sum()) for _, b in parts))


def _bias(op: fx.Node) -> fx.Node | None:
    linear = name_of(op.target) == "aten.linear"
    bias = (op.args[2] if len(op.args) > 2 else None) if linear else op.args[0] if name_of(op.target) == "aten.addmm" else None
    return bias if isinstance(bias, fx.Node) else None


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
