"""Destination first: from a parent's layout and a traced destination to the plan that fills it.

The destination's graph is aligned with the parent's, blocks dropped; then every shape of the destination, matched against the parent's
terms, gives the size of a factor. Names decide only where the graphs differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis, Concat, Factor, show
from graphclone.blocks import Block, Stack
from graphclone.errors import DestinationError
from graphclone.execute.graph import child_graph
from graphclone.layout import Layout
from graphclone.passes import Scale, Shrink, middle, whole
from graphclone.passes.drop_blocks import alike, restacked
from graphclone.plan import Plan
from graphclone.rules import identity, name_of
from graphclone.scores import Scores

Nodes = list[tuple[fx.Node, fx.Node]]


def plan_for(parent: Layout, child: Layout, scores: Scores | None = None, scale: bool = True) -> Plan:
    """The plan that fills a destination. `child` is the layout of the destination, analysed with `like=parent.blocks`.

    **Raises** `DestinationError` when the destination is wider, has another vocabulary or other blocks; it names the tensors.
    """
    stacks = _choose(parent, child)
    plan = restacked(whole(parent), parent, stacks)
    aligned = _align(child_graph(parent, plan), child.trace.graph)
    named = {name: source for name, source in _named_pairs(parent, child, stacks).items() if source in plan.tensors}
    pairs = {**named, **(_read_pairs(aligned, plan) if aligned else {})}
    pairs = {name: pairs[name] for name in child.parameters if name in pairs}
    take = _rows(parent, child, stacks)
    sizes = _sizes(parent, child, {name: plan.tensors[source].source for name, source in pairs.items()}, take)
    plan = Shrink(sizes, scores or Scores())(plan, parent)
    plan = Scale()(plan, parent) if scale else plan
    literals = _literals(_align(child_graph(parent, plan), child.trace.graph) or [], parent, child) if aligned else {}
    tensors = {name: replace(plan.tensors[source], take=take.get(name, {})) for name, source in pairs.items()}
    plan = replace(plan, tensors=tensors, aliases=dict(child.trace.aliases), literals=literals)
    for name, changes in literals.items():
        for what, value in changes.items():
            if isinstance(value, float):
                plan = plan.remark(
                    f"a number that the destination computes from its own sizes: {what} of '{name}' is {value:g} there"
                )
    return plan if aligned else plan.remark("the destination's graph differs from the parent's: tensors were matched by name")


def _choose(parent: Layout, child: Layout) -> dict[str, tuple[int, ...]]:
    """For each stack, the parent's block of each block of the child."""
    if len(parent.blocks) != len(child.blocks):
        raise DestinationError(
            f"the destination has {len(child.blocks)} stacks of blocks, the parent {len(parent.blocks)}",
            because=f"parent: {_list(parent.blocks)}; destination: {_list(child.blocks)} (only blocks like the parent's count)",
            attempt="a destination of the parent's own class, smaller in its sizes only",
        )
    stacks = {}
    for ours, theirs in zip(parent.blocks, child.blocks, strict=True):
        if ours.pattern != theirs.pattern:
            raise DestinationError(
                f"the blocks of the destination's '{theirs.name}' are not like those of the parent's '{ours.name}'"
            )
        wanted = middle(len(ours), len(theirs))
        kinds = [block.kind for block in ours.blocks]
        stacks[ours.name] = tuple(
            alike(kinds, [block.kind for block in theirs.blocks], wanted) if len(set(kinds)) > 1 else wanted
        )
        for block, index in zip(theirs.blocks, stacks[ours.name], strict=True):
            _same_ops(ours.blocks[index], block)
    return stacks


def _same_ops(ours: Block, theirs: Block) -> None:
    """**Raises** `DestinationError` if two blocks do not compute with the same ops, whatever their sizes; casts and dropout apart."""
    a, b = (Counter(name_of(node.target) for node in _downstream(block) if not identity(node.target)) for block in (ours, theirs))
    if a != b:
        raise DestinationError(
            f"the destination's '{theirs.name}' is another kind of block than the parent's '{ours.name}'",
            because=f"they differ in {', '.join([*(a - b), *(b - a)][:4])}",
            attempt="the parent's own activation, norms and attention in the destination",
        )


def _downstream(block: Block) -> list[fx.Node]:
    """What a block makes of its entry. (What it makes of anything else, such as a mask, it may share with others, or not.)"""
    reached = {block.entry: None}
    for node in block.nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached[node] = None
    return list(reached)[1:]


