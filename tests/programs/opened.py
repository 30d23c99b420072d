"""Random programs whose inputs have open sizes: some of the numbers in their calls are computed from the sizes of the inputs.

The program is exported with every size open that it allows, and all oracles are asked at the sizes of the example and at the second ones
of `Trace.open`. Of what lies on an open dim a child keeps everything.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.capture import Trace, at_other_sizes, capture
from graphclone.dynamic import resized
from graphclone.errors import CaptureError
from graphclone.layout import Layout, analyze
from tests.programs.oracles import Outcome, asked, crashed
from tests.programs.program import Program, run

Size = tuple[fx.Node, int, int]  # an input, a dim of it, and its size


def played(program: Program, rng: Random) -> fx.GraphModule:
    """The program as a module that computes numbers from the sizes of its inputs: nearly all that may come from some of these."""
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(program.graph, env))
    sizes = [
        (env[node], dim, size)
        for node in program.graph.nodes
        if node.op == "placeholder"
        for dim, size in _dims(node)
        if rng.random() < 0.7
    ]
    for node in list(graph.nodes):
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        with graph.inserting_before(node):
            stated = {argument.name: _sized(argument.real_type) for argument in node.target._schema.arguments}
            node.args = tuple(
                _computed(graph, value, sizes, rng) if sized else value
                for sized, value in zip(stated.values(), node.args, strict=False)
            )
            node.kwargs = {
                name: _computed(graph, value, sizes, rng) if stated[name] else value for name, value in node.kwargs.items()
            }
    module = nn.Module()
    for name, tensor in program.state.items():
        if name in program.parameters:
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)
    return fx.GraphModule(module, graph)


def _sized(kind: Any) -> bool:
    """Whether an argument of this type may be a size that is open, or have some."""
    while kind.kind() in ("ListType", "OptionalType"):
        kind = kind.getElementType()
    return bool(kind.kind() == "SymIntType")


def _dims(node: fx.Node) -> Iterator[tuple[int, int]]:
    return ((dim, size) for dim, size in enumerate(node.meta["val"].shape) if size > 1)


def _computed(graph: fx.Graph, value: Any, sizes: list[Size], rng: Random) -> Any:
    """A number, as one of the ways to get it from the sizes of inputs."""
    if isinstance(value, (list, tuple)):
        return [_computed(graph, each, sizes, rng) for each in value]
    if type(value) is not int or value < 2 or rng.random() < 0.02:
        return value
    unlike = [(each, other) for each in sizes for other in sizes if each is not other]
    ways: list[list[tuple[Size, Any, int | Size]]] = [
        [(each, None, 0) for each in sizes if each[2] == value],
        [(each, operator.mul, other) for each, other in unlike if each[2] * other[2] == value],
        [(each, operator.mul, value // each[2]) for each in sizes if value % each[2] == 0],
        [(each, operator.floordiv, each[2] // value) for each in sizes if each[2] % value == 0],
        [(each, operator.add, value - each[2]) for each in sizes if rng.random() < 0.1],
    ]
    found = [way for way in ways if way]
    if not found:
        return value
    one, operation, other = rng.choice(found[0] if rng.random() < 0.95 else rng.choice(found))
    if operation is None:
        return _size(graph, one)
    return graph.call_function(operation, (_size(graph, one), other if isinstance(other, int) else _size(graph, other)))


def _size(graph: fx.Graph, size: Size) -> fx.Node:
    return graph.call_function(torch.ops.aten.sym_size.int, size[:2])


def judge_open(program: Program, rng: Random) -> Outcome:
    """What the oracles say of the program with open sizes, at both sizes. (At none, if it has no open ones.)"""
    layout, module = None, played(program, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _capture(module, program.inputs)
            if found is None:
                return Outcome(sizes=0)
            trace, elsewhere = found
            layout = analyze(trace)
            free = list(_free(layout))
            outcome = asked(at(layout.trace, program.inputs), layout, free)
            if outcome.wrong or outcome.unstable or outcome.rounding:
                return outcome
            return replace(asked(at(layout.trace, elsewhere), layout, free), sizes=2)
    except Exception as error:  # whatever it is, it is no answer
        return crashed(error, layout)


def _capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Trace, tuple[Tensor, ...]] | None:
    """The trace, and inputs of its other sizes; none where it has no others, or where torch takes for allowed what the module does not."""
    try:
        trace = capture(module, inputs, dynamic=True, check=False)
    except CaptureError:
        return None
    if trace.open is None:
        return None
    other = at_other_sizes(trace).open
    assert other is not None
    (elsewhere, _) = resized(other, (inputs, {}))
    try:
        module(*elsewhere)
    except Exception:  # torch says it in one of many ways
        return None
    return trace, elsewhere


def at(trace: Trace, inputs: tuple[Tensor, ...]) -> Program:
    """A trace as a program that is given these inputs."""
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(trace.graph, env))
    state = {name: tensor.detach() for name, tensor in trace.state.items()}
    values: dict[fx.Node, Any] = {}
    run(graph, inputs, state, values)
    for node, value in values.items():
        node.meta = {"val": value}
    return Program(graph, state, trace.parameters)


def _free(layout: Layout) -> Iterator[Factor]:
    """What a child may have less of: nothing that lies on an open dim of an input or of a result."""
    graph = layout.trace.graph
    ends = [node for node in graph.nodes if node.op == "placeholder"] + list(next(reversed(graph.nodes)).args[0])
    fixed: set[Factor] = set()
    whole: set[Factor] = set()
    for node in ends:
        shape = getattr(node.meta.get("open"), "shape", node.meta["val"].shape)
        for axis, size in zip(layout.types[node].axes, shape, strict=True):
            (whole if isinstance(size, int) else fixed).update(algebra.factors(axis))
    for factor in layout.factors:
        if factor.frozen is None and factor not in fixed and (factor.slots or factor in whole):
            yield factor
