"""A program → an ONNX file: translated by torch, tidied without losing a parameter's name, and told where it comes from."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import nn

from graphclone.errors import OutputError
from graphclone.export.onnx.mended import mended
from graphclone.export.onnx.opened import Opened
from graphclone.export.onnx.plain import Plain
from graphclone.export.onnx.refusing import asserting, refuse, unsized

SINGLE_FILE = 1_800_000_000  # bytes; ONNX's own limit for one file is 2 GiB


def translated(found: Opened, plain: Plain, opset: int | None) -> ir.Model:
    """The model as torch's exporter translates it, tidied, with its own names for inputs, outputs, axes and parameters.

    Raises:
        OutputError: it is not in the opset that was asked for.
    """
    program = mended(found.program)
    refusals = asserting(program)
    with _listening() as told:
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=plain.names,
            output_names=[*plain.output_names, *refusals],
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        model: ir.Model = exported.model
        if opset is not None:
            _check_opset(model, opset, told)
        if refusals:
            unsized(model)
        _tidy(model, frozenset(first_names(plain)))
    refuse(model, refusals)
    _rename(model, plain, found.names)
    _forget(model)
    return model


def _check_opset(model: ir.Model, opset: int, told: list[str]) -> None:
    found = model.opset_imports.get("")
    if found != opset:
        said = [line for line in told if "version" in line.lower()]
        raise OutputError(
            f"cannot export in opset {opset}",
            because=f"the exporter could not convert its operators, and left them in opset {found}"
            + (f"; it says: {said[-1]}" if said else ""),
            attempt=f"--opset {found}, or none: the exporter's own is the one that it writes best",
        )


def _tidy(model: ir.Model, parameters: frozenset[str]) -> None:
    """onnxscript's constant folding and clean-up. Nothing that reads a parameter is folded: it would come out under another name, and
    ONNX Runtime folds it while it loads. Nor is an interpolation, which takes minutes in onnx's reference implementation."""

    def fold(node: ir.Node) -> bool | None:
        kept = node.op_type == "Resize" or any(value is not None and value.name in parameters for value in node.inputs)
        return False if kept else None

    common.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants_ir(model, onnx_shape_inference=True, should_fold=fold)
        common.RemoveUnusedNodesPass()(model)
    for each in (
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        each(model)


def _rename(model: ir.Model, plain: Plain, axes: Mapping[str, str]) -> None:
    """Tensors as the model calls them; axes as a reader does."""
    values = list(_values(model))
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    own = first_names(plain)
    initialisers = model.graph.initializers.items()
    wanted = {value: own.get(name, name).removeprefix(plain.prefix) for name, value in initialisers}
    names = {name for name in wanted.values() if name not in taken}
    for value in values:
        if value not in wanted and value.name in names:
            value.name = f"{value.name}.value"
    for value, name in wanted.items():
        if name in names and name != value.name:
            value.name = name
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([_axis(dim, axes) for dim in value.shape])


def first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a tied parameter → the first that it has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(each), name) for name, each in module.named_parameters(remove_duplicate=False)}


def _axis(dim: int | ir.SymbolicDim, axes: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    text = re.sub(r"\bs\d+\b", lambda found: axes.get(found[0], found[0]), str(dim.value))
    return int(text) if text.isdecimal() else text


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


def _forget(model: ir.Model) -> None:
    """Without what the exporter tells of every node: stack traces with the paths of this machine, and the graph once more as text."""
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
    for value in _values(model):
        value.metadata_props.clear()
        value.doc_string = None


def save(model: ir.Model, path: Path, provenance: Mapping[str, str]) -> None:
    """Write it, its tensors in a file of their own only where one file could not hold them."""
    model.metadata_props.clear()
    model.metadata_props.update(provenance)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    large = sum(tensor.nbytes for tensor in tensors if tensor is not None) > SINGLE_FILE
    ir.save(model, path, external_data=f"{path.name}.data" if large else None)


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Without what the exporter and its parts say; it is in the list."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.extend(record.getMessage().strip().splitlines()[:1])  # type: ignore[method-assign]
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [(log.handlers, log.propagate) for log in logs]
    try:
        for log in logs:
            log.handlers, log.propagate = [handler], False
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield told
    finally:
        for log, (handlers, propagate) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
