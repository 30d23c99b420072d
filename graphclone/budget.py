"""Sizes for a number of parameters: how deep and how wide a child of so many would be, in several ways, the most balanced one first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.errors import SizeError
from graphclone.layout import Layout
from graphclone.passes import middle

_GRID = 16  # shares of the width that are looked at
_NEAR = 0.1  # of the number wanted; what is further off is no answer
_HIDDEN = (0.5, 2.0)  # how far the hidden units' share may be from that of the stream


@dataclass(frozen=True)
class Option:
    """`depth`: stack → blocks; `width`: factor → units; `parameters`: how many the child has; `shares`: of the parent's width and depth."""

    depth: Mapping[str, int]
    width: Mapping[str, int]
    parameters: int
    shares: tuple[float, float]


@dataclass(frozen=True)
class _Parts:
    """What is narrowed: streams (and hidden units that are as many) and heads by one share, other hidden units by another, nothing else
    (head_dim, experts, vocabulary)."""

    streams: tuple[Factor, ...]
    heads: tuple[Factor, ...]
    hidden: tuple[Factor, ...]


def options(layout: Layout, parameters: int) -> list[Option]:
    """Depths and widths of children with about so many parameters, the one whose width and depth shrink most alike first.

    The size of a head, the ratio of query heads to key heads and the number of experts stay; heads and stream shrink by the same share, so
    that a class that works one out from the other can follow; hidden units make up the rest, in multiples of 8 (64 where there are many).

    **Raises** `SizeError` where no child comes near it.
    """
    parts = _parts(layout)
    whole = _count(layout, {}, {stack.name: len(stack) for stack in layout.blocks})
    found = [option for share in _shares(parts) if (option := _at(layout, parts, share, parameters)) is not None]
    if not found or parameters > whole:
        least = _count(layout, _widths(parts, min(_shares(parts)), 0.0), {stack.name: 1 for stack in layout.blocks})
        raise SizeError(
            f"no child of about {parameters:,} parameters",
            because=f"the parent has {whole:,}, and the smallest that keeps its heads' size, experts and vocabulary about {least:,}",
            attempt="a number between the two, or --width and --depth",
        )
    return sorted(found, key=lambda each: abs(math.log(each.shares[0] / each.shares[1])))


def _parts(layout: Layout) -> _Parts:
    free = [factor for factor in layout.factors if factor.frozen is None and factor.slots and factor.size > 1]
    streams = tuple(factor for factor in free if factor.kind == "residual" and factor.interface != "input")
    shown = any(factor.interface for factor in streams)  # a model that gives its stream may give what is made of it, too
    square = {factor.size for factor in streams}  # as many units as the stream's: a class often has one width for both
    alike = [f for f in free if f.size in square and (f.kind == "hidden" or (shown and f.kind == "output"))]
    free = [factor for factor in free if not factor.interface]
    groups = {_path(factor) for factor in free if factor.kind == "kv_groups"}
    return _Parts(
        (*streams, *alike),
        tuple(f for f in free if f.kind == "kv_groups" or (f.kind == "heads" and _path(f) not in groups)),
        tuple(factor for factor in free if factor.kind == "hidden" and factor.size not in square),
    )


def _path(factor: Factor) -> str:
    return re.sub(r"\.?(kv_groups|heads)(\.\d+)?$", "", factor.name)


def _shares(parts: _Parts) -> list[float]:
    """The shares with which every attention has a whole number of heads, and wide streams are multiples of 8 if they can be."""
    common = math.gcd(*(factor.size for factor in parts.heads)) if parts.heads else _GRID
    every = [part / common for part in range(1, common + 1)]
    even = [share for share in every if not any(round(f.size * share) % 8 for f in parts.streams if f.size >= 64)]
    every = even if len(even) > 1 else every
    return every[:: max(1, len(every) // _GRID)] + ([1.0] if len(every) > _GRID else [])


def _at(layout: Layout, parts: _Parts, share: float, wanted: int) -> Option | None:
    """The child of this width whose depth, and then hidden units, bring it nearest to the number wanted."""
    widths = _widths(parts, share, share)
    depths = [_depths(layout, blocks) for blocks in range(1, max((len(stack) for stack in layout.blocks), default=1) + 1)]
    depth = min(depths, key=lambda each: abs(_count(layout, widths, each) - wanted))
    hidden = [share * factor for factor in (_HIDDEN[0] + (_HIDDEN[1] - _HIDDEN[0]) * step / 32 for step in range(33))]
    tries = [_widths(parts, share, min(each, 1.0)) for each in hidden]
    width = min([widths, *tries], key=lambda each: abs(_count(layout, each, depth) - wanted))
    count = _count(layout, width, depth)
    if abs(count - wanted) > _NEAR * wanted:
        return None
    blocks = sum(len(stack) for stack in layout.blocks)
    return Option(
        {stack.name: depth[stack.name] for stack in layout.blocks if depth[stack.name] != len(stack)},
        {factor.name: size for factor, size in width.items() if size != factor.size},
        count,
        (share, sum(depth.values()) / blocks if blocks else 1.0),
    )


def _depths(layout: Layout, blocks: int) -> dict[str, int]:
    """So many blocks of the longest stack, and the same share of the others."""
    longest = max((len(stack) for stack in layout.blocks), default=1)
    return {stack.name: max(1, round(len(stack) * blocks / longest)) for stack in layout.blocks}


def _widths(parts: _Parts, share: float, hidden: float) -> dict[Factor, int]:
    found = {factor: max(1, round(factor.size * share)) for factor in (*parts.streams, *parts.heads)}
    for factor in parts.hidden:
        step = 64 if factor.size >= 1024 else 8 if factor.size >= 64 else 1
        found[factor] = min(factor.size, max(step, step * round(factor.size * hidden / step)))
    return found


def _count(layout: Layout, widths: Mapping[Factor, int], depths: Mapping[str, int]) -> int:
    """The parameters of a child, counted from the sizes of axes alone."""
    keep = {factor: range(size) for factor, size in widths.items()}
    gone = set(_gone(layout, depths))
    return sum(
        math.prod(algebra.size(axis, keep) for axis in layout.axes(name)) for name in layout.trace.parameters if name not in gone
    )


def _gone(layout: Layout, depths: Mapping[str, int]) -> Iterable[str]:
    """The tensors that only blocks read which the child has not."""
    for stack in layout.blocks:
        kept = set(middle(len(stack), depths[stack.name]))
        read = [{name for *_, name in block.uses} for block in stack.blocks]
        yield from set().union(*read) - set().union(*(read[index] for index in kept))
