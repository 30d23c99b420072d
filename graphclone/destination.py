"""Destination first: from a parent's layout and a traced destination to the plan that fills it.

The destination's graph is aligned with the parent's, blocks dropped; then every shape of the destination, matched against the parent's
terms, gives the size of a factor. Names decide only where the graphs differ.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Concat
from graphclone.blocks import Block, numbered
from graphclone.capture import source_line
from graphclone.decided import ASSERT
from graphclone.depths import Chosen, by_blocks, by_names, listed
from graphclone.errors import DestinationError, GraphcloneError, PlanError, SizeError
from graphclone.execute.graph import child_graph
from graphclone.fitting import Equation, fit, matched
from graphclone.layout import Layout
from graphclone.passes import Scale, Shrink, whole
from graphclone.passes.drop_blocks import restacked
from graphclone.plan import Literal, Plan
from graphclone.rules import Typed, identity, name_of
from graphclone.scores import Scores

Rows = Mapping[str, Mapping[int, tuple[int, ...]]]


def plan_for(parent: Layout, child: Layout, scores: Scores | None = None, scale: bool = True) -> Plan:
    """The plan that fills a destination. `child` is the layout of the destination, analysed with `like=parent.blocks`.

    **Raises** `DestinationError` when the destination is wider, has another vocabulary or other blocks, or when its sizes cannot be
    told; it names the tensors.
    """
    aligned: list[GraphcloneError] = []  # what hinders where the graphs are the same says more than that others differ
    others: list[GraphcloneError] = []
    for choose, loose in _ways(parent, child, scores):
        try:
            return _plan_of(parent, child, choose(), scores or Scores(), scale, loose)
        except _Unfit as error:
            aligned.append(error.why)
        except (DestinationError, SizeError) as error:
            others.append(error)
    raise [*aligned, *reversed(others)][0]


class _Unfit(Exception):
    """The graphs are the same, and yet there is no plan: `why`."""

    def __init__(self, why: GraphcloneError) -> None:
        super().__init__(str(why))
        self.why = why


def _ways(parent: Layout, child: Layout, scores: Scores | None) -> Iterator[tuple[Callable[[], Chosen], bool]]:
    """Choices of blocks; at last, where none makes the parent's graph the destination's, blocks whose tensors names have to tell."""
    choose = functools.partial(by_blocks, parent, child, scores)
    yield choose, False
    for chosen in by_names(parent, _renamed(parent, child).values()):
        yield functools.partial(dict, chosen), False
    yield choose, True


def _plan_of(parent: Layout, child: Layout, stacks: Chosen, scores: Scores, scale: bool, loose: bool) -> Plan:
    """**Raises** `DestinationError`; also where the graphs differ, unless names are to help (`loose`)."""
    plan = restacked(whole(parent), parent, stacks)
    graphs, apart = _graphs(parent, child, plan)
    if not graphs and not loose:
        raise DestinationError(f"the destination's graph differs from the parent's{apart}")
    try:
        if graphs:
            _same_results(parent, child)
        return _sized(parent, child, stacks, plan, graphs, apart, scores, scale)
    except (DestinationError, SizeError) as error:
        if graphs:
            raise _Unfit(error) from error
        raise


def _same_results(parent: Layout, child: Layout) -> None:
    """**Raises** `DestinationError` where a model that returns a state of each block would return fewer of them."""
    ours, theirs = (len(next(reversed(each.trace.graph.nodes)).args[0]) for each in (parent, child))
    if ours != theirs:
        raise DestinationError(
            f"the destination returns {theirs} tensors, the parent {ours}",
            because="both compute the same way, so these are states of blocks, and the destination has not all of them",
            attempt="a model that returns no states of its blocks, or the parent's own depth",
        )


def _sized(
    parent: Layout, child: Layout, stacks: Chosen, plan: Plan, graphs: Aligned | None, apart: str, scores: Scores, scale: bool
) -> Plan:
    """The plan of these blocks, its factors as large as in the destination."""
    parts = [graphs] if graphs else _aligned_blocks(parent, child, stacks)
    sources = {} if graphs else _named(parent, child, stacks)
    plan, read, stand_ins = _read(plan, [pair for part in parts for pair in part.tensors])
    sources = {name: source for name, source in (sources | read).items() if source in plan.tensors}
    _complete(parent, child, sources)
    take = _rows(parent, child, _uses(graphs) if graphs else _block_uses(parent, child, stacks))
    pieces = {name: plan.tensors[sources[name]] for name in child.parameters if name in sources}
    equations = _tensor_equations(parent, child, {name: piece.source for name, piece in pieces.items()}, take, bool(graphs))
    sizes = fit((*equations, *(each for part in parts for each in _equations(part, parent, child))), bool(graphs))
    plan = Shrink(sizes, scores)(plan, parent)
    plan = Scale()(plan, parent) if scale else plan
    tensors = {name: replace(plan.tensors[sources[name]], take=take.get(name, {})) for name in pieces}
    tensors |= {name: plan.tensors[name] for part in parts for name in part.idle if name in plan.tensors and name not in tensors}
    aliases = {alias: name for alias, name in (stand_ins | dict(child.trace.aliases)).items() if name in tensors}
    plan = replace(plan, tensors=tensors, aliases=aliases)
    if graphs is None:
        plan = plan.remark(f"the destination's graph differs from the parent's{apart}: tensors were matched by name")
        for text in _counted(parent, child):
            plan = plan.remark(text)
        return plan
    final, _ = _graphs(parent, child, plan)
    return _with_literals(plan, final, parent, child) if final else plan


# -- which tensor is which -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aligned:
    """Two graphs, or parts of graphs, that compute the same way: their nodes, the names of the tensors that these read, and of those
    that the first asserts something of and does not compute with (`idle`)."""

    nodes: list[tuple[fx.Node, fx.Node]]
    tensors: list[tuple[str, str]]
    idle: list[str]


def _align(ours: Iterable[fx.Node], theirs: Iterable[fx.Node], name: Callable[[fx.Node], str]) -> Aligned | None:
    """None where they are not the same ops on the same values; casts and dropout apart. `name`: what a tensor is called in the plan."""
    ours = list(ours)
    alive = set(_computing(ours))
    first, second = ([n for n in _computing(nodes) if not identity(n.target)] for nodes in (ours, theirs))
    if [n.target for n in first if n.op == "call_function"] != [n.target for n in second if n.op == "call_function"]:
        return None
    found = dict(zip(first, second, strict=False))
    tensors: dict[tuple[str, str], None] = {}
    for a, b in list(found.items()):
        sources, others = ([_through(each) for each in node.all_input_nodes] for node in (a, b))
        if len(sources) != len(others):
            return None
        for x, y in zip(sources, others, strict=True):
            if x.op == y.op == "get_attr":
                tensors[name(x), str(y.target)] = None
            elif found.setdefault(x, y) is not y:
                return None
    idle = [name(node) for node in ours if node.op == "get_attr" and alive.isdisjoint(node.users)]
    return Aligned(list(found.items()), list(tensors), idle)


def _computing(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """What computes something, in order: no parameter, and nothing that is asserted only."""
    idle: set[fx.Node] = set()
    kept = []
    for node in reversed(list(nodes)):
        if node.target is ASSERT or (node.op == "call_function" and node.users and idle.issuperset(node.users)):
            idle.add(node)
        elif node.op != "get_attr":
            kept.append(node)
    return kept[::-1]


def _through(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and identity(node.target) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _graphs(parent: Layout, child: Layout, plan: Plan) -> tuple[Aligned | None, str]:
    """The graph of the plan and the destination's side by side; else what sets them apart."""
    try:
        graph = child_graph(parent, plan)
    except PlanError as error:
        return None, f" ({' '.join(str(error).split())})"
    if found := _align(graph.nodes, child.trace.graph.nodes, lambda node: str(node.target)):
        return found, ""
    ours, theirs = (
        Counter(name_of(n.target) for n in _computing(each.nodes) if n.op == "call_function" and not identity(n.target))
        for each in (graph, child.trace.graph)
    )
    sides = ((ours - theirs, "the parent"), (theirs - ours, "the destination"))
    told = [f"more of {', '.join(list(ops)[:4])} in {whose}" for ops, whose in sides if ops]
    return None, f" ({'; '.join(told) or 'the same ops in another order'})"


