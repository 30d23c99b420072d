"""A program: a graph of ATen calls with inputs, parameters and constants, as capture makes it; it can print itself as Python."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone.capture import Trace, capture, prune
from graphclone.rules import mixing


@dataclass(frozen=True)
class Program:
    """`graph` has a placeholder per input, a get_attr per tensor of `state`, and every node's value in `meta`."""

    graph: fx.Graph
    state: dict[str, Tensor]
    parameters: frozenset[str]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(node.meta["val"] for node in self.graph.nodes if node.op == "placeholder")

    @property
    def calls(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def results(self) -> list[fx.Node]:
        return list(next(reversed(self.graph.nodes)).args[0])  # type: ignore[arg-type]

    @property
    def expected(self) -> list[Tensor]:
        return [node.meta["val"] for node in self.results]

    def trace(self) -> Trace:
        """What capture would give; no export is needed to get there."""
        inputs = self.inputs
        in_spec = pytree.tree_structure((inputs, {}))
        out_spec = pytree.tree_structure(tuple(self.results))
        names = tuple(node.name for node in self.graph.nodes if node.op == "placeholder")
        return Trace(self.graph, self.state, self.parameters, {}, (), in_spec, out_spec, names, {}, {})

    def source(self) -> str:
        """A forward function, with the shape of each value beside it."""
        given = [_given(node) for node in self.graph.nodes if node.op in ("placeholder", "get_attr")]
        names = [node.name if node.op == "placeholder" else str(node.target) for node in self.graph.nodes if _is_given(node)]
        lines = [f"{_name(node)} = {_call(node)}  # {_shape(node)}" for node in self.calls]
        returned = ", ".join(map(_name, self.results))
        body = [*given, f"def forward({', '.join(names)}):", *(f"    {line}" for line in lines), f"    return {returned}"]
        return "\n".join(body)


def _is_given(node: fx.Node) -> bool:
    return node.op in ("placeholder", "get_attr")


def _given(node: fx.Node) -> str:
    value = node.meta["val"]
    if value.is_floating_point():
        return f"{_name(node)} = randn({list(value.shape)})"
    return f"{_name(node)} = tensor({value.tolist()})"


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "get_attr" else node.name


def _shape(node: fx.Node) -> str:
    values = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
    return ", ".join(str(list(each.shape)) for each in values if isinstance(each, Tensor))


def _call(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return f"{_name(node.args[0])}[{node.args[1]}]"  # type: ignore[arg-type]
    named = [f"{name}={_text(value)}" for name, value in node.kwargs.items()]
    return f"{str(node.target).removesuffix('.default')}({', '.join([*map(_text, node.args), *named])})"


def _text(value: Any) -> str:
    if isinstance(value, fx.Node):
        return _name(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)


def finish(recorded: fx.Graph, given: dict[int, str], results: Sequence[fx.Node]) -> Program:
    """A program of recorded calls; `given` names inputs (x…) and state (others) by the identity of their recorded node."""
    graph, env, state = fx.Graph(), {}, {}
    for node in recorded.nodes:
        if node.op != "placeholder":
            env[node] = graph.node_copy(node, env.__getitem__)
        elif (name := given.get(id(node), f"b_{node.name}")).startswith("x"):  # what torch itself brought in is a constant
            env[node] = graph.placeholder(name)
        else:
            env[node] = graph.create_node("get_attr", name)
            state[name] = node.meta["val"]
        env[node].meta = {"val": node.meta["val"]}
    graph.output(tuple(env[each] for each in results))
    return tidy(Program(graph, state, frozenset(name for name in state if name.startswith("w"))))


def tidy(program: Program) -> Program:
    """Without what no result needs."""
    prune(program.graph)
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and not node.users:
            program.graph.erase_node(node)
    used = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    state = {name: tensor for name, tensor in program.state.items() if name in used}
    return replace(program, state=state, parameters=program.parameters & used)


def captured(module: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    """A module as a program, by way of torch.export."""
    trace = capture(module, inputs)
    program = Program(trace.graph, {name: tensor.detach() for name, tensor in trace.state.items()}, trace.parameters)
    values: dict[fx.Node, Any] = {}
    run(program.graph, inputs, program.state, values)
    for node, value in values.items():
        node.meta["val"] = value
    return program


SUMMED = (
    "aten.sum",
    "mean",
    "norm",
    "var",
    "std",
    "prod",
    "dist",
    "conv",
)  # what keeps equal values equal (softmax, pools) is not here


def _rounded(jitter: torch.Generator, centred: bool, value: Tensor) -> Tensor:
    """A value whose last bits are others. Zeros stay, but for those of a norm: they are what is left when a mean is taken off."""
    if not value.is_floating_point() or not value.numel():
        return value
    noise = 1e-14 * torch.randn(value.shape, generator=jitter, dtype=value.dtype)
    largest = value.abs().max().nan_to_num()
    return value + (largest + 1.0 if centred else largest * (value != 0)) * noise


@torch.no_grad()
def run(
    graph: fx.Graph,
    inputs: Sequence[Tensor],
    state: dict[str, Tensor],
    env: dict[fx.Node, Any] | None = None,
    jitter: torch.Generator | None = None,
) -> list[Tensor]:
    """Interpret a graph: as its module would, without generating code. `jitter`: round what is summed otherwise."""
    env = {} if env is None else env
    waiting = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = next(waiting)
        elif node.op == "get_attr":
            env[node] = state[str(node.target)]
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            env[node] = node.target(*args, **kwargs)
            if jitter is not None and (mixing(node.target) or any(each in str(node.target) for each in SUMMED)):
                env[node] = pytree.tree_map_only(
                    Tensor, functools.partial(_rounded, jitter, "norm" in str(node.target)), env[node]
                )
    return [env[node] for node in next(reversed(graph.nodes)).args[0]]
