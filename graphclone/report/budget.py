"""Children of about the same number of parameters, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from graphclone.budget import Option
from graphclone.layout import Layout
from graphclone.report.alike import alike
from graphclone.report.layout import in_order
from graphclone.report.sheet import Sheet


def option_table(options: Sequence[Option], layout: Layout, most: int = 6) -> Sheet:
    """The options, the chosen one first, and how each is asked for by itself."""
    table = Sheet("", ">parameters", ">width", ">depth", "as options")
    for index, option in enumerate(options[:most]):
        width, depth = option.shares
        words = shlex.join(_words(option, layout))
        table.add_row(
            "→" if index == 0 else "", f"{option.parameters:,}", f"{width:.0%}", f"{depth:.0%}", words or "the parent's sizes"
        )
    return table


def _words(option: Option, layout: Layout) -> Iterator[str]:
    for stack, blocks in option.depth.items():
        yield from ("--depth", f"{stack}={blocks}")
    for row in alike(layout, in_order(factor for factor in layout.factors if factor.name in option.width)):
        yield from ("--width", f"{row.name}={option.width[row.members[0].name]}")