def _origins(parent: Layout, child: Layout, stacks: Chosen) -> Iterator[tuple[Block, Block, int]]:
    """(the parent's block, the destination's, the how manyth time that the parent's comes)."""
    for ours, theirs in zip(parent.blocks, child.blocks, strict=True):
        seen: Counter[int] = Counter()
        for block, index in zip(theirs.blocks, stacks[ours.name], strict=True):
            seen[index] += 1
            yield ours.blocks[index], block, seen[index]


def _aligned_blocks(parent: Layout, child: Layout, stacks: Chosen) -> list[Aligned]:
    """The blocks of the destination beside those that they come from, as far as they compute the same way."""

    def name(node: fx.Node, origin: Block, turn: int) -> str:
        return origin.again(str(node.target), turn) if node in origin.nodes else str(node.target)

    pairs = (
        _align(origin.nodes, block.nodes, functools.partial(name, origin=origin, turn=turn))
        for origin, block, turn in _origins(parent, child, stacks)
    )
    return [aligned for aligned in pairs if aligned]


def _named(parent: Layout, child: Layout, stacks: Chosen) -> dict[str, str]:
    """The destination's tensors → the plan's by name, in which a block stands for the parent's block that it comes from."""
    prefixes: dict[str, tuple[Block, int]] = {}
    owned: set[str] = set()
    for origin, block, turn in _origins(parent, child, stacks):
        owned.update(str(node.target) for node in block.nodes if node.op == "get_attr")
        if all(name.startswith(f"{each.name}.") for each in (origin, block) for *_, name in each.uses):
            prefixes[f"{block.name}."] = origin, turn
    pairs = {}
    for name, copied in _renamed(parent, child).items():
        prefix = next((each for each in prefixes if name.startswith(each)), "")
        if not prefix and name in owned:
            continue
        original = copied
        if prefix:
            origin, turn = prefixes[prefix]
            original = f"{origin.name}.{name[len(prefix) :]}"
            copied = origin.again(original, turn)
        if _like(parent, child, original, name):
            pairs[name] = copied if original in parent.parameters else parent.trace.aliases[original]
    return pairs


