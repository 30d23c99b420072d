"""Ops that only rearrange: views, permutations, concatenation, slices, repetition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from graphclone import axes as algebra
from graphclone.axes import UNIT, Axis, Product, concat, product
from graphclone.errors import SizeError
from graphclone.rules.op import Axes, Op, Opaque, Typed, as_int, rule


def regroup(op: Op, axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes of a row-major reshape: runs of dims with equal products are the same positions, written in other digits."""
    if math.prod(axis.size for axis in axes) != math.prod(shape):
        raise SizeError(f"{[axis.size for axis in axes]} cannot be laid out as {list(shape)}")
    result: list[Axis] = []
    source = [digit for axis in reversed(axes) for digit in (reversed(axis.parts) if type(axis) is Product else (axis,))]
    target = list(reversed(shape))
    while target:
        news = [target.pop()]
        if news[0] == 1:
            result.append(UNIT)
            continue
        olds = [source.pop()]
        old, new = olds[0].size, news[0]
        while old != new:
            if old < new:
                olds.append(source.pop())
                old *= olds[-1].size
            else:
                news.append(target.pop())
                new *= news[-1]
        if len(news) == 1:
            result.append(product(*map(algebra.find, olds)))
        else:
            fresh = [algebra.factor(each) for each in news]
            op.unify(product(*map(algebra.find, olds)), product(*fresh))
            result.extend(fresh)
    return tuple(result)


@rule(
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "view_as",
    "reshape_as",
    "ravel",
    "_reshape_copy",
)
def view(op: Op) -> Typed:
    typed, shape = op.type("self"), op.shape()
    if op.get("dtype") is not None:
        raise Opaque("its bits are read as another type")
    if 0 in shape:
        raise Opaque("it has no elements")
    op.shape_only("other")
    axes = regroup(op, op.axes("self"), shape)
    if op.has("other"):
        axes = tuple(op.unify(a, b) for a, b in zip(axes, op.axes("other"), strict=True))
    for name in ("size", "shape", "sizes"):
        stated = op.get(name)
        if isinstance(stated, (list, tuple)):
            first = op.dim("dim", len(op.axes("self"))) if name == "sizes" else 0
            for index, size in enumerate(stated):
                if not isinstance(size, int) or size >= 0:
                    op.sizes(name, [axes[first + index]], index)
    op.reads("self")
    return Typed(axes, typed.domain)


def moved(op: Op, order: Sequence[int]) -> Typed:
    op.reads(op.first)
    axes = op.axes(op.first)
    return Typed(tuple(axes[dim] for dim in order), op.type(op.first).domain)


@rule("sym_size")
def sym_size(op: Op) -> Axes:
    """An open size, as a number: no axis is touched. (`Op.follow` looks after the ops that are given it.)"""
    return ()


@rule("permute", "permute_copy")
def permute(op: Op) -> Typed:
    return moved(op, op.dims("dims", len(op.axes("self"))) if op["dims"] else ())


@rule("transpose", "swapaxes", "swapdims")
def transpose(op: Op) -> Typed:
    order = list(range(len(op.axes("self"))))
    first, second = (op.dim(name, len(order)) for name in (("dim0", "dim1") if "dim0" in op.args else ("axis0", "axis1")))
    if order:
        order[first], order[second] = order[second], order[first]
    return moved(op, order)


@rule("t", "numpy_T", "mT", "adjoint", "mH")
def reverse(op: Op) -> Typed:
    rank = len(op.axes("self"))
    order = list(range(rank))
    return moved(op, order[::-1] if "numpy_T" in str(op.node.target) or rank < 3 else [*order[:-2], rank - 1, rank - 2])


