"""What is left of values of which some are masked out, by what is below all of them: these win nothing while enough others are left.

So it is where the best of some groups are chosen first, and then the best inside of these: the mask is made of the positions of the
best groups, which are as many as were chosen, each of them once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.rules.op import Facts, Typed, identity, name_of

_SHAPES = frozenset(
    ["reshape", "view", "unsqueeze", "squeeze", "expand", "expand_as", "flatten", "unflatten", "clone", "permute", "transpose"]
)
_ZEROS = frozenset(["zeros", "zeros_like", "new_zeros"])
_NOT = frozenset(["logical_not", "bitwise_not"])
_POSITIVE = frozenset(["softmax", "_softmax", "_safe_softmax", "sigmoid", "exp"])


@dataclass(frozen=True)
class Left:
    """Values, and those of them that a mask leaves: at least `count` of the positions of the factors `along`."""

    values: fx.Node
    count: int
    along: frozenset[Factor]
    apart: frozenset[Factor]  # what each choice is made anew for


def unmasked(node: fx.Node, facts: Facts) -> Left | None:
    """What is left of a node's values, if it is told by the graph."""
    node = _through(node)
    name = _name(node)
    if name == "masked_fill":
        values, mask, filled = node.args[:3]
    elif name == "where" and len(node.args) > 2:
        mask, values, filled = node.args
    else:
        return None
    if not isinstance(mask, fx.Node) or not isinstance(values, fx.Node) or not _below(filled, values):
        return None
    found = _chosen(mask, name == "where", facts)
    return None if found is None else Left(values, *found)


def _below(filled: object, values: fx.Node) -> bool:
    """Whether a number is below every value of a node."""
    if not isinstance(filled, (int, float)):
        return False
    while _name(values) in _SHAPES:
        values = values.all_input_nodes[0]
    return filled == -math.inf or (filled <= 0 and _name(values) in _POSITIVE)


def unchosen(left: Left, axis: Axis) -> list[Factor] | None:
    """The factors of an axis that a mask does not run along; None where it runs along others than those, or in several ways."""
    factors = [algebra.find(factor) for factor in algebra.factors(axis)]
    if not left.along <= set(factors) or left.apart & set(factors) or any(type(each) is not Factor for each in factors):
        return None
    return [factor for factor in factors if factor not in left.along]  # type: ignore[misc]


def _chosen(mask: fx.Node, keeps: bool, facts: Facts) -> tuple[int, frozenset[Factor], frozenset[Factor]] | None:
    """Of a mask that is true (`keeps`) or false where values are left: how many positions of which factors these are at least."""
    while mask.op == "call_function" and _name(mask) != "scatter":
        name = _name(mask)
        if name in _NOT or (name == "eq" and mask.args[1] == 0):
            keeps = not keeps
        elif not (identity(mask.target) or name in _SHAPES or (name == "ne" and mask.args[1] == 0)):
            return None
        mask = mask.args[0]  # type: ignore[assignment]
    if not keeps or mask.op != "call_function" or _name(mask) != "scatter":
        return None
    zeros, dim, index, value = mask.args[:4]
    typed = facts.types.get(mask)
    if not isinstance(value, (int, float)) or not value or not isinstance(typed, Typed) or not isinstance(dim, int):
        return None
    count = _distinct(index, dim) if _is_zero(zeros) else None
    if count is None:
        return None
    along, *others = [typed.axes[dim], *(axis for at, axis in enumerate(typed.axes) if at != dim % len(typed.axes))]
    return count, frozenset(algebra.factors(along)), frozenset(factor for axis in others for factor in algebra.factors(axis))


def _distinct(index: object, dim: int) -> int | None:
    """How many positions integers are along a dim, if they are the best ones, and so no two alike."""
    if not isinstance(index, fx.Node):
        return None
    index = _through(index)
    best = index.args[0] if name_of(index.target) == "getitem" and index.args[1] == 1 else None
    if not isinstance(best, fx.Node) or _name(best) != "topk":
        return None
    rank, value = index.meta["val"].dim(), best.args[2] if len(best.args) > 2 else best.kwargs.get("dim", -1)
    count = index.meta["val"].shape[dim]
    return count if isinstance(count, int) and isinstance(value, int) and value % rank == dim % rank else None


def _is_zero(node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return _name(node) in _ZEROS or (_name(node) in ("full", "full_like", "new_full") and bool(node.args[-1] == 0))


def _through(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and (identity(node.target) or _name(node) in ("clone", "contiguous")):
        node = node.all_input_nodes[0]
    return node


def _name(node: fx.Node) -> str:
    return name_of(node.target).removeprefix("aten.") if node.op == "call_function" else ""
