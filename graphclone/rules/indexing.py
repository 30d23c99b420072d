"""Ops that read or write at positions held in a tensor.

Integers that are positions *on* an axis carry it as their domain (`topk` and `argmax` over experts, `arange`, …). Where the domain
is known, indexing is one more correspondence; where it is unknown, the axis that is indexed is frozen.
"""

from __future__ import annotations

import torch
from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis
from graphclone.rules.dispatch import counts, permutation, runs
from graphclone.rules.op import Axes, Op, Opaque, Typed, identity, name_of, rule, shape_of


@rule("index_select")
def index_select(op: Op) -> Typed:
    axes = list(op.axes("self"))
    if not axes:
        return Typed(())
    dim = op.dim("dim", len(axes))
    op.index("index", axes[dim])
    op.contract(axes[dim])
    axes[dim] = op.axes("index")[0] if op.axes("index") else algebra.UNIT
    return Typed(tuple(axes), op.type("self").domain)


@rule("embedding_bag")
def embedding_bag(op: Op) -> list[Axes | Typed]:
    """`v d, n@v -> bags d`: each bag is a run of the indices, so that these stay in their order; bookkeeping comes along."""
    rows, columns = op.axes("weight")
    op.index("indices", rows)
    op.contract(rows)
    if op.get("padding_idx") is not None:
        op.freeze(rows, "one of its positions is padding")
    for name in ("indices", "per_sample_weights"):
        for axis in op.axes(name) if op.has(name) else ():
            op.freeze(axis, "a run of these is one bag")
    op.reads("indices", "per_sample_weights")

    def kept(result: int) -> Axes:
        return tuple(op.positional(size, "bags are in order") if size else algebra.EMPTY for size in op.shape(result))

    largest = Typed((kept(3)[0], columns), algebra.find(rows)) if len(op.shape(3)) == 2 else kept(3)  # the row that it is of
    return [(kept(0)[0], columns), kept(1), kept(2), largest]


@rule("gather")
def gather(op: Op) -> Typed:
    """`out[i, j] = self[index[i, j], j]`: dims other than `dim` agree where they have one size, else are positional."""
    axes, index = op.axes("self"), op.axes("index")
    if len(axes) != len(index):
        raise Opaque("self and index differ in rank")
    if not axes:
        return Typed(())
    dim = op.dim("dim", len(axes))
    op.index("index", axes[dim])
    op.contract(axes[dim])
    _agree(op, axes, index, dim)
    return Typed(index, op.type("self").domain)


@rule("take_along_dim")
def take_along_dim(op: Op) -> Typed:
    """`gather` whose other dims broadcast."""
    axes, index = op.axes("self"), op.axes("indices")
    if op["dim"] is None or not axes:
        raise Opaque("it indexes across dims")
    dim = op.dim("dim", len(axes))
    op.index("indices", axes[dim])
    op.contract(axes[dim])
    result = tuple(b if i == dim else op.unify(a, b) for i, (a, b) in enumerate(zip(axes, index, strict=True)))
    return Typed(result, op.type("self").domain)


def _agree(op: Op, axes: Axes, index: Axes, dim: int) -> None:
    """Dims other than `dim` of a tensor and of the positions in it; a shorter one reads the first positions only."""
    for i, (a, b) in enumerate(zip(axes, index, strict=True)):
        if i == dim:
            continue
        first, _ = algebra.cut(a, b.size) if b.size <= a.size else (algebra.EMPTY, a)
        if first.size == b.size:
            algebra.unify(first, b, "digits that have no common refinement meet here")
        else:
            op.freeze(a, "indexed by a longer dim")
            op.freeze(b, "indexes a shorter dim")


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(op: Op) -> Axes:
    """`out[index[i, j], j] = src[i, j]`. Which of two writes to one place wins depends on their order, unless they add up."""
    axes, index = op.axes("self"), op.axes("index")
    if not axes or not index:
        return axes
    dim = op.dim("dim", len(axes))
    op.index("index", axes[dim])
    _agree(op, axes, index, dim)
    tensors = [index, *([op.axes("src")] if op.has("src") else [])]
    if len(tensors) == 2:
        for i, (a, b) in enumerate(zip(index, tensors[1], strict=False)):
            first, _ = algebra.cut(b, a.size)
            if first.size == a.size:
                algebra.unify(first, a, "digits that have no common refinement meet here")
            del i
    additive = op.node.target is torch.ops.aten.scatter_add.default
    for each in tensors:
        if additive or not op.has("src"):
            op.contract(each[dim])
        else:
            op.freeze(each[dim], "scattered: the last of two writes to one place wins")
    return axes


