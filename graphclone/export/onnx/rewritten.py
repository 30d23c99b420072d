"""Calls of a program written otherwise, each where it stands: the rest of the program need not be traced once more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

# Called as the op is: the same in other ops, or NotImplemented where the op may stay.
Rewrite = Callable[..., Any]
Rewrites = Mapping[Any, Rewrite]


REWRITES: dict[Any, Rewrite] = {}


def instead_of(*targets: Any) -> Callable[[Rewrite], Rewrite]:
    """Decorates what rewrites these ops, beside other rewrites of the same: the first that concerns a call has it."""

    def register(rewrite: Rewrite) -> Rewrite:
        for target in targets:
            REWRITES[target] = _first(REWRITES[target], rewrite) if target in REWRITES else rewrite
        return rewrite

    return register


def _first(one: Rewrite, other: Rewrite) -> Rewrite:
    def rewrite(*args: Any, **kwargs: Any) -> Any:
        found = one(*args, **kwargs)
        return other(*args, **kwargs) if found is NotImplemented else found

    return rewrite


def rewritten(program: ExportedProgram, rewrites: Rewrites) -> ExportedProgram:
    """The program, in which every call that a rewrite concerns is what the rewrite makes of it."""
    for module in program.graph_module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        bodies = {node: body for node in module.graph.nodes if (body := _body(node, rewrites)) is not None}
        for node, body in bodies.items():
            for old, new in zip(_results(node), _put(body, node), strict=True):
                if old is not None:
                    old.replace_all_uses_with(new)
                    program.graph_signature.replace_all_uses(old.name, new.name)
            if not node.users:  # one that writes in place is never taken for dead
                module.graph.erase_node(node)
        if bodies:
            module.graph.eliminate_dead_code()
            module.recompile()
    return program


def _body(node: fx.Node, rewrites: Rewrites) -> fx.Graph | None:
    """The call as a graph of its sources, what a rewrite makes rewritten too; None where the op may stay."""
    if node.target not in rewrites or _stays(node, rewrites[node.target]):
        return None
    sources = node.all_input_nodes

    def call(*values: Any) -> Any:
        bound = dict(zip(sources, values, strict=True))
        return node.target(*fx.map_arg(node.args, bound.__getitem__), **fx.map_arg(node.kwargs, bound.__getitem__))  # type: ignore[operator]

    values = [source.meta["val"] for source in sources]
    try:
        return make_fx(call, dict(rewrites), tracing_mode="symbolic", pre_dispatch=True)(*values).graph
    except Exception:  # then the exporter will tell
        return None


def _stays(node: fx.Node, rewrite: Rewrite) -> bool:
    """Whether the rewrite says so at once: most calls are none of its concern."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: each.meta.get("val"))
    values = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, FakeTensor)]
    try:
        # as in a trace: else some ops settle sizes that are open
        with enable_python_dispatcher(), values[0].fake_mode if values else contextlib.nullcontext():
            return rewrite(*args, **kwargs) is NotImplemented  # on values without numbers
    except Exception:  # then the exporter will tell
        return True


def _put(body: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Copy the body before the node: what it gives, one or several."""
    copies: dict[fx.Node, Any] = {}
    sources = iter(node.all_input_nodes)
    with node.graph.inserting_before(node):
        for each in body.nodes:
            if each.op == "placeholder":
                copies[each] = next(sources)
            elif each.op == "output":
                found = fx.map_arg(each.args[0], copies.__getitem__)
                return list(found) if isinstance(found, (tuple, list)) else [found]
            else:
                copies[each] = new = node.graph.node_copy(each, copies.__getitem__)
                new.meta |= {key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta}
    raise AssertionError("a graph without an output")


def _results(node: fx.Node) -> list[fx.Node | None]:
    """The nodes of what a call gives, as `_put` gives them; None for one that nobody reads."""
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return [node]
    readers = {reader.args[1]: reader for reader in node.users}
    return [readers.get(index) for index in range(len(value))]
