"""What a Layout and a Plan say, as tables for a reader (rich) and as plain data (JSON). Pure functions; nothing is printed here.

What is alike in every block of a stack is one row: `model.layers.*.mlp.hidden`, 56, ×4. Such a name is a pattern that `--width` takes.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor, Product
from graphclone.blocks import Stack
from graphclone.capture import source_line
from graphclone.layout import Layout, readers
from graphclone.plan import Plan
from graphclone.rules.op import name_of

KINDS = ("residual", "kv_groups", "heads", "head_dim", "hidden", "inner", "input", "output", "fixed", "activation")


# -- what is alike ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alike:
    """Things that are the same in several blocks, under the pattern that their names have in common."""

    name: str
    members: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def times(self) -> str:
        return f"×{len(self)}" if len(self) > 1 else ""


def pattern(names: Sequence[str]) -> str:
    """`layers.*.mlp` of `layers.0.mlp` and `layers.1.mlp`; names of different lengths are told apart by their first one."""
    split = [name.split(".") for name in names]
    if len({len(parts) for parts in split}) > 1:
        return f"{names[0]} … {names[-1]}"
    return ".".join(parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*split, strict=True))


def block_patterns(layout: Layout) -> dict[str, str]:
    """Tensor → its name with the block's own part as `*`. Parameters are told by their place in the block, whatever they are called."""
    found: dict[str, str] = {}
    for stack in layout.blocks:
        for uses in zip(*(block.uses for block in stack.blocks), strict=False):
            names = [name for *_, name in uses]
            if len(set(names)) == len(names) > 1:
                found.update(dict.fromkeys(names, pattern(names)))
    inside = [(f"{block.name}.", f"{_folded(block.name)}.") for stack in layout.blocks for block in stack.blocks]
    for name in layout.parameters:
        for prefix, replaced in inside:
            if name not in found and name.startswith(prefix):
                found[name] = replaced + name[len(prefix) :]
    return found


def _folded(name: str) -> str:
    return ".".join([*name.split(".")[:-1], "*"])


def alike(layout: Layout, factors: Iterable[Factor]) -> list[Alike]:
    """Factors that have the same size, kind, state and places in every block, together."""
    patterns = block_patterns(layout)
    groups: dict[object, list[Factor]] = {}
    for factor in factors:
        places = tuple(sorted({(patterns.get(name, name), dim) for name, dim in factor.slots}))
        key = (factor.kind, factor.size, str(factor.frozen), places or factor.name)
        groups.setdefault(key, []).append(factor)
    return [Alike(pattern([factor.name for factor in group]), tuple(group)) for group in groups.values()]


def each(layout: Layout, factors: Iterable[Factor]) -> list[Alike]:
    """The same with one row per factor."""
    return [Alike(factor.name, (factor,)) for factor in factors]


# -- figures ---------------------------------------------------------------------------------------------------------


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


def child_parameters(plan: Plan, layout: Layout) -> int:
    """Elements of all parameters of the child that a plan describes."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    total = 0
    for piece in plan.tensors.values():
        if piece.source in layout.trace.parameters:
            axes = enumerate(layout.axes(piece.source))
            total += math.prod(len(piece.take[dim]) if dim in piece.take else algebra.size(axis, keep) for dim, axis in axes)
    return total


# -- a layout --------------------------------------------------------------------------------------------------------


def stack_table(stacks: Sequence[Stack]) -> RenderableType:
    """The stacks of repeated blocks; kinds as letters where they alternate."""
    if not stacks:
        return Text("no repeated blocks: the depth of a child cannot be changed", style="dim")
    table = _table("stack", ">blocks", "kinds", "from … to")
    for stack in stacks:
        letters = "".join("abcdefghijklmnopqrstuvwxyz"[block.kind % 26] for block in stack.blocks)
        first, last = stack.blocks[0].name, stack.blocks[-1].name
        table.add_row(stack.name, str(len(stack)), letters if len(set(letters)) > 1 else "all alike", f"{first} … {last}")
    return table


def free_table(layout: Layout, everything: bool = False) -> Table:
    """The factors that a child may have fewer of, by kind. `everything`: one row per factor, and all of its places."""
    table = _table("kind", "name", ">size", "", "places (parameter\\[dim])")
    before = ""
    for row in (each if everything else alike)(layout, by_kind(layout, frozen=False)):
        factor = row.members[0]
        kind, before = ("" if factor.kind == before else factor.kind), factor.kind
        table.add_row(kind, row.name, str(factor.size), row.times, _places(factor, everything))
    return table


def frozen_table(layout: Layout, everything: bool = False) -> Table:
    """The factors that stay as they are, each with its reason. `everything`: also those on inputs only."""
    table = _table("name", ">size", "", "why")
    factors = (factor for factor in by_kind(layout, frozen=True) if factor.slots or everything)
    for row in (each if everything else alike)(layout, factors):
        factor = row.members[0]
        table.add_row(row.name, str(factor.size), row.times, str(factor.frozen))
    return table


def by_kind(layout: Layout, frozen: bool) -> list[Factor]:
    """The frozen factors or the free ones, in the order of `KINDS`. (A free axis of an input, such as the batch, is nobody's to cut.)"""
    chosen = [factor for factor in layout.factors if (factor.frozen is not None) is frozen and (factor.slots or frozen)]
    return sorted(chosen, key=lambda factor: KINDS.index(factor.kind) if factor.kind in KINDS else len(KINDS))


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
    table = _table("parameter\\[dim]", "made of", "read by")
    for name, dim in factor.slots:
        uses = [
            f"{name_of(node.target)} at {source_line(node.stack_trace) or '?'}" for node, _ in readers(layout.parameters[name])
        ]
        table.add_row(f"{name}[{dim}]", terms(layout.axes(name)), "\n".join(dict.fromkeys(uses)) or "nothing")
    return Group(title, table)


def axes_table(layout: Layout, name: str, everything: bool = False) -> Table | None:
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
    table = _table("parameter", "", "axes")
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
                "interface": factor.interface,
                "slots": [[name, dim] for name, dim in factor.slots],
            }
            for factor in layout.factors
        ],
        "unused": list(layout.trace.unused),
        "tied": dict(layout.trace.aliases),
    }