@rule("index_add", "index_copy", "index_fill")
def index_write(op: Op) -> Axes:
    axes = list(op.axes("self"))
    if not axes:
        return ()
    dim = op.dim("dim", len(axes))
    op.index("index", axes[dim])
    written = op.axes("index")[0] if op.axes("index") else algebra.UNIT
    if op.has("source") and op.axes("source"):
        source = op.axes("source")
        written = op.unify(written, source[dim])
        axes = [a if i == dim else op.unify(a, b) for i, (a, b) in enumerate(zip(axes, source, strict=True))]
    if op.node.target is torch.ops.aten.index_copy.default:
        op.freeze(written, "copied: the last of two writes to one place wins")
    op.contract(written)
    return tuple(axes)


def _through_mask(op: Op) -> tuple[range, Axes] | None:
    """The dims that a boolean mask reads, where it is the only index, and the axes of `self`; the mask's positions are alike to nobody."""
    given = [each for each in op["indices"] if each is not None]
    masks = [each for each in given if each.meta["val"].dtype in (torch.bool, torch.uint8)]
    if not masks:
        return None
    axes, mask = op.axes("self"), op.facts.types[masks[0]].axes
    if len(given) > 1 or not mask:
        raise Opaque("a mask beside other indices")
    first = op["indices"].index(masks[0])
    dims = range(first, first + len(mask))
    for axis in (*mask, *axes[first : dims.stop]):
        op.freeze(axis, "read through a mask")
    op.reads("indices")
    return dims, axes


def indexed(op: Op, axes: Axes) -> tuple[Axes, int, set[int]]:
    """The axes that a list of index tensors gives, where they go in the result, and the dims that they read."""
    types = {dim: op.facts.types[each] for dim, each in enumerate(op["indices"]) if each is not None}
    op.reads("indices")
    for dim, typed in types.items():
        domain = typed.domain
        if domain is not None and domain.size == axes[dim].size:
            op.unify(axes[dim], domain)
        else:
            op.freeze(axes[dim], "indexed by integers of unknown meaning")
            if domain is not None:
                op.freeze(domain, "its positions index an axis of another size")
        op.contract(axes[dim])
    shape = op.broadcast(*(typed.axes for typed in types.values()))
    dims = list(types)
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    return shape, dims[0] if adjacent else 0, set(dims)


def _placed(axes: Axes, shape: Axes, at: int, dims: set[int]) -> Axes:
    rest: list[Axis] = [axis for dim, axis in enumerate(axes) if dim not in dims]
    return (*rest[:at], *shape, *rest[at:])


@rule("index", "_unsafe_index")
def index(op: Op) -> Typed:
    """Advanced indexing: the index tensors broadcast together and take the place of the dims that they read."""
    if (found := _through_mask(op)) is not None:
        dims, axes = found
        chosen = op.positional(op.shape()[dims.start], "read through a mask")
        return Typed((*axes[: dims.start], chosen, *axes[dims.stop :]), op.type("self").domain)
    axes = op.axes("self")
    return Typed(_placed(axes, *indexed(op, axes)), op.type("self").domain)


@rule("index_put", "_unsafe_index_put")
def index_put(op: Op) -> Axes | Typed:
    axes = op.axes("self")
    if (found := _through_mask(op)) is not None:
        dims, axes = found
        return _written(op, axes, dims, op.axes("values"))
    if (inverse := _inverse(op)) is not None:
        return inverse
    shape, at, indices = indexed(op, axes)
    target = op.broadcast(_placed(axes, shape, at, indices), op.axes("values"))
    if not op["accumulate"]:
        for axis in shape:
            op.freeze(axis, "written by index: the last of two writes to one place wins")
    for axis in (*shape, *target):
        op.contract(axis)
    return axes


