"""How large a parent is, and how much of it a child can do without."""

from __future__ import annotations

import math

from graphclone.axes import Axis, Factor, Product
from graphclone.layout import Layout


def parameters(layout: Layout) -> int:
    """Elements of all parameters that the graph reads, ties counted once."""
    return sum(layout.trace.state[name].numel() for name in layout.trace.parameters)


def free_share(layout: Layout) -> float:
    """The share of parameter elements that lie on at least one free axis: what a smaller child can do without."""
    fixed = sum(math.prod(_fixed(axis) for axis in layout.axes(name)) for name in layout.trace.parameters)
    total = parameters(layout)
    return 1 - fixed / total if total else 0.0


def _fixed(axis: Axis) -> int:
    """Positions of an axis at which no free factor has a say."""
    if isinstance(axis, Factor):
        return axis.size if axis.frozen is not None else 0
    parts = [_fixed(part) for part in axis.parts]
    return math.prod(parts) if isinstance(axis, Product) else sum(parts)