@rule("movedim", "moveaxis")
def movedim(op: Op) -> Typed:
    rank = len(op.axes("self"))
    sources, targets = op.dims("source", rank), op.dims("destination", rank)
    rest = (dim for dim in range(rank) if dim not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return moved(op, [placed[dim] if dim in placed else next(rest) for dim in range(rank)])


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(op: Op) -> Typed:
    """A dim of one position becomes n copies, which are interchangeable."""
    op.shape_only("other")
    op.reads("self")
    axes, shape = op.axes("self"), op.shape()
    padded = (UNIT,) * (len(shape) - len(axes)) + axes
    result = [axis if axis.size == size else algebra.factor(size) for axis, size in zip(padded, shape, strict=True)]
    if op.has("other"):
        result = [op.unify(a, b) for a, b in zip(result, op.axes("other"), strict=True)]
    stated = op.get("size")
    if isinstance(stated, (list, tuple)):
        for index, size in enumerate(stated):
            if not isinstance(size, int) or size >= 0:
                op.sizes("size", [result[index]], index)
    return Typed(tuple(result), op.type("self").domain)


@rule("broadcast_tensors")
def broadcast_tensors(op: Op) -> list[Axes]:
    axes = op.broadcast(*op.lists("tensors"))
    return [axes] * len(op["tensors"])


@rule("meshgrid")
def meshgrid(op: Op) -> list[Typed]:
    types = [op.facts.types[each] for each in op["tensors"]]
    axes = [typed.axes[0] if typed.axes else UNIT for typed in types]
    if op.get("indexing") == "xy" and len(axes) > 1:
        axes[0], axes[1] = axes[1], axes[0]
    op.reads("tensors")
    return [Typed(tuple(axes), typed.domain) for typed in types]


@rule("cat", "concat", "concatenate")
def cat(op: Op) -> Axes:
    """Segments side by side in one dim; the other dims are the same."""
    lists = [axes for axes in op.lists("tensors") if [axis.size for axis in axes] != [0]]
    if not lists:
        return (algebra.EMPTY,)
    dim = op.dim("dim" if "dim" in op.args else "axis", len(lists[0]))
    joined = concat(*(axes[dim] for axes in lists))
    others = [[axis for index, axis in enumerate(axes) if index != dim] for axes in lists]
    result = list(others[0])
    for other in others[1:]:
        result = [op.unify(a, b) for a, b in zip(result, other, strict=True)]
    return (*result[:dim], joined, *result[dim:])


@rule("stack")
def stack(op: Op) -> Axes:
    """A new dim of single positions, one per tensor."""
    axes = op.broadcast(*op.lists("tensors"))
    dim = op.dim("dim", len(axes) + 1)
    return (*axes[:dim], concat(*(UNIT,) * len(op["tensors"])), *axes[dim:])


@rule(
    "split_with_sizes",
    "split_with_sizes_copy",
    "split",
    "chunk",
    "tensor_split",
    "unsafe_split",
    "unsafe_chunk",
    "unsafe_split_with_sizes",
)
def split(op: Op) -> list[Typed]:
    """Segments of one dim. (Capture has written `split` and `chunk` as sizes, so that a child's pieces may be unequal.)"""
    axes, results = op.axes("self"), range(len(op.node.meta["val"]))
    dim = op.dim("dim", len(axes))
    sizes = [op.shape(each)[dim] for each in results]
    ends = list(itertools.accumulate(sizes))[:-1]
    pieces = algebra.cuts(axes[dim], sizes)
    if op.get("split_sizes", "split_size") == sizes:
        op.sizes("split_sizes" if "split_sizes" in op.args else "split_size", pieces)
    elif op.get("indices") == ends:
        op.sizes("indices", [concat(*pieces[: count + 1]) for count in range(len(ends))])
    else:
        op.freeze(axes[dim], "split into pieces whose sizes it works out itself")
    op.reads("self")
    return [Typed((*axes[:dim], piece, *axes[dim + 1 :]), op.type("self").domain) for piece in pieces]


@rule("unbind", "unbind_copy")
def unbind(op: Op) -> list[Typed]:
    op.reads("self")
    axes = op.axes("self")
    dim = op.dim("dim", len(axes))
    algebra.cuts(axes[dim], [1] * axes[dim].size)
    rest = (*axes[:dim], *axes[dim + 1 :])
    return [Typed(rest, op.type("self").domain)] * len(op.node.meta["val"])


@rule("select", "select_copy")
def select(op: Op) -> Typed:
    """One position of a dim."""
    op.reads("self")
    axes = op.axes("self")
    dim = op.dim("dim", len(axes))
    at = as_int(op["index"]) % axes[dim].size
    before, _ = algebra.cut(axes[dim], at)
    algebra.cut(axes[dim], at + 1)
    _stated(op, "index", before, axes[dim])
    return Typed((*axes[:dim], *axes[dim + 1 :]), op.type("self").domain)


def _stated(op: Op, name: str, before: Axis, axis: Axis) -> None:
    """A place in `axis` is stated as the size of what comes before it."""
    value = op[name]
    if isinstance(value, int) and value >= 0:
        if value <= axis.size:  # what lies beyond the end may stay there
            op.sizes(name, before)
    elif value is not None:  # capture makes negative places positive wherever the size is known
        op.freeze(axis, f"its {name} counts from the end of a dim, or is no constant")


def bounds(op: Op, size: int) -> tuple[int, int, int]:
    start, end, step = (op.get(name) for name in ("start", "end", "step"))
    return slice(*(None if each is None else as_int(each) for each in (start, end, step))).indices(size)


@rule("slice", "slice_copy")
def slice_(op: Op) -> Typed:
    """A segment of a dim; with a step that divides it, one value of its inner digit."""
    op.reads("self")
    axes = op.axes("self")
    dim = op.dim("dim", len(axes))
    start, end, step = bounds(op, axes[dim].size)
    piece = segment(op, axes[dim], start, max(end, start)) if step == 1 else strided(op, axes[dim], start, end, step)
    return Typed((*axes[:dim], piece, *axes[dim + 1 :]), op.type("self").domain)


def segment(op: Op, axis: Axis, start: int, end: int) -> Axis:
    before, rest = algebra.cut(axis, start)
    piece, _ = algebra.cut(rest, end - start)
    _stated(op, "start", before, axis)
    _stated(op, "end", concat(algebra.find(before), algebra.find(piece)), axis)
    return algebra.find(piece)


def strided(op: Op, axis: Axis, start: int, end: int, step: int) -> Axis:
    count = len(range(start, end, step))
    if axis.size % step or start >= step or count != axis.size // step or not isinstance(op["step"], int):
        op.freeze(axis, f"sliced with a step of {step}")
        return op.positional(count, f"sliced with a step of {step}")
    outer, inner = algebra.split(axis, step)
    algebra.cuts(inner, [1] * step)
    _stated(op, "end", axis, axis)
    return algebra.find(outer)


@rule("narrow")
def narrow(op: Op) -> Typed:
    if not isinstance(op["start"], int) or not isinstance(op["length"], int):
        raise Opaque("its start or length is no constant")
    op.reads("self")
    axes = op.axes("self")
    dim = op.dim("dim", len(axes))
    start = op["start"] % axes[dim].size if op["start"] < 0 else op["start"]
    before, rest = algebra.cut(axes[dim], start)
    piece, _ = algebra.cut(rest, as_int(op["length"]))
    op.sizes("start", before)
    op.sizes("length", piece)
    return Typed((*axes[:dim], piece, *axes[dim + 1 :]), op.type("self").domain)


@rule("repeat", "tile")
def repeat(op: Op) -> Typed:
    """n copies of the whole axis, one after the other."""
    op.reads("self")
    axes, counts = op.axes("self"), [as_int(n) for n in op.get("repeats", "dims")]
    rank = max(len(axes), len(counts))
    counts, padded = [1] * (rank - len(counts)) + counts, (UNIT,) * (rank - len(axes)) + axes
    copies = [algebra.factor(count) for count in counts]
    op.sizes("repeats" if "repeats" in op.args else "dims", copies[rank - len(op.get("repeats", "dims")) :])
    return Typed(tuple(product(copy, axis) for copy, axis in zip(copies, padded, strict=True)), op.type("self").domain)


@rule("repeat_interleave.self_int")
def repeat_interleave(op: Op) -> Typed:
    """n copies of each position, side by side."""
    op.reads("self")
    axes, count = op.axes("self"), as_int(op["repeats"])
    if op["dim"] is None:
        axes = (product(*axes),)
    dim = op.dim("dim", len(axes)) if op["dim"] is not None else 0
    copies = algebra.factor(count)
    repeated = product(axes[dim], copies)
    op.sizes("repeats", copies)
    op.sizes("output_size", repeated)
    return Typed((*axes[:dim], repeated, *axes[dim + 1 :]), op.type("self").domain)


@rule("pad", "constant_pad_nd")
def pad(op: Op) -> Axes:
    """Constant padding puts uniform segments around an axis; the other modes read neighbours."""
    axes, amounts = list(op.axes("self")), [as_int(each) for each in op["pad"]]
    constant = op.get("mode") in (None, "constant")
    for place, (left, right) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        dim = len(axes) - 1 - place
        if not left and not right:
            continue
        if not constant:
            op.freeze(axes[dim], f"padded by {op['mode']}")
            axes[dim] = op.positional(axes[dim].size + left + right, f"padded by {op['mode']}")
            continue
        before, axis = algebra.cut(axes[dim], max(-left, 0))
        axis, after = algebra.cut(axis, axis.size - max(-right, 0))
        for lost in (before, after):
            op.freeze(lost, "cut off by a negative padding")
        ends = algebra.factor(max(left, 0)), algebra.factor(max(right, 0))
        for side, (amount, end) in enumerate(zip((left, right), ends, strict=True)):
            if amount > 0:
                op.sizes("pad", [end], 2 * place + side)
        axes[dim] = concat(ends[0], algebra.find(axis), ends[1])
    return tuple(axes)


@rule("view_as_complex", "view_as_real")
def complex_view(op: Op) -> Axes:
    """The last dim of two is (real imaginary)."""
    axes = op.axes("self")
    if len(op.shape()) < len(axes):
        algebra.cuts(axes[-1], [1, 1])
        return axes[:-1]
    return (*axes, concat(UNIT, UNIT))


@rule("diagonal")
def diagonal(op: Op) -> Axes:
    """Positions where two dims agree: of a square, the dims become one axis."""
    axes = op.axes("self")
    a, b = (op.dim(name, len(axes)) for name in ("dim1", "dim2"))
    rest = [axis for dim, axis in enumerate(axes) if dim not in (a, b)]
    if op["offset"] or axes[a].size != axes[b].size:
        for dim in (a, b):
            op.freeze(axes[dim], "a diagonal that is not the main one")
        return (*rest, op.positional(op.shape()[-1], "a diagonal that is not the main one"))
    return (*rest, op.unify(axes[a], axes[b]))


@rule("slice_scatter", "select_scatter")
def slice_scatter(op: Op) -> Axes:
    """A segment is replaced by another tensor."""
    axes = list(op.axes("self"))
    source: list[Any] = list(op.axes("src"))
    dim = op.dim("dim", len(axes))
    if "index" in op.args:
        at = as_int(op["index"]) % axes[dim].size
        before, rest = algebra.cut(axes[dim], at)
        algebra.cut(rest, 1)
        _stated(op, "index", before, axes[dim])
        source.insert(dim, UNIT)
    else:
        start, end, step = bounds(op, axes[dim].size)
        if step == 1:
            op.unify(segment(op, axes[dim], start, max(end, start)), source[dim])
        else:
            op.freeze(axes[dim], "written with a step")
            op.freeze(source[dim], "written with a step")
    for index, axis in enumerate(source):
        if index != dim:
            axes[index] = op.unify(axes[index], axis)
    return tuple(axes)
