"""Ops without a rule that only move elements: run on tensors that hold their own positions, and read where these went.

An output dim *follows* an input dim when position j always comes from position j, and nothing else about where an element comes from
depends on j. Followed dims are carried, all others are frozen. What is found at one size has to hold at other ones as well, since a
child's dims are smaller.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx

from graphclone.rules.op import Axes, Op, Opaque, rule, shape_of

_LIMIT = 1 << 20  # elements, so that a probe stays quick and its labels stay exact in float32
Moves = list[list[Tensor]]  # per result, per element: which input it comes from, and the index there (padded with -1)


@rule("otherwise")
def probe(op: Op) -> Axes | list[Axes]:
    sources = op.node.all_input_nodes
    values = [source.meta.get("val") for source in sources]
    shapes = [shape_of(value) for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    small = 0 < sum(map(_count, shapes)) <= _LIMIT
    moves = _moves(op.node, shapes) if small and len(shapes) == len(values) and not op.node.target._schema.is_mutable else None  # type: ignore[union-attr]
    if moves is None:
        raise Opaque("there is no rule for it")
    results = [_typed(op, shapes, moves, number) for number in range(len(moves))]
    return results if isinstance(op.node.meta["val"], (list, tuple)) else results[0]


def _typed(op: Op, shapes: list[tuple[int, ...]], moves: Moves, number: int) -> Axes:
    """The axes of one result: those that its dims follow; what it scrambles of its inputs stays as it is."""
    axes, (origin, *index) = [], moves[number]
    given = {k: op.facts.types[op.node.all_input_nodes[k]].axes for k in set(origin.flatten().tolist())}
    lost = {(k, i) for k in given for i in range(len(shapes[k]))}
    for dim, size in enumerate(origin.shape):
        followed = _followed(origin, index, dim)
        whole = bool(followed) and all(shapes[k][i] == size for k, i in followed.items())
        if not whole or not _holds(op.node, shapes, followed, number, dim):
            axes.append(op.positional(size, "moved by an op without a rule"))
            continue
        carried = [given[k][i] for k, i in followed.items()]
        lost -= set(followed.items())
        axes.append(functools.reduce(op.unify, carried))
    for k, i in lost:
        op.freeze(given[k][i], "moved by an op without a rule")
    return tuple(axes)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _moves(node: fx.Node, shapes: list[tuple[int, ...]]) -> list[list[Tensor]] | None:
    """Where each element of each result comes from; None unless it is always the same place, whatever the values are."""
    found = []
    for seed in range(2):
        order = torch.randperm(sum(map(_count, shapes)), generator=torch.Generator().manual_seed(seed))
        results = _run(
            node, [each.reshape(shape) for each, shape in zip(torch.split(order, [*map(_count, shapes)]), shapes, strict=True)]
        )
        if results is None or not all(_labels(each, len(order)) for each in results):
            return None
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        found.append([place[each.long()] for each in results])
    if len(found[0]) != len(found[1]) or not all(map(torch.equal, *found)):
        return None
    return [_located(each, shapes) for each in found[0]]


def _run(node: fx.Node, values: list[Tensor]) -> list[Tensor] | None:
    given = dict(zip(node.all_input_nodes, (value.float() for value in values), strict=True))
    try:
        with torch.no_grad():
            result: Any = node.target(*fx.map_arg(node.args, given.get), **fx.map_arg(node.kwargs, given.get))  # type: ignore[operator]
    except Exception:  # whatever it wants, it does not get it here: then it stays opaque, which is sound
        return None
    results = result if isinstance(result, (list, tuple)) else [result]
    return list(results) if all(isinstance(each, Tensor) for each in results) else None


def _labels(result: Tensor, count: int) -> bool:
    """Whether a result holds labels and nothing else."""
    return (
        result.is_floating_point()
        and result.layout == torch.strided
        and result.numel() > 0
        and bool(((result >= 0) & (result < count) & (result == result.round())).all())
    )


def _located(place: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Places among all inputs as the number of the input and the index in it."""
    ends = torch.tensor([*map(_count, shapes)]).cumsum(0)
    origin = torch.bucketize(place.contiguous(), ends, right=True)
    index = torch.full((max(map(len, shapes)), *place.shape), -1)
    for number, shape in enumerate(shapes):
        inside = origin == number
        for dim, each in enumerate(torch.unravel_index(place[inside] - (ends[number] - _count(shape)), shape) if shape else ()):
            index[dim][inside] = each
    return [origin, *index]


def _followed(origin: Tensor, index: list[Tensor], dim: int) -> dict[int, int]:
    """For each input that a result comes from, the dim of it that this dim of the result follows; empty where it follows none."""
    here = torch.arange(origin.shape[dim]).reshape([-1 if each == dim else 1 for each in range(origin.dim())]).expand_as(origin)
    if not _constant(origin, dim):
        return {}
    followed = {}
    for number in set(origin.flatten().tolist()):
        inside = origin == number
        dims = [i for i, each in enumerate(index) if bool((each[inside] == here[inside]).all())]
        rest = [i for i, each in enumerate(index) if not _constant(each.where(inside, -1), dim)]
        if len(dims) != 1 or rest != dims:
            return {}
        followed[number] = dims[0]
    return followed


def _constant(values: Tensor, dim: int) -> bool:
    return bool((values == values.narrow(dim, 0, 1)).all())


def _holds(node: fx.Node, shapes: list[tuple[int, ...]], followed: dict[int, int], number: int, dim: int) -> bool:
    """Whether the dims are followed at other sizes as well; a call that states a size fails, or gives the old one."""
    (size,) = sizes = {shapes[k][i] for k, i in followed.items()}
    for other in {max(size // 2, 2), max(size - 1, 2), 3} - sizes:
        changed = [tuple(other if followed.get(k) == i else n for i, n in enumerate(shape)) for k, shape in enumerate(shapes)]
        moves = _moves(node, changed)
        if moves is None or moves[number][0].shape[dim] != other:
            return False
        if _followed(moves[number][0], moves[number][1:], dim) != followed:
            return False
    return size > 1