def _list(stacks: Iterable[Stack]) -> str:
    return "; ".join(map(str, stacks)) or "none"


# -- which tensor is which -------------------------------------------------------------------------------------------


def _align(parent: fx.Graph, child: fx.Graph) -> Nodes | None:
    """The nodes of two graphs side by side; None where they are not the same ops on the same values."""
    ours, theirs = ([node for node in graph.nodes if node.op != "get_attr"] for graph in (parent, child))
    if [(n.op, str(n.target)) for n in ours if n.op == "call_function"] != [
        (n.op, str(n.target)) for n in theirs if n.op == "call_function"
    ]:
        return None
    matched = dict(zip(ours, theirs, strict=False))
    pairs = list(matched.items())
    for a, b in list(pairs):
        sources = list(zip(a.all_input_nodes, b.all_input_nodes, strict=False))
        if len(a.all_input_nodes) != len(b.all_input_nodes):
            return None
        for x, y in sources:
            if matched.setdefault(x, y) is not y:
                return None
            if x.op == "get_attr" and (x, y) not in pairs:
                pairs.append((x, y))
    return pairs


def _read_pairs(aligned: Nodes, plan: Plan) -> dict[str, str]:
    """The destination's tensors → the plan's (a block that comes again has tensors of its own)."""
    return {str(b.target): str(a.target) for a, b in aligned if a.op == "get_attr" and str(a.target) in plan.tensors}


