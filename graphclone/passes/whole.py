"""The plan that keeps everything: where every other plan starts."""

from __future__ import annotations

from graphclone.axes import Axis, Factor, factors, show
from graphclone.blocks import Stack
from graphclone.layout import Layout
from graphclone.plan import Piece, Plan
from graphclone.rules import Typed


def whole(layout: Layout) -> Plan:
    """The child that is the parent."""
    sizes = {factor.name: factor.size for factor in layout.factors if factor.slots}
    tensors = {name: Piece(name, tuple(show(axis, _plain) for axis in layout.axes(name))) for name in layout.parameters}
    trace = layout.trace
    stacks = {stack.name: tuple(range(len(stack))) for stack in layout.blocks}
    streams = {stack.name: show(axis, _plain) for stack in layout.blocks if (axis := _stream(layout, stack)) is not None}
    return Plan(sizes, {}, stacks, streams, tensors, dict(trace.aliases), inputs=trace.inputs, remarks=trace.remarks)


def _stream(layout: Layout, stack: Stack) -> Axis | None:
    """The units of a stack's stream: the last axis that parameters read, else (nothing of it is free) the last one."""
    typed = layout.types.get(stack.blocks[0].entry)
    axes = typed.axes if isinstance(typed, Typed) else ()
    residual = [axis for axis in axes if any(factor.kind == "residual" for factor in factors(axis))]
    return next(reversed(residual or axes), None)


def _plain(factor: Factor) -> str:
    """Factors that are on no parameter are not named in a plan."""
    return factor.name if factor.slots else str(factor.size)
