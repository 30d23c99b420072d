"""How large a destination has every factor: sizes of its tensors, set against the parent's terms, are equations; none is guessed."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor, show
from graphclone.errors import DestinationError

Equation = tuple[Axis, int, str]  # an axis of the parent, how many positions it has in the destination, and where
Sizes = dict[Factor, tuple[int, str]]


def fit(equations: Iterable[Equation], everywhere: bool) -> dict[str, int]:
    """The destination's size of every factor that differs.

    `everywhere`: the equations tell about every value of the graph, so that digits which never part may be taken together.

    **Raises** `DestinationError` where sizes contradict each other, do not fit the parent, or do not tell a factor's size.
    """
    sizes: Sizes = {}
    first: dict[tuple[Axis, int], str] = {}
    for axis, total, where in equations:
        first.setdefault((axis, total), where)
    open_ = _solve([(axis, total, where) for (axis, total), where in first.items()], sizes)
    for axis, _, where in open_:
        sizes.update({factor: (factor.size, where) for factor in _unknown(axis, sizes) if factor.frozen is not None})
    open_ = _solve(open_, sizes)
    if everywhere:
        for axis, total, where in open_:
            if _size(axis, sizes) == total:  # none of them can be smaller
                sizes.update({factor: (factor.size, where) for factor in _unknown(axis, sizes)})
        open_ = _solve(open_, sizes)
    for factor, (size, where) in sizes.items():
        _admit(factor, size, where)
    for axis, total, where in open_:
        names = " and ".join(f"'{factor.name}' ({factor.size})" for factor in _unknown(axis, sizes))
        raise DestinationError(
            f"{where} has {total} positions in the destination, and nothing tells how many of these are {names}",
            because=f"it is {show(axis)} in the parent, and the graphs differ where its parts are told apart",
            attempt="the parent's own settings (attention implementation, outputs, masks) in the destination, or more than one of each",
        )
    return {factor.name: size for factor, (size, _) in sizes.items() if factor.name and size != factor.size}


def matched(ours: Axis, theirs: Axis, where: str) -> Iterable[Equation]:
    """What two terms say about factors: terms of the same form, part by part."""
    if type(ours) is not Factor and type(ours) is type(theirs) and list(map(_form, ours.parts)) == list(map(_form, theirs.parts)):  # type: ignore[union-attr]
        for a, b in zip(ours.parts, theirs.parts, strict=True):  # type: ignore[union-attr]
            yield from matched(a, b, where)
    else:
        yield ours, theirs.size, where


def _form(axis: Axis) -> tuple[object, bool]:
    return type(axis), type(axis) is Factor and axis.frozen is not None


def _solve(equations: list[Equation], sizes: Sizes) -> list[Equation]:
    """Find what equations with one unknown factor say, until no more is found. **Returns** those with several."""
    while True:
        remaining = []
        for axis, total, where in equations:
            unknown = _unknown(axis, sizes)
            if len(unknown) > 1:
                remaining.append((axis, total, where))
                continue
            if unknown:  # sizes grow with it
                last = unknown[0]
                options = range(1, max(total, last.size) + 1)
                size = 1 + bisect.bisect_left(options, total, key=lambda n, a=axis, f=last: _size(a, {**sizes, f: (n, "")}))  # type: ignore[misc]
                sizes[last] = (size, where)
            if _size(axis, sizes) != total:
                _refuse(axis, total, where, sizes, unknown)
        if len(remaining) == len(equations):
            return remaining
        equations = remaining


def _refuse(axis: Axis, total: int, where: str, sizes: Sizes, unknown: list[Factor]) -> None:
    """**Raises** `DestinationError`: an equation that does not hold."""
    for factor in algebra.factors(axis):
        if factor not in unknown:
            _admit(factor, *sizes[factor])
    if type(axis) is Factor:
        known, first = sizes[axis]
        raise DestinationError(
            f"the destination asks for two sizes of '{axis.name}': {known} and {total}",
            because=f"{first} and {where} share it in the parent",
            attempt="a destination whose parts keep the parent's proportions",
        )
    told = {factor: sizes[factor] for factor in algebra.factors(axis) if factor not in unknown}
    raise DestinationError(
        f"{where} has {total} positions in the destination, which do not come out of the parent's {show(axis)} ({axis.size})",
        because=", ".join(f"'{factor.name}' is {size} there ({first})" for factor, (size, first) in told.items()),
        attempt="a destination whose parts keep the parent's proportions, and are no larger",
    )


def _unknown(axis: Axis, sizes: Sizes) -> list[Factor]:
    return [factor for factor in dict.fromkeys(algebra.factors(axis)) if factor not in sizes]


def _size(axis: Axis, sizes: Mapping[Factor, tuple[int, str]]) -> int:
    return algebra.size(axis, {factor: range(size) for factor, (size, _) in sizes.items()})


def _admit(factor: Factor, size: int, where: str) -> None:
    """**Raises** `DestinationError`: a size that no plan can give. (A factor without a name is inside the graph only.)"""
    if not factor.name:
        return
    if factor.frozen is not None and size != factor.size:
        raise DestinationError(
            f"the destination has {size} positions at {where}, the parent's '{factor.name}' {factor.size}, and it is frozen",
            because=str(factor.frozen),
            attempt="the parent's own size there (vocabulary, image and position tables stay as they are)",
        )
    if size > factor.size:
        raise DestinationError(
            f"the destination is wider than the parent: {size} at {where}, and '{factor.name}' has {factor.size}",
            because="a clone keeps some of the parent's units; it has no more of them than the parent",
            attempt="the parent's own size there, and a new head when the child is loaded (transformers: ignore_mismatched_sizes=True)"
            if factor.kind == "output"
            else "a smaller destination, or a wider parent",
        )
