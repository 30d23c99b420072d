"""Make a counter-example small: fewer results, calls replaced by new inputs, calls left out, as long as it stays one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx

from tests.programs.oracles import Outcome, judge
from tests.programs.program import Program, tidy


def minimise(program: Program, judge: Callable[[Program], Outcome] = judge, steps: int = 400) -> Program:
    """The smallest program found that has a fault of the same kind."""
    fault = judge(program).fault
    improved = True
    while improved and steps > 0:
        improved = False
        for smaller in _smaller(program):
            steps -= 1
            if steps <= 0:
                break
            if len(smaller.graph.nodes) <= len(program.graph.nodes) and judge(smaller).fault == fault:
                program, improved = smaller, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for result in range(len(program.results)):
        if len(program.results) > 1:
            yield _only(program, result)
    count = len(list(program.graph.nodes))
    for change in (_as_result, _bypassed, _as_input):
        for index in range(count):
            made = _changed(program, index, change)
            if made is not None and len(made.graph.nodes) < count:
                yield made


def _copy(program: Program) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    graph, env = fx.Graph(), {}
    graph.output(graph.graph_copy(program.graph, env))
    for old, new in env.items():
        new.meta = {"val": old.meta["val"]}
    return graph, env


def _only(program: Program, index: int) -> Program:
    graph, _ = _copy(program)
    output = next(reversed(graph.nodes))
    output.args = ((output.args[0][index],),)
    return tidy(replace(program, graph=graph))


def _changed(program: Program, index: int, change: Callable[[fx.Graph, fx.Node], bool]) -> Program | None:
    graph, env = _copy(program)
    node = env.get(list(program.graph.nodes)[index])
    if node is None or node.op != "call_function" or not isinstance(node.meta["val"], Tensor) or not change(graph, node):
        return None
    return tidy(replace(program, graph=graph))


def _as_input(graph: fx.Graph, node: fx.Node) -> bool:
    """What was computed is given instead."""
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        given = graph.placeholder(f"x_{node.name}")
    given.meta["val"] = node.meta["val"].clone()
    node.replace_all_uses_with(given)
    return True


def _as_result(graph: fx.Graph, node: fx.Node) -> bool:
    """What follows is left out."""
    output = next(reversed(graph.nodes))
    if node in output.args[0]:
        return False
    output.args = ((node,),)
    return True


def _bypassed(graph: fx.Graph, node: fx.Node) -> bool:
    """One of its operands of the same shape instead; values downstream are computed again."""
    for operand in node.all_input_nodes:
        value = operand.meta["val"]
        if isinstance(value, Tensor) and value.shape == node.meta["val"].shape and value.dtype == node.meta["val"].dtype:
            node.replace_all_uses_with(operand)
            return _recompute(graph)
    return False


@torch.no_grad()
def _recompute(graph: fx.Graph) -> bool:
    for node in graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
            try:
                node.meta["val"] = node.target(*args, **kwargs)
            except (RuntimeError, IndexError, ValueError, TypeError):
                return False
    return True