def _renamed(parent: Layout, child: Layout) -> dict[str, str]:
    """The destination's tensors → what the parent would call them: a head around a model puts one more part before every name."""
    names = list(child.parameters)
    outer = dict.fromkeys(name.partition(".")[0] + "." for name in (*names, *parent.parameters))
    ways = [
        names,
        *([name.removeprefix(part) for name in names] for part in outer),
        *([part + name for name in names] for part in outer),
    ]
    known = {*parent.parameters, *parent.trace.aliases}
    found = max(ways, key=lambda way: len(known.intersection(way)))  # of equally many the first: as they are
    return {name: new if new in known else name for name, new in zip(names, found, strict=True)}


def _like(parent: Layout, child: Layout, original: str, name: str) -> bool:
    """Whether the parent reads a tensor of that name (a tie may have given it another one) and of as many dims."""
    return parent.trace.aliases.get(original, original) in parent.parameters and len(parent.axes(original)) == len(
        child.axes(name)
    )


def _read(plan: Plan, tensors: Iterable[tuple[str, str]]) -> tuple[Plan, dict[str, str], dict[str, str]]:
    """The destination's tensors → the plan's; and the plan's tensors that one of the destination's stands for as well (ties)."""
    sources: dict[str, str] = {}
    stand_ins: dict[str, str] = {}
    for ours, theirs in tensors:
        if ours not in plan.tensors or sources.setdefault(theirs, ours) == ours:
            continue
        stand_ins[ours] = theirs
        if plan.tensors[ours].source != plan.tensors[sources[theirs]].source:
            told = f"'{theirs}' is one tensor in the destination, where the parent has '{sources[theirs]}' and '{ours}'"
            plan = plan.remark(f"{told}: it is filled from '{sources[theirs]}'")
    return plan, sources, stand_ins


