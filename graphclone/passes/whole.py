"""The plan that keeps everything: where every other plan starts."""

from __future__ import annotations

from graphclone.axes import Factor, show
from graphclone.layout import Layout
from graphclone.plan import Piece, Plan


def whole(layout: Layout) -> Plan:
    """The child that is the parent."""
    sizes = {factor.name: factor.size for factor in layout.factors if factor.slots}
    tensors = {name: Piece(name, tuple(show(axis, _plain) for axis in layout.axes(name))) for name in layout.parameters}
    trace = layout.trace
    stacks = {stack.name: tuple(range(len(stack))) for stack in layout.blocks}
    return Plan(sizes=sizes, stacks=stacks, tensors=tensors, aliases=dict(trace.aliases), inputs=trace.inputs, remarks=trace.remarks)


def _plain(factor: Factor) -> str:
    return factor.name