def _written(op: Op, axes: Axes, dims: range, values: Axes) -> Axes:
    """Values written where a mask over the first dims is true, in its order; their last dims are those that the mask leaves open."""
    if dims.start:
        raise Opaque("written through a mask over inner dims")
    rest = axes[dims.stop :]
    first = max(len(values) - len(rest), 0)
    for axis in values[:first]:
        op.freeze(axis, "written through a mask, in order")
    return (*map(algebra.find, axes[: dims.stop]), *op.broadcast(rest, values[first:]))


@rule("where.default")
def positions(op: Op) -> Axes:
    """The other overloads choose between two tensors."""
    raise Opaque("it lists the positions that are true")


@rule("masked_scatter")
def masked_scatter(op: Op) -> Axes:
    """Values in order, to where a mask is true. Over last dims along which the mask was expanded, whole rows are written."""
    axes, source = op.axes("self"), op.axes("source")
    if tuple(axis.size for axis in axes) != op.shape():
        raise Opaque("it broadcasts")
    mask = op.broadcast(op.axes("mask"), (algebra.UNIT,) * len(axes))
    open_ = _constant(op["mask"], len(axes))
    while open_ and (len(source) < open_ or any(a.size != b.size for a, b in zip(axes[-open_:], source[-open_:], strict=True))):
        open_ -= 1
    kept = len(axes) - open_
    for axis in (*axes[:kept], *mask[:kept], *source[: len(source) - open_]):
        op.freeze(axis, "written through a mask, in order")
    last = op.broadcast(axes[kept:], mask[kept:], source[len(source) - open_ :])
    return (*map(algebra.find, axes[:kept]), *last)


def _constant(mask: fx.Node, rank: int) -> int:
    """The number of last dims along which a mask has one value: of one position, or expanded from one."""
    while identity(mask.target):
        mask = mask.all_input_nodes[0]
    if name_of(mask.target) in ("aten.expand", "aten.expand_as", "aten.broadcast_to"):
        mask = mask.all_input_nodes[0]
    shape = shape_of(mask.meta["val"])
    shape = (1,) * (rank - len(shape)) + shape
    return next((count for count, size in enumerate(reversed(shape)) if size != 1), rank)


def _inverse(op: Op) -> Typed | None:
    """`empty[permutation] = arange`: the positions on the permuted axis, in the order of the original."""
    index, count = op["indices"][0], op.type("values")
    if len(op["indices"]) > 1 or index is None or not permutation(op.facts.types[index]):
        return None
    if len(op.axes("self")) > 1 or not counts(op, "values") or op["accumulate"]:
        return None
    typed = op.facts.types[index]
    for axis in (*count.axes, *op.axes("self")):
        op.freeze(axis, "counts the positions of a sorted axis")
    op.reads("indices", "values", "self")
    return Typed((typed.domain,), typed.axes[0])


@rule("one_hot")
def one_hot(op: Op) -> Axes:
    """A new last dim of classes, which the integers are positions on."""
    if op["num_classes"] == -1:
        raise Opaque("it counts its classes itself")
    domain = op.type("self").domain
    (*_, count) = op.shape()
    if domain is not None and domain.size == count == op["num_classes"]:
        op.reads("self")
        classes = domain
    else:
        classes = op.positional(count, "classes of unknown meaning")
    op.sizes("num_classes", classes)
    return (*op.axes("self"), classes)


@rule("bucketize", "searchsorted")
def bucketize(op: Op) -> Typed:
    """Elementwise on the values; the boundaries are in order, and may have the leading dims of the values."""
    if (found := runs(op)) is not None:
        return found
    name = "boundaries" if "boundaries" in op.args else "sorted_sequence"
    values = op.axes("self") if op.has("self") else ()
    *lead, ordered = op.broadcast(op.axes(name), op.axes("sorter")) if op.has("sorter") else op.axes(name)
    op.freeze(ordered, "boundaries are in order")
    if lead:
        values = (*op.broadcast(tuple(lead), values[:-1]), values[-1])
    return Typed(values)