def _complete(parent: Layout, child: Layout, sources: Mapping[str, str]) -> None:
    """**Raises** `DestinationError` if a parameter would stay as it was initialised, though the parent seems to have it."""
    lost = [name for name in child.parameters if name in child.trace.parameters and name not in sources]
    renamed = _renamed(parent, child)
    if lost := [name for name in lost if _like(parent, child, renamed[name], name)]:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        raise DestinationError(
            f"nothing tells which of the parent's tensors fill {', '.join(map(repr, lost[:4]))}{more}",
            because="the parent has tensors of these names, and the destination's blocks are not made of the parent's blocks",
            attempt=f"a destination with the parent's pattern of blocks ({listed(parent.blocks)})",
        )


def _counted(parent: Layout, child: Layout) -> Iterator[str]:
    """What numbered modules say that no stack holds: names alone tell which of them the destination got."""
    ours, theirs = (numbered(layout.trace.parameters) for layout in (parent, child))
    for path in sorted(ours.keys() & theirs.keys() - {stack.name for stack in parent.blocks}):
        if ours[path] != theirs[path]:
            counts = f"{len(theirs[path])} numbered parts in the destination and {len(ours[path])} in the parent"
            yield f"'{path}' has {counts}: each was filled from the parent's part of the same number, the others not at all"


# -- how large each factor is ----------------------------------------------------------------------------------------


def _tensor_equations(parent: Layout, child: Layout, sources: Mapping[str, str], take: Rows, aligned: bool) -> Iterator[Equation]:
    """What the shapes of tensors say. Where nothing else tells the parts of an axis apart, the destination's own terms do."""
    for name, source in sources.items():
        for dim, (ours, theirs) in enumerate(zip(parent.axes(source), child.axes(name), strict=True)):
            if dim in take.get(name, {}):
                continue
            if aligned:
                yield ours, theirs.size, f"{name}:{dim}"
            else:
                yield from matched(ours, theirs, f"{name}:{dim}")


def _equations(aligned: Aligned, parent: Layout, child: Layout) -> Iterator[Equation]:
    """What the values and the stated sizes of two graphs say; but sizes that depend on values say nothing."""
    for copy, theirs in aligned.nodes:
        if theirs.meta.get("counted"):
            continue
        ours = copy.meta.get("of", copy)
        where = f"{name_of(theirs.target)} at {source_line(theirs.stack_trace) or theirs.name}"
        types, others = (
            [each] if isinstance(each, Typed) else each or [] for each in (parent.types.get(ours), child.types.get(theirs))
        )
        pairs = [pair for a, b in zip(types, others, strict=False) for pair in zip(a.axes, b.axes, strict=False)]
        stated, other = parent.sizes.get(ours, {}), child.sizes.get(theirs, {})
        pairs += [(axis, other[key]) for key, axis in stated.items() if key in other]
        yield from (
            (a, b.size, where) for a, b in pairs if a.size == 1 < b.size or any(factor.name for factor in algebra.factors(a))
        )


# -- what is not a size ----------------------------------------------------------------------------------------------


Use = tuple[fx.Node, str, fx.Node, str]  # the parent's node and a parameter that it reads, and the destination's


def _uses(aligned: Aligned) -> Iterator[Use]:
    for copy, theirs in aligned.nodes:
        ours = copy.meta.get("of", copy)
        for x, y in zip(ours.all_input_nodes, theirs.all_input_nodes, strict=False):
            if x.op == y.op == "get_attr":
                yield ours, str(x.target), theirs, str(y.target)


