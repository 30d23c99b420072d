"""Tensors that hold a slice for each block: a child with fewer blocks has fewer slices, and reads them by other numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx

from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.rules import name_of

Readers = Mapping[fx.Node, int]  # what reads one slice → its number


def slices(tensor: fx.Node) -> tuple[int, Readers] | None:
    """The dim along which a tensor is read slice by slice, each by its number; None where anything reads it in another way."""
    shape: Sequence[int] = tensor.meta["val"].shape
    dims, found = set[int](), dict[fx.Node, int]()
    for user in tensor.users:
        match name_of(user.target), user.args:
            case "aten.select", (_, int(dim), int(index)):
                readers = {user: index}
            case "aten.unbind", (_, *rest):
                dim = rest[0] if rest else 0  # type: ignore[assignment]
                if not all(each.target is operator.getitem and isinstance(each.args[1], int) for each in user.users):
                    return None
                readers = {each: each.args[1] for each in user.users}  # type: ignore[misc]
            case _:
                return None
        dims.add(dim % len(shape))
        found.update({each: index % shape[dim] for each, index in readers.items()})
    return (*dims, found) if len(dims) == 1 else None  # type: ignore[return-value]


def unstacked(plan: Plan, layout: Layout) -> Plan:
    """The plan without the slices that only dropped blocks read."""
    gone = {
        node
        for stack in layout.blocks
        for index in set(range(len(stack))).difference(plan.stacks.get(stack.name, range(len(stack))))
        for node in stack.blocks[index].nodes
    }
    taken: dict[str, Mapping[int, tuple[int, ...]]] = {}
    for source, tensor in layout.parameters.items():
        dim, readers = slices(tensor) or (0, {})
        read = tuple(sorted({index for reader, index in readers.items() if reader not in gone}))
        if read and len(read) < len(set(readers.values())):
            taken[source] = {dim: read}
    tensors = {name: replace(piece, take={**piece.take, **taken.get(piece.source, {})}) for name, piece in plan.tensors.items()}
    return replace(plan, tensors=tensors) if taken else plan


def renumber(graph: fx.Graph, plan: Plan) -> None:
    """Let each slice be read by the number that it has among those that the plan takes."""
    taken = {piece.source: piece.take for piece in plan.tensors.values() if piece.take}
    for node in graph.find_nodes(op="get_attr"):
        take, read = taken.get(str(node.meta["of"].target), {}), slices(node)
        if read is None or (kept := take.get(read[0])) is None:
            continue
        for reader, index in read[1].items():
            if index in kept:
                reader.update_arg(len(reader.args) - 1, kept.index(index))
