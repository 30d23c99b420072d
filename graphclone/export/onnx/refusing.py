"""What a program asserts of its inputs' values, in the file too: ONNX knows no assertion, but a reshape that cannot be is refused."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

from graphclone.decided import ASSERT, MARK, TOLD

aten = torch.ops.aten
_REFUSED = "refused: "
_STEM = "graphclone_holds_"  # how an output that says whether an assertion holds is called, until it is none any more


def asserting(program: ExportedProgram) -> dict[str, str]:
    """Give the program one more output for each of its assertions, a Boolean: whether it holds.

    **Returns** the names of these outputs, last in the file, → what the assertion says.
    """
    graph = program.graph
    output = graph.output_node()
    told: dict[str, str] = {}
    for (tensor, value), message in assertions(graph).items():
        with graph.inserting_before(output):
            held = graph.call_function(aten.eq.Scalar, (tensor, value))
        held.meta["val"] = aten.eq.Scalar(tensor.meta["val"], value)
        output.args = ((*output.args[0], held),)
        program.graph_signature.output_specs.append(OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(held.name), None))
        told[f"{_STEM}{len(told)}"] = f"{_REFUSED}{message} ({len(told) + 1})"
    program.graph_module.recompile()
    whole = next(each.signature for each in program.module_call_graph if not each.fqn)
    if whole is not None:
        whole.out_spec = pytree.tree_structure(output.args[0])  # as `Plain` gives it: a tuple of tensors
    return told


def assertions(graph: fx.Graph) -> dict[tuple[fx.Node, int | float], str]:
    """Of those that `graphclone.decided` has written: the tensor of one number and what it has to be → the words, the first ones where
    a graph that asserts it already was traced once more."""
    found: dict[tuple[fx.Node, int | float], str] = {}
    for node in graph.nodes:
        if node.target is not ASSERT or not str(node.args[1]).startswith((MARK, TOLD)):
            continue
        number, value = node.args[0].args
        tensor = number.args[0]
        while tensor.target is aten.clone.default:
            tensor = tensor.args[0]
        if str(node.args[1]).startswith(TOLD):
            found[tensor, value] = str(node.args[1]).partition(": ")[0]
        else:
            found.setdefault((tensor, value), f"{TOLD} it computes {value}{str(node.args[1]).removeprefix(MARK)}")
    return found


def refuse(model: ir.Model, told: Mapping[str, str]) -> None:
    """In place of those outputs, nodes that fail where one is false. Their names, which a runtime puts into its error, say why.

    Each reshapes a single number to a shape of one where the assertion holds, of two where it does not. The first output of the file
    takes its shape from all of them together, so that none can be left out. (Of reshapes in a row, runtimes keep the last.)
    """
    if not told:
        return
    graph = model.graph
    holds = [graph.outputs.pop() for _ in told][::-1]
    one, two = (_constant(graph, f"{_STEM}{name}", size) for name, size in (("one", 1), ("two", 2)))
    shapes = [_node(graph, "Where", [held, one, two]) for held in holds]
    factor = _node(
        graph, "Max", [_node(graph, "Reshape", [one, shape], name) for shape, name in zip(shapes, told.values(), strict=True)]
    )
    first = graph.outputs[0]
    sizes = _node(graph, "Mul", [_node(graph, "Shape", [first]), factor])
    out = _node(graph, "Reshape", [first, sizes], allowzero=1)
    out.shape, out.type = first.shape, first.type
    name, first.name = first.name, f"{first.name}.unchecked"
    out.name = name
    graph.outputs[0] = out


def _constant(graph: ir.Graph, name: str, number: int) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor([number], dtype=ir.DataType.INT64, name=name))
    value.shape, value.type = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    return value


def _node(graph: ir.Graph, op: str, inputs: list[ir.Value], name: str | None = None, **attributes: int) -> ir.Value:
    node = ir.node(op, inputs, attributes=attributes, name=name)
    graph.append(node)
    return node.outputs[0]


def unsized(model: ir.Model) -> None:
    """Forget the sizes of what is computed, which values have decided: who believes them has no need to count."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def weighed(model: ir.Model) -> bool:
    """Whether real numbers have a part in what is asserted: rounded otherwise, they would decide otherwise."""
    ahead = [node for node in model.graph if node.name is not None and node.name.startswith(_REFUSED)]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        for value in node.inputs:
            if value is not None and value.dtype is not None and value.dtype.is_floating_point():
                return True
            before = value.producer() if value is not None else None
            if before is not None and before not in seen:
                seen.add(before)
                ahead.append(before)
    return False