def _block_uses(parent: Layout, child: Layout, stacks: Chosen) -> Iterator[Use]:
    for origin, block, _ in _origins(parent, child, stacks):
        for (ours, _, source), (theirs, _, name) in zip(origin.uses, block.uses, strict=True):
            yield ours, source, theirs, name


def _rows(parent: Layout, child: Layout, uses: Iterable[Use]) -> Rows:
    """Parameters that hold one row per block: the rows that the child's blocks read, from those that the parent's read."""
    take: dict[str, dict[int, dict[int, int]]] = {}
    origins: dict[str, set[str]] = defaultdict(set)
    for ours, source_name, theirs, name in uses:
        row, source = (layout.sizes.get(node, {}).get(("index", None)) for layout, node in ((child, theirs), (parent, ours)))
        origins[name].add(source_name)
        if row is not None and source is not None:
            units = (type(axis) is Concat and not any(algebra.factors(axis)) for axis in child.axes(name))
            dim = next((i for i, unit in enumerate(units) if unit), -1)  # an index may be stated of another axis
            take.setdefault(name, {}).setdefault(dim, {})[row.size] = source.size
    return {
        name: {dim: tuple(rows[i] for i in sorted(rows)) for dim, rows in dims.items()}
        for name, dims in take.items()
        if len(origins[name]) == 1 and all(dim >= 0 and len(rows) == child.axes(name)[dim].size for dim, rows in dims.items())
    }


def _with_literals(plan: Plan, aligned: Aligned, parent: Layout, child: Layout) -> Plan:
    """The plan with what the destination's calls say otherwise than the child's graph: mostly numbers that a class computes from its
    own sizes, but also what it was told to do differently."""
    literals: dict[str, dict[str, Literal]] = {}
    for ours, theirs in aligned.nodes:
        if ours.op != "call_function":
            continue
        stated = {_path(ours, name, position) for name, position in parent.sizes.get(ours.meta["of"], {})}
        for path, old, new in _differences(ours, theirs):
            literals.setdefault(ours.name, {})[path] = new
            if path not in stated:
                told = f"{path} of {name_of(theirs.target)} ({ours.name}) is {_shown(new)} there, {_shown(old)} in the parent"
                plan = plan.remark(f"the destination says otherwise: {told}")
    for source, name in aligned.tensors:
        if name not in child.trace.parameters and source in parent.trace.state:
            value, other = child.trace.state[name], parent.trace.state[source]
            if value.numel() == other.numel() == 1 and not value.is_meta and not other.is_meta and float(other) != float(value):
                literals[name] = {"value": float(value)}
                plan = plan.remark(f"the destination says otherwise: '{name}' is {_shown(float(value))} there")
    return replace(plan, literals=literals)


def _path(node: fx.Node, name: str, position: int | None = None) -> str:
    """Where a call has an argument: `args.1`, `args.1.0`, `kwargs.scale`."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    at = names.index(name)
    return (f"args.{at}" if at < len(node.args) else f"kwargs.{name}") + ("" if position is None else f".{position}")


def _differences(ours: fx.Node, theirs: fx.Node) -> Iterator[tuple[str, Literal, Literal]]:
    """Plain arguments that two calls of one op have otherwise, defaults filled in: (path, old, new)."""
    if not isinstance(ours.target, torch._ops.OpOverload):
        return
    for at, argument in enumerate(ours.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        a, b = (node.args[at] if at < len(node.args) else node.kwargs.get(argument.name, default) for node in (ours, theirs))
        yield from _unequal(_path(ours, argument.name), a, b)


def _unequal(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Literal, Literal]]:
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(f"{path}.{index}", a, b)
    elif ours != theirs and all(isinstance(each, (bool, int, float, str, type(None))) for each in (ours, theirs)):
        yield path, ours, theirs


def _shown(value: Literal) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
