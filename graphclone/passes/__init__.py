"""The method, one pass per file. A pass takes a Plan (and what it was told) and gives a Plan; it knows no op and no weights."""

from collections.abc import Callable

from graphclone.layout import Layout
from graphclone.passes.drop_blocks import DropBlocks, middle
from graphclone.passes.scale import Scale
from graphclone.passes.shrink import Shrink
from graphclone.passes.whole import whole
from graphclone.plan import Plan

Pass = Callable[[Plan, Layout], Plan]

__all__ = ["DropBlocks", "Pass", "Scale", "Shrink", "middle", "whole"]
