"""Sorting, and what it is for: tokens sorted by their expert, run in groups, and put back.

An axis that is sorted by positions on another one (`axes.Order`) moves with it, in all tensors along it alike. That is harmless as
long as the sorted axis is treated position by position, cut at its own boundaries only, and left by the inverse permutation or a sum.
Anything else freezes it, and with it the axis that it was sorted by.
"""

from __future__ import annotations

from typing import Any

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor, Order
from graphclone.rules.op import Axes, Op, Typed, identity, name_of, rule
from graphclone.rules.table import ordered, pointwise


def order(axis: Axis) -> Order | None:
    """How an axis is sorted, if it is sorted by another one."""
    axis = algebra.find(axis)
    return axis.order if type(axis) is Factor else None


def permutation(typed: Typed) -> bool:
    """Whether integers are all positions of an axis, each of them once, in the order of another."""
    return len(typed.axes) == 1 and (found := order(typed.axes[0])) is not None and _same(found.of, typed.domain)


def counts(op: Op, name: str) -> bool:
    """Whether integers are 0, 1, 2, …: all positions of an axis, as they stand."""
    node, typed = op[name], op.type(name)
    while identity(node.target):
        node = node.args[0]
    return name_of(node.target) == "aten.arange" and typed.axes == (typed.domain,)


def _same(a: Axis, b: Axis | None) -> bool:
    return b is not None and algebra.find(a) == algebra.find(b)


@rule("sort", "argsort", "msort")
def sort(op: Op) -> Any:
    """As many come out as go in, ordered by value. The indices are positions on the axis that was sorted."""
    typed, axes = op.type("self"), op.axes("self")
    domain = typed.domain
    rising = not op.get("descending")
    dim = op.dim("dim", len(axes)) if "dim" in op.args else 0
    if domain is not None and rising and permutation(typed):  # sorted, it is the axis itself, and the indices are its inverse
        values, indices = Typed((domain,), domain), Typed((domain,), axes[0])
        op.reads("self")
    else:
        if axes:
            op.freeze(axes[dim], "sorted by value")
        values, indices = Typed(axes), Typed(axes, axes[dim] if axes else None)
        if domain is not None and len(axes) == 1 and rising:
            moved = algebra.sorted_axis(axes[0].size, axes[0], domain, "sorted by value")
            values, indices = Typed((moved,), domain), Typed((moved,), axes[0])
            op.reads("self")
    if name_of(op.node.target) == "aten.sort":
        return [values, indices]
    return indices if name_of(op.node.target) == "aten.argsort" else values


@rule("histc")
def histogram(op: Op) -> Typed:
    """How many of all the values lie in each bin; of positions on an axis, how many lie on each of its positions."""
    typed, bins = op.type("self"), op["bins"]
    for dim, axis in enumerate(op.axes("self")):
        op.contract(axis, ("self", dim))
        op.normalise(axis)
    if typed.domain is not None and (op["min"], op["max"]) == (0, bins - 1) and typed.domain.size == bins:
        op.reads("self")
        op.sizes("bins", typed.domain)
        op.sizes("max", typed.domain)  # less one
        return Typed((typed.domain,))
    return Typed(tuple(op.positional(bins, "bins are in order") for bins in op.shape()))


@rule("cumsum")
def cumsum(op: Op) -> Typed:
    """Positional; but the running sum of how many were sorted to each position of an axis are the boundaries between them."""
    counts = op["self"]
    while identity(counts.target):
        counts = counts.args[0]
    if name_of(counts.target) == "aten.histc":
        (runs,), axes = op.facts.types[counts.args[0]].axes or (algebra.UNIT,), op.axes("self")
        found = order(runs)
        if found is not None and _same(found.by, axes[0]):
            return Typed(axes, algebra.sorted_axis(runs.size + 1, runs, axes[0], "boundaries are in order"))
    return Typed(ordered(op, "dim", "depends on the order"))


def runs(op: Op) -> Typed | None:
    """`bucketize(arange, ends, right=True)`: between which boundaries a position of a sorted axis lies is by what it was sorted."""
    ends = op.type("boundaries").domain if "boundaries" in op.args else None
    edges = order(ends) if ends is not None else None
    found = order(edges.of) if edges is not None else None
    if edges is None or found is None or not _same(found.by, op.axes("boundaries")[0]):
        return None
    if not op["right"] or not counts(op, "self") or op.axes("self")[0].size != edges.of.size:
        return None
    op.freeze(op.axes("self")[0], "counts the positions of a sorted axis")
    op.reads("self", "boundaries")
    return Typed((edges.of,), found.by)


@rule("_grouped_mm", "transformers::grouped_mm_fallback", mixing=True)
def grouped_mm(op: Op) -> Axes:
    """`(runs i), (e i o) -> (runs o)`: the rows from one boundary to the next are multiplied with one matrix each."""
    rows, matrices = (next(name for name in names if name in op.args) for names in (("input", "self"), ("weight", "mat2")))
    (runs, i), (e, i2, o) = op.axes(rows), op.axes(matrices)
    (edge,), ends = op.axes("offs"), op.type("offs").domain
    found, edges = order(runs), order(ends) if ends is not None else None
    if found and edges and _same(edges.of, runs) and _same(found.by, edge):
        e = op.unify(e, edge)
        op.reads("offs")
    else:
        for axis in (runs, e, edge):
            op.freeze(axis, "rows are assigned to matrices by their order")
    op.contract(op.unify(i, i2), (rows, 1), (matrices, 1))
    op.contract(e)
    return (runs, o)


@rule("floor_divide", "remainder.Scalar")
def digit(op: Op) -> Typed:
    """Positions on a product, divided by the size of its inner digit, are positions on the outer one; the remainder, on the inner one."""
    domain, inner = op.type(op.first).domain, op["other"]
    if domain is None or not isinstance(inner, int) or inner < 2 or domain.size % inner:
        return Typed(pointwise(op))
    digits = algebra.split(domain, inner)
    op.sizes("other", digits[1])
    op.reads(op.first)
    return Typed(op.axes(op.first), digits[0] if name_of(op.node.target) == "aten.floor_divide" else digits[1])