def _named_pairs(parent: Layout, child: Layout, stacks: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The same by names, in which a block of the destination stands for the parent's block that it comes from."""
    renamed: dict[str, tuple[str, str]] = {}
    for ours, theirs in zip(parent.blocks, child.blocks, strict=True):
        seen: dict[int, int] = {}
        for block, index in zip(theirs.blocks, stacks[ours.name], strict=True):
            seen[index] = seen.get(index, 0) + 1
            origin = ours.blocks[index]
            renamed[f"{block.name}."] = (f"{origin.name}.", origin.again(f"{origin.name}.", seen[index]))
    pairs = {}
    for name in child.parameters:
        prefix = next((each for each in renamed if name.startswith(each)), "")
        original, copied = (new + name[len(prefix) :] for new in renamed.get(prefix, ("", "")))
        if original in parent.parameters and len(parent.axes(original)) == len(child.axes(name)):
            pairs[name] = copied
    return pairs


# -- how large each factor is ----------------------------------------------------------------------------------------


def _sizes(parent: Layout, child: Layout, sources: Mapping[str, str], take: Mapping[str, Mapping[int, Any]]) -> dict[str, int]:
    """The destination's size of every factor that differs."""
    sizes: dict[Factor, tuple[int, str]] = {}
    unsolved: list[tuple[Axis, int, str]] = []
    for name, source in sources.items():
        for dim, (ours, theirs) in enumerate(zip(parent.axes(source), child.axes(name), strict=True)):
            if dim not in take.get(name, {}):
                _match(ours, theirs, f"{name}:{dim}", sizes, unsolved)
    _solve(sizes, unsolved)
    for factor, (size, where) in sizes.items():
        _admit(factor, size, where)
    return {factor.name: size for factor, (size, _) in sizes.items() if size != factor.size}


def _match(
    ours: Axis, theirs: Axis, where: str, sizes: dict[Factor, tuple[int, str]], unsolved: list[tuple[Axis, int, str]]
) -> None:
    """Terms of the same form say the size of each factor; others give an equation."""
    if type(ours) is Factor:
        known, first = sizes.setdefault(ours, (theirs.size, where))
        if known != theirs.size:
            raise DestinationError(
                f"the destination asks for two sizes of '{ours.name}': {known} and {theirs.size}",
                because=f"{first} and {where} share it in the parent",
                attempt="a destination whose parts keep the parent's proportions",
            )
    elif type(ours) is type(theirs) and len(ours.parts) == len(theirs.parts):  # type: ignore[union-attr]
        for a, b in zip(ours.parts, theirs.parts, strict=True):  # type: ignore[union-attr]
            _match(a, b, where, sizes, unsolved)
    else:
        unsolved.append((ours, theirs.size, where))


def _solve(sizes: dict[Factor, tuple[int, str]], unsolved: list[tuple[Axis, int, str]]) -> None:
    """Sizes from products and sums in which one factor is unknown; a factor that nothing tells about keeps its size."""
    while unsolved:
        remaining = []
        for axis, total, where in unsolved:
            unknown = [factor for factor in dict.fromkeys(algebra.factors(axis)) if factor not in sizes]
            if len(unknown) > 1:
                remaining.append((axis, total, where))
                continue
            (last,) = unknown or (None,)
            options = range(1, last.size + 1) if last else [0]
            fits = [n for n in options if _size(axis, {**sizes, **({last: (n, where)} if last else {})}) == total]
            if not fits:
                known = ", ".join(
                    f"{factor.name} = {sizes[factor][0]}" for factor in dict.fromkeys(algebra.factors(axis)) if factor in sizes
                )
                raise DestinationError(
                    f"{where} has {total} positions in the destination, which {show(axis)} ({axis.size}) cannot be cut to",
                    because=f"it is made of {known}" if known else "",
                    attempt="a size that divides, and is no larger than the parent's",
                )
            if last:
                sizes[last] = (fits[0], where)
        if len(remaining) == len(unsolved):
            axis, _, where = remaining[0]
            factor = next(factor for factor in algebra.factors(axis) if factor not in sizes)
            sizes[factor] = (factor.size, where)
        unsolved = remaining


def _size(axis: Axis, sizes: Mapping[Factor, tuple[int, str]]) -> int:
    return algebra.size(axis, {factor: range(size) for factor, (size, _) in sizes.items()})


def _admit(factor: Factor, size: int, where: str) -> None:
    if factor.frozen is not None and size != factor.size:
        raise DestinationError(
            f"the destination has {size} positions at {where}, the parent's '{factor.name}' {factor.size}, and it is frozen",
            because=str(factor.frozen),
            attempt="the parent's own size there (vocabulary, image and position tables stay as they are)",
        )
    if size > factor.size:
        raise DestinationError(
            f"the destination is wider than the parent: {size} at {where}, and '{factor.name}' has {factor.size}",
            because="a clone keeps some of the parent's units; it has no more of them than the parent",
            attempt="a smaller destination, or a wider parent",
        )


# -- what is not a size ----------------------------------------------------------------------------------------------


def _rows(parent: Layout, child: Layout, stacks: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, tuple[int, ...]]]:
    """Parameters that hold one row per block: the rows that the child's blocks read, from those that the parent's read."""
    take: dict[str, dict[int, dict[int, int]]] = {}
    for ours, theirs in zip(parent.blocks, child.blocks, strict=True):
        for block, index in zip(theirs.blocks, stacks[ours.name], strict=True):
            for (a, _, _), (b, _, name) in zip(ours.blocks[index].uses, block.uses, strict=True):
                row, source = (layout.sizes.get(node, {}).get(("index", None)) for layout, node in ((child, b), (parent, a)))
                if row is not None and source is not None:
                    dim = next(
                        i for i, axis in enumerate(child.axes(name)) if type(axis) is Concat and not list(algebra.factors(axis))
                    )
                    take.setdefault(name, {}).setdefault(dim, {})[row.size] = source.size
    return {name: {dim: tuple(rows[i] for i in sorted(rows)) for dim, rows in dims.items()} for name, dims in take.items()}


def _literals(aligned: Nodes, parent: Layout, child: Layout) -> dict[str, dict[str, float]]:
    """Numbers that differ between the child's graph and the destination's: those that a class computes from its own sizes."""
    changes: dict[str, dict[str, float]] = {}
    for ours, theirs in aligned:
        if ours.op == "call_function":
            found = dict(_numbers("args", ours.args, theirs.args))
            found.update(_numbers("kwargs", ours.kwargs, theirs.kwargs))
            if found:
                changes[ours.name] = found
        elif ours.op == "get_attr" and str(theirs.target) not in child.trace.parameters:
            value, old = child.trace.state[str(theirs.target)], parent.trace.state.get(str(ours.target))
            if value.numel() == 1 and old is not None and not value.is_meta and not old.is_meta and float(old) != float(value):
                changes[str(theirs.target)] = {"value": float(value)}
    return changes


def _numbers(path: str, ours: Any, theirs: Any) -> Iterable[tuple[str, float]]:
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from _numbers(f"{path}.{index}", a, b)
    elif isinstance(ours, Mapping) and isinstance(theirs, Mapping) and set(ours) == set(theirs):
        for key in ours:
            yield from _numbers(f"{path}.{key}", ours[key], theirs[key])
    elif isinstance(ours, (int, float)) and isinstance(theirs, (int, float)) and ours != theirs:
        yield path, theirs
