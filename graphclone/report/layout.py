"""What a Layout says: its blocks, what is free and what is frozen, and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.blocks import Stack
from graphclone.capture import source_line
from graphclone.layout import Layout, readers
from graphclone.report.alike import Alike, alike, block_patterns, each
from graphclone.report.figures import free_share, parameters
from graphclone.report.sheet import Sheet
from graphclone.rules.op import name_of

KINDS = (
    "residual", "kv_groups", "heads", "head_dim", "hidden", "expert_groups", "experts", "inner", "input", "output", "fixed", "activation",
)  # fmt: skip


def stack_table(stacks: Sequence[Stack]) -> RenderableType:
    """The stacks of repeated blocks; kinds as letters where they alternate."""
    if not stacks:
        return Text("no repeated blocks found on one stream: the depth of a child cannot be changed", style="dim")
    table = Sheet("stack", ">blocks", "kinds", "from … to")
    for stack in stacks:
        letters = "".join("abcdefghijklmnopqrstuvwxyz"[block.kind % 26] for block in stack.blocks)
        first, last = stack.blocks[0].name, stack.blocks[-1].name
        table.add_row(stack.name, str(len(stack)), letters if len(set(letters)) > 1 else "all alike", f"{first} … {last}")
    return table


def free_table(layout: Layout, everything: bool = False) -> Sheet:
    """The factors that a child may have fewer of, by kind. `everything`: one row per factor, and all of its places."""
    table = Sheet("kind", "name", ">size", "", "places (parameter[dim])", spare=True)
    before = ""
    for row in (each if everything else alike)(layout, by_kind(layout, frozen=False)):
        factor = row.members[0]
        kind, before = ("" if factor.kind == before else factor.kind), factor.kind
        table.add_row(kind, row.name, str(factor.size), row.times, _places(factor, everything))
    return table


def frozen_table(layout: Layout, everything: bool = False) -> Sheet:
    """The factors that stay as they are, each with its reason. `everything`: also those on inputs only."""
    table = Sheet("name", ">size", "", "why")
    factors = (factor for factor in by_kind(layout, frozen=True) if factor.slots or everything)
    for row in (each if everything else alike)(layout, factors):
        factor = row.members[0]
        table.add_row(row.name, str(factor.size), row.times, str(factor.frozen))
    return table


def by_kind(layout: Layout, frozen: bool) -> list[Factor]:
    """The frozen factors or the free ones, in the order of `KINDS`. (A free axis of an input, such as the batch, is nobody's to cut.)"""
    return in_order(f for f in layout.factors if (f.frozen is not None) is frozen and (f.slots or frozen))


def in_order(factors: Iterable[Factor]) -> list[Factor]:
    return sorted(factors, key=lambda factor: KINDS.index(factor.kind) if factor.kind in KINDS else len(KINDS))


def _places(factor: Factor, everything: bool) -> str:
    shown = factor.slots if everything else factor.slots[:2]
    names = [f"{name if everything else _short(name)}[{dim}]" for name, dim in shown]
    more = len(factor.slots) - len(shown)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _short(name: str) -> str:
    """The last two parts of a tensor's name: `q_proj.weight`."""
    return ".".join(name.split(".")[-2:])


def why(layout: Layout, row: Alike) -> RenderableType:
    """Every place of a factor: the slot, what its dims are made of, and which op reads it at which line."""
    factor = row.members[0]
    state = Text("free: a child may keep fewer", style="green")
    if factor.frozen is not None:
        state = Text(f"frozen: {factor.frozen}", style="yellow")
    title = Text.assemble((factor.name, "bold"), f"  {factor.kind} of {factor.size}  ", state)
    if len(row) > 1:
        title.append(f"\nalike in {len(row)} blocks ({row.name}); this is the first", style="dim")
    if not factor.slots:
        return Group(title, Text("it runs through no parameter, only through the model's inputs", style="dim"))
    table = Sheet("parameter[dim]", "made of", "read by")
    for name, dim in factor.slots:
        uses = [
            f"{name_of(node.target)} at {source_line(node.stack_trace) or '?'}" for node, _ in readers(layout.parameters[name])
        ]
        table.add_row(f"{name}[{dim}]", terms(layout.axes(name)), "\n".join(dict.fromkeys(uses)) or "nothing")
    return Group(title, table)


def axes_table(layout: Layout, name: str, everything: bool = False) -> Sheet | None:
    """The terms of the parameters, buffers and constants whose names match a pattern; None if there are none."""
    patterns = {} if everything else block_patterns(layout)
    groups: dict[tuple[str, str], int] = {}
    for tensor in layout.parameters:
        shown = patterns.get(tensor, tensor)
        if any(fnmatch.fnmatchcase(tensor, each) or tensor == each or shown == each for each in (name, f"*.{name}")):
            key = shown, terms(layout.axes(tensor))
            groups[key] = groups.get(key, 0) + 1
    if not groups:
        return None
    table = Sheet("parameter", "", "axes")
    for (shown, written), count in groups.items():
        table.add_row(shown, f"×{count}" if count > 1 else "", written)
    return table


def terms(axes: Sequence[Axis]) -> str:
    """The axes of a tensor in the notation, with the last part of each factor's name where that is clear: `(heads head_dim) residual`."""
    everyone = dict.fromkeys(factor for axis in axes for factor in algebra.factors(axis))
    shorts = [_kind_and_number(factor) for factor in everyone]

    def name(factor: Factor) -> str:
        short = _kind_and_number(factor)
        return short if shorts.count(short) == 1 else factor.name

    return " ".join(algebra.show(axis, name) for axis in axes) or "(a single number)"


def _kind_and_number(factor: Factor) -> str:
    head, _, last = factor.name.rpartition(".")
    return f"{head.rpartition('.')[2]}.{last}" if last.isdigit() and head else last or str(factor.size)


def layout_data(layout: Layout) -> dict[str, Any]:
    """All of it as plain data, for `--json`."""
    return {
        "nodes": len(layout.trace.graph.nodes),
        "parameters": parameters(layout),
        "free_share": free_share(layout),
        "stacks": [
            {"name": stack.name, "blocks": [{"name": block.name, "kind": block.kind} for block in stack.blocks]}
            for stack in layout.blocks
        ],
        "factors": [
            {
                "name": factor.name,
                "kind": factor.kind,
                "size": factor.size,
                "frozen": None if factor.frozen is None else str(factor.frozen),
                "interface": bool(factor.interface),
                "slots": [[name, dim] for name, dim in factor.slots],
            }
            for factor in layout.factors
        ],
        "unused": list(layout.trace.unused),
        "tied": dict(layout.trace.aliases),
    }
