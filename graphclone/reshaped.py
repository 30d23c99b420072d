"""A plan on another graph of its parent: that of inputs of other shapes, or of other inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphclone.capture import source_line
from graphclone.errors import PlanError, SizeError
from graphclone.layout import Layout
from graphclone.passes.drop_blocks import restacked
from graphclone.passes.whole import whole
from graphclone.plan import Literal, Plan

_HERE = "on these inputs the parent is another program"


def reshaped(plan: Plan, of: Layout, layout: Layout) -> Plan:
    """The same child, as a plan of `layout`, which is the same parent's; `of` is the layout that the plan was made of. It has the plan's
    names and scales; how long axes are that no choice is about, and what constants there are, the layout says.

    **Raises** `PlanError` where the plan's choices cannot be made there.
    """
    here = whole(layout)
    if differs := [name for name in plan.keep if here.sizes.get(name) != plan.sizes[name]]:
        raise PlanError(_HERE, because=f"'{differs[0]}' has {here.sizes.get(differs[0], 'no')} units there")
    if {name: len(blocks) for name, blocks in here.stacks.items()} != {stack.name: len(stack) for stack in of.blocks}:
        raise PlanError(_HERE, because="its blocks are others there")
    try:
        tensors = restacked(here, layout, plan.stacks).tensors
    except SizeError as error:
        raise PlanError(_HERE, because=str(error).splitlines()[0]) from error
    ours = {
        name: replace(piece, axes=here.tensors[piece.source].axes)
        for name, piece in plan.tensors.items()
        if piece.source in here.tensors
    }
    known = {piece.source for piece in ours.values()}
    others = {name: piece for name, piece in tensors.items() if piece.source not in known and name not in ours}
    return replace(plan, sizes=here.sizes, tensors=ours | others, literals=_literals(plan, of, layout), inputs={})


def _literals(plan: Plan, of: Layout, layout: Layout) -> Mapping[str, Mapping[str, Literal]]:
    """The plan's literals, by the names of nodes and constants here. **Raises** `PlanError` where there is no such argument."""
    pairs, found = _counterparts(of.trace.graph, layout.trace.graph), {}
    nodes = {node.name: node for node in of.trace.graph.nodes}
    for name, changes in plan.literals.items():
        if "value" in changes:
            source = plan.tensors[name].source
            ours, theirs = of.trace.state[source], layout.trace.state.get(source)
            if theirs is None or ours.shape != theirs.shape or not torch.equal(ours, theirs):
                raise PlanError(_HERE, because=f"its constant '{name}' is another one there")
            found[name] = changes
            continue
        node = pairs.get(nodes[name]) if name in nodes else None  # a node of a block that comes again is in no parent's graph
        if node is None or any(_argument(node, path) != _argument(nodes[name], path) for path in changes):
            raise PlanError(_HERE, because=f"it has no such number as is in '{name}' for the plan's")
        found[node.name] = changes
    return found


def _argument(node: fx.Node, path: str) -> Any:
    """The plain number that a plan calls `args.1` or `kwargs.scale`; None where there is none."""
    where, *steps = path.split(".")
    found: Any = getattr(node, where)
    for step in steps:
        if isinstance(found, Mapping):
            found = found.get(step)
        else:
            found = found[int(step)] if isinstance(found, (list, tuple)) and int(step) < len(found) else None
    return found


def _counterparts(ours: fx.Graph, theirs: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Which node is which in two graphs of one model: those of one op, line of code and module, in their order, if there are as many."""
    groups = [defaultdict[tuple[str, ...], list[fx.Node]](list) for _ in range(2)]
    for graph, group in zip((ours, theirs), groups, strict=True):
        for node in graph.nodes:
            modules = list((node.meta.get("nn_module_stack") or {}).values())
            path = str(modules[-1][0]) if modules else ""
            group[str(node.target), source_line(node.meta.get("stack_trace")) or "", path].append(node)
    first, second = groups
    return {a: b for key, each in first.items() if len(each) == len(second[key]) for a, b in zip(each, second[key], strict=True)}
