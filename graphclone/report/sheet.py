"""The one form of table that everything is shown in."""

from __future__ import annotations

import copy
from typing import Any

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

_LEAST = 16  # a last column narrower than that is no help to a reader


class Sheet(Table):
    """A table without lines. `>` before a column's name sets it flush right.

    Where the page is narrow, the last column is folded first, so that names stay whole and can be copied; with `spare` it is left
    out where that does not suffice.
    """

    def __init__(self, *columns: str, spare: bool = False) -> None:
        super().__init__(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
        self.spare = spare
        for column in columns:
            justify: JustifyMethod = "right" if column.startswith(">") else "left"
            self.add_column(Text(column.removeprefix(">")), justify=justify, overflow="fold")

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """A text is taken as it stands: brackets in it are somebody's axes or names, and no markup."""
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        *names, last = self.columns
        widths = [max(console.measure(each).maximum for each in [column.header, *column.cells]) + 2 for column in names]
        whole, room = sum(widths) <= options.max_width, options.max_width - sum(widths)
        needed = max(console.measure(each).maximum for each in [last.header, *last.cells])
        shown = copy.copy(self)
        shown.columns = names if self.spare and room < min(needed, _LEAST) else [*names, last]
        for column in names:
            column.no_wrap = whole and (shown.columns is names or room >= min(needed, _LEAST))
        yield from Table.__rich_console__(shown, console, options)
