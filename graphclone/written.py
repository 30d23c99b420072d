"""What a model writes into its buffers as it runs: calls of a graph, where a child is to do the same.

torch's functionalisation returns new values of buffers as outputs, and takes the ops that write unseen (batch norm) apart. Here they are
put together again, and what is left is written at the end.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

aten = torch.ops.aten
WRITE = aten.copy_.default


def is_write(node: fx.Node) -> bool:
    """Whether a node writes a buffer."""
    return node.target is WRITE and isinstance(node.args[0], fx.Node) and node.args[0].op == "get_attr"


def restore(old: fx.Node, graph: fx.Graph, env: dict[fx.Node, Any], writes: bool) -> bool:
    """Copy a node as the op that its model called, where functionalisation wrote it out otherwise. **Returns** whether it is one."""
    if old.target is aten._native_batch_norm_legit_functional.default and writes and _parts(old) <= {0, 3, 4}:
        given = [env[each] if isinstance(each, fx.Node) else each for each in old.args]
        new = graph.call_function(aten.batch_norm.default, (*given, True))
        env[old] = new, None, None, given[3], given[4]  # it has written the buffers: they are their own new values
    elif old.target is aten.native_dropout.default and _parts(old) <= {0}:
        new = graph.call_function(
            aten.dropout.default, tuple(env[each] if isinstance(each, fx.Node) else each for each in old.args)
        )
        env[old] = new, None
    else:
        return False
    new.meta = {**old.meta, "val": old.meta["val"][0]}
    return True


def _parts(node: fx.Node) -> set[object]:
    """Which of a node's results are read."""
    return {user.args[1] if user.target is operator.getitem else None for user in node.users}


def write_buffers(program: ExportedProgram, graph: fx.Graph, env: dict[fx.Node, Any]) -> None:
    """Write the last values of buffers, when all else has read them."""
    inputs = {str(spec.target): spec.arg.name for spec in program.graph_signature.input_specs}
    places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    for spec, value in zip(program.graph_signature.output_specs, output.args[0], strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION:
            buffer, new = env[places[inputs[str(spec.target)]]], env[value]
            if new is not buffer:
                if new.meta["val"].is_floating_point() or new.meta["val"].is_complex():  # a buffer has no gradient
                    value = graph.call_function(aten.detach.default, (new,))
                    value.meta, new = {**new.meta}, value
                graph.call_function(WRITE, (buffer, new)).meta = {"val": buffer.meta["val"]}
