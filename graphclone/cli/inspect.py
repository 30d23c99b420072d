"""`graphclone inspect`: what a child may have fewer of, and why not of the rest."""

from __future__ import annotations

import json

from rich.markup import escape

from graphclone import report
from graphclone.capture import capture
from graphclone.cli import children
from graphclone.cli.console import out, working
from graphclone.cli.options import Asked
from graphclone.errors import UnknownNameError
from graphclone.layout import Layout, analyze
from graphclone.sources.words import listed, nearest


def run(asked: Asked, why: str | None, axes: str | None, everything: bool, as_json: bool) -> None:
    with working(f"loading {asked.spec}"):
        parent = children.load(asked)
    with working("capturing and analysing"):
        layout = analyze(capture(parent.program or parent.module, parent.args, parent.kwargs))
    if as_json:
        out().print_json(json.dumps(report.layout_data(layout)))
    elif why is not None:
        _why(layout, why, everything)
    elif axes is not None:
        _axes(layout, axes, everything)
    else:
        _overview(asked, layout, everything)


def _why(layout: Layout, name: str, everything: bool) -> None:
    rows = report.each if everything else report.alike
    for row in rows(layout, layout.match(name)):
        out().print(report.why(layout, row), "")


def _axes(layout: Layout, name: str, everything: bool) -> None:
    table = report.axes_table(layout, name, everything)
    if table is None:
        near = nearest(name, {".".join(each.split(".")[-length:]) for each in layout.parameters for length in (1, 2, 99)})
        raise UnknownNameError(
            f"no parameter is called '{name}'",
            because=f"the graph reads {listed(list(layout.parameters), 3)}",
            attempt=near or "a name or a pattern, such as '*.weight'",
        )
    out().print(table)


def _overview(asked: Asked, layout: Layout, everything: bool) -> None:
    console = out()
    console.print(
        f"[bold]{escape(asked.spec)}[/]: {report.parameters(layout):,} parameters, "
        f"{report.free_share(layout):.1%} of them on a free axis; a graph of {len(layout.trace.graph.nodes):,} nodes"
    )
    console.print("\n[bold]Blocks[/]: --depth N keeps N of each stack" if layout.blocks else "\n[bold]Blocks[/]")
    console.print(report.stack_table(layout.blocks))
    free, frozen = report.free_table(layout, everything), report.frozen_table(layout, everything)
    console.print("\n[bold]Free[/]: --width NAME=N keeps N of these, everywhere at once")
    console.print(free if free.row_count else "nothing")
    if frozen.row_count:
        console.print("\n[bold]Frozen[/]: these stay as they are")
        console.print(frozen)
    if unused := layout.trace.unused:
        console.print(f"\n{len(unused)} tensors never reach the output: {listed(unused, 4)}", markup=False)
    for remark in layout.trace.remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)
    console.print("\n--why NAME shows every place of a factor, --axes PATTERN what a parameter's dims are made of", style="dim")
