"""Ops without a rule, written out in simpler ones: the child's graph then consists of what was analysed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphclone.capture import Trace, explicit, prune
from graphclone.dynamic import Sizes, at_sizes, is_open
from graphclone.eased import silence


def decompose(trace: Trace, known: Callable[[Any], bool]) -> Trace:
    """The trace with every op that is not `known` replaced by its decomposition to core ATen, where torch has one."""
    unknown = [
        n
        for n in trace.graph.nodes
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload) and not known(n.target)
    ]
    if not unknown:
        return trace
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    modules: dict[fx.Node, str] = {}
    sizes = trace.open.sizes if trace.open is not None else {}
    written = {node: body for node, body in _bodies(unknown, known, sizes) if body is not None}
    for node in trace.graph.nodes:
        if node in written:
            env[node] = _inline(written[node], node, graph, env)
        elif (
            node.op == "call_function" and str(node.target).endswith("getitem>") and isinstance(env[node.args[0]], (tuple, list))
        ):
            env[node] = env[node.args[0]][node.args[1]]
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], env.__getitem__))
        else:
            env[node] = graph.node_copy(node, env.__getitem__)
        if node in trace.modules and isinstance(env.get(node), fx.Node):
            modules[env[node]] = trace.modules[node]
    prune(graph)
    return replace(trace, graph=graph, modules={n: p for n, p in modules.items() if not n._erased})


@functools.cache
def _table() -> Mapping[Any, Callable[..., Any]]:
    return torch._decomp.core_aten_decompositions()


def _bodies(nodes: Sequence[fx.Node], known: Callable[[Any], bool], sizes: Sizes) -> Iterator[tuple[fx.Node, fx.Graph | None]]:
    """Each with its body; calls that are alike but for their place in the model share one."""

    def settled(op: Any) -> bool:
        """What may stand in a body: a rule tells of the value that an op returns, not of what else it writes."""
        return known(op) and not op._schema.is_mutable

    table = {op: body for op, body in _table().items() if not settled(op)}
    found: dict[str, fx.Graph | None] = {}
    for node in nodes:
        if (call := _call(node)) not in found:
            found[call] = _body(node, settled, table, sizes)
        yield node, found[call]


def _call(node: fx.Node) -> str:
    """What the body of a call depends on."""
    order = {source: at for at, source in enumerate(node.all_input_nodes)}

    def shown(source: fx.Node) -> str:
        value = source.meta.get("open", source.meta.get("val"))
        layout = (value.shape, value.dtype, value.device) if isinstance(value, torch.Tensor) else value
        strides = value.stride() if "open" in source.meta and isinstance(value, torch.Tensor) else ""  # else `_body` has its own
        return f"%{order[source]} {layout} {strides}"

    return str((node.target, fx.map_arg(node.args, shown), fx.map_arg(node.kwargs, shown)))


def _body(
    node: fx.Node, settled: Callable[[Any], bool], table: Mapping[Any, Callable[..., Any]], sizes: Sizes
) -> fx.Graph | None:
    """The op as a graph of ops that are all `settled`, by the decompositions of `table`; None if there is none."""
    sources = [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), torch.Tensor)]
    if len(sources) < len(node.all_input_nodes):
        return None

    def call(*values: torch.Tensor) -> Any:
        bound = dict(zip(sources, values, strict=True))
        return node.target(*fx.map_arg(node.args, bound.__getitem__), **fx.map_arg(node.kwargs, bound.__getitem__))  # type: ignore[operator]

    values = [source.meta.get("open", source.meta["val"]) for source in sources]
    if not any("open" in source.meta for source in sources):
        values = [torch.empty(value.shape, dtype=value.dtype, device="meta") for value in values]
    guards = _guards(values)

    try:
        with _unguarded(values):
            body = make_fx(call, decomposition_table=table, tracing_mode="real")(*values).graph
    except Exception:  # torch's decompositions are many; one that fails leaves the op opaque, which is sound
        return None
    ops = [each.target for each in body.nodes if each.op == "call_function" and isinstance(each.target, torch._ops.OpOverload)]
    if not ops or not all(map(settled, ops)) or any(each.op == "get_attr" for each in body.nodes) or _guards(values) != guards:
        return None
    for each in body.nodes:
        if is_open(each.meta.get("val")):
            each.meta["open"] = each.meta["val"]
            each.meta["val"] = at_sizes(each.meta["val"], sizes)
    return body


def _environments(values: list[torch.Tensor]) -> list[ShapeEnv]:
    """Where what is known of open sizes is kept."""
    modes = dict.fromkeys(value.fake_mode for value in values if isinstance(value, FakeTensor))
    return [mode.shape_env for mode in modes if mode.shape_env is not None]


def _guards(values: list[torch.Tensor]) -> int:
    """How much is known of open sizes: a decomposition that holds for some of them only would add to it."""
    return sum(len(each.guards) for each in _environments(values))


@contextlib.contextmanager
def _unguarded(values: list[torch.Tensor]) -> Iterator[None]:
    """An error for whatever would add to that: else it would be known the next time (older versions of torch cannot tell)."""
    with contextlib.ExitStack() as stack:
        for each in _environments(values):
            if hasattr(each, "error_on_new_guards"):
                stack.enter_context(each.error_on_new_guards())
                stack.enter_context(silence())
        yield


def _inline(body: fx.Graph, node: fx.Node, graph: fx.Graph, env: Mapping[fx.Node, Any]) -> Any:
    inner: dict[fx.Node, Any] = {}
    sources = iter(node.all_input_nodes)
    for each in body.nodes:
        if each.op == "placeholder":
            inner[each] = env[next(sources)]
        elif each.op == "output":
            return fx.map_arg(each.args[0], inner.__getitem__)
        else:
            inner[each] = new = explicit(graph.node_copy(each, inner.__getitem__))
            new.meta["stack_trace"] = node.meta.get("stack_trace")
            for name, value in list(new.kwargs.items()):
                if isinstance(value, torch.device) and value.type == "meta":
                    new.update_kwarg(
                        name, node.meta["val"].device if isinstance(node.meta["val"], torch.Tensor) else torch.device("cpu")
                    )
    raise AssertionError("a graph without an output")