# -- a plan ----------------------------------------------------------------------------------------------------------


def plan_table(plan: Plan, layout: Layout) -> Table:
    """What becomes smaller: blocks of each stack and units of each factor, and which of the parent's they are."""
    table = _table("", "parent → child", "", "which of the parent's")
    for stack in layout.blocks:
        chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
        if chosen != tuple(range(len(stack))):
            table.add_row(stack.name, f"{len(stack)} → {len(chosen)} blocks", "", _positions(chosen))
    changed = [factor for factor in layout.factors if factor.name in plan.keep]
    rows = alike(layout, sorted(changed, key=lambda factor: KINDS.index(factor.kind) if factor.kind in KINDS else 99))
    for row in rows:
        kept = plan.keep[row.members[0].name]
        same = all(plan.keep[factor.name] == kept for factor in row.members)
        which = _positions(kept) if same else "its own in each block"
        table.add_row(row.name, f"{row.members[0].size} → {len(kept)}", row.times, which)
    if not table.row_count:
        table.add_row("nothing", "all as in the parent", "", "")
    return table


def _positions(kept: Sequence[int], most: int = 9) -> str:
    """`0–3, 12, 13` of positions in order; cut off where there are many."""
    runs: list[list[int]] = []
    for position in kept:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    texts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts[:most]) + (f", … {kept[-1]}" if len(texts) > most else "")


def plan_notes(plan: Plan) -> Iterator[str]:
    """What else there is to say of a plan: scaled tensors, ties, remarks."""
    scales = [piece.scale for piece in plan.tensors.values() if piece.scale != 1]
    if scales:
        low, high = min(scales), max(scales)
        span = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        yield f"{len(scales)} weights are multiplied by sqrt(d / d′) = {span}, since they sum fewer inputs"
    yield from plan.remarks


def origin_table(filled: Mapping[str, str], plan: Plan, layout: Layout) -> Table:
    """Which block of the child came from which of the parent's, and how many tensors beside them."""
    table = _table("child", "from the parent's", ">tensors")
    sources = list(filled.values())
    inside: set[str] = set()
    for stack in layout.blocks:
        chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
        for first, last in _runs(chosen):
            names = {str(n.target) for i in set(chosen[first : last + 1]) for n in stack.blocks[i].nodes if n.op == "get_attr"}
            inside |= names
            origin = [stack.blocks[i].name.rpartition(".")[2] for i in (chosen[first], chosen[last])]
            count = sum(source in names for source in sources)
            table.add_row(f"{stack.name} {_span(first, last)}", f"{stack.name} {_span(*origin)}", str(count))
    outside = [source for source in sources if source not in inside]
    if outside:
        table.add_row("the rest", ", ".join(outside[:3]) + (" …" if len(outside) > 3 else ""), str(len(outside)))
    return table


def _runs(chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last index of each stretch of blocks that follow one another in the parent too."""
    start = 0
    for index in range(1, len(chosen) + 1):
        if index == len(chosen) or chosen[index] != chosen[index - 1] + 1:
            yield start, index - 1
            start = index


def _span(first: object, last: object) -> str:
    return str(first) if first == last else f"{first}–{last}"


def plan_data(plan: Plan, layout: Layout) -> dict[str, Any]:
    """The figures of a plan as plain data."""
    return {
        "stacks": {name: list(blocks) for name, blocks in plan.stacks.items()},
        "sizes": {name: [plan.sizes[name], len(kept)] for name, kept in plan.keep.items()},
        "tensors": len(plan.tensors),
        "parameters": [parameters(layout), child_parameters(plan, layout)],
        "remarks": list(plan.remarks),
    }


def _table(*columns: str, make: Callable[..., Table] = Table) -> Table:
    """A plain table; `>` before a column's name sets it flush right."""
    table = make(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return table
