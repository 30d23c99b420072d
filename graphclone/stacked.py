"""Tensors that hold a slice for each block: a child with fewer blocks has fewer slices, and reads them by other numbers."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx

from graphclone.plan import Piece, Plan
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


def unstacked(plan: Plan, graph: fx.Graph) -> Plan:
    """The plan without the slices that the child's graph no longer reads. `graph`: as `child_graph` makes it of the plan."""
    pieces: dict[str, Piece] = {}
    names = defaultdict[str, list[str]](list)
    for name, piece in plan.tensors.items():
        names[piece.source].append(name)
    for node in graph.find_nodes(op="get_attr"):
        was, now = slices(node.meta["of"]), slices(node)
        if was is None or now is None:
            continue
        dim, readers = now
        read = tuple(sorted(set(readers.values())))
        for name in names[str(node.meta["of"].target)] if len(read) < len(set(was[1].values())) else ():
            pieces[name] = replace(plan.tensors[name], take={**plan.tensors[name].take, dim: read})
    return replace(plan, tensors={**plan.tensors, **pieces}) if pieces else plan


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
