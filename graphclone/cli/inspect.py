"""`graphclone inspect`: what a child may have fewer of, and why not of the rest."""

from __future__ import annotations

import json

import graphclone as gc
from graphclone import report
from graphclone.capture import capture
from graphclone.cli import children
from graphclone.cli.console import out, working
from graphclone.cli.options import Asked
from graphclone.errors import UnknownNameError
from graphclone.layout import Layout


def run(asked: Asked, why: str | None, axes: str | None, everything: bool, as_json: bool) -> None:
    layout = analysed(asked)
    console = out()
    if as_json:
        console.print_json(json.dumps(report.layout_data(layout)))
    elif why is not None:
        for row in report.alike(layout, layout.match(why)):
            console.print(report.why(layout, row), "")
    elif axes is not None:
        table = report.axes_table(layout, axes, everything)
        if table is None:
            raise UnknownNameError(f"no parameter is called '{axes}'", attempt="a name or a pattern such as '*.q_proj.weight'")
        console.print(table)
    else:
        _overview(asked, layout, everything)


def analysed(asked: Asked) -> Layout:
    with working(f"loading {asked.spec}"):
        parent = children.load(asked)
    with working("capturing and analysing"):
        return gc.analyze(capture(parent.program or parent.module, parent.args, parent.kwargs))


def _overview(asked: Asked, layout: Layout, everything: bool) -> None:
    console = out()
    console.print(
        f"[bold]{asked.spec}[/]: {report.parameters(layout):,} parameters, {report.free_share(layout):.1%} of them on a free axis;"
        f" a graph of {len(layout.trace.graph.nodes):,} nodes"
    )
    console.print("\n[bold]Blocks[/]")
    console.print(report.stack_table(layout.blocks))
    console.print("\n[bold]Free[/]: --width NAME=N keeps N of these, everywhere at once")
    console.print(report.free_table(layout, everything))
    frozen = report.frozen_table(layout, everything)
    if frozen.row_count:
        console.print("\n[bold]Frozen[/]: these stay as they are")
        console.print(frozen)
    if layout.trace.unused:
        console.print(f"\n{len(layout.trace.unused)} tensors never reach the output: {', '.join(layout.trace.unused[:4])} …")
    console.print("\n--why NAME shows every place of a factor, --axes PATTERN what a parameter's dims are made of", style="dim")
