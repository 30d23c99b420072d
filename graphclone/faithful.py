"""Where a graph would silently differ from its model: made to agree where that can be done, said where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graphclone.errors import CaptureError

_LARGE = 0.05  # the share of parameters without effect that is worth a word
_SWITCHES = ("p", "dropout", "dropout_p", "train", "training")  # arguments that are 0 or False where an op draws nothing


@contextlib.contextmanager
def own_backwards(found: list[str]) -> Iterator[None]:
    """Collects the names of the `autograd.Function`s that are called: tracing sees their forward only."""
    given = Function.__dict__["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            found.append(cls.__qualname__)
        return given.__func__(cls, *args, **kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Function.apply = given  # type: ignore[method-assign]


def detach_no_grad(program: ExportedProgram) -> None:
    """What is computed under `no_grad` gets no gradient, even where its sub-graph is inlined."""
    for owner in [each for each in program.graph_module.modules() if isinstance(each, fx.GraphModule)]:
        for node in owner.graph.nodes:
            if getattr(node.target, "__name__", "") == "wrap_with_set_grad_enabled" and node.args[0] is False:
                inner = getattr(owner, node.args[1].target)
                output = next(reversed(inner.graph.nodes))
                with inner.graph.inserting_before(output):
                    output.args = fx.map_arg(output.args, _detached)
                inner.recompile()


def _detached(node: fx.Node) -> fx.Node:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return node
    if node.target is torch.ops.aten.detach.default:
        return node
    new = node.graph.call_function(torch.ops.aten.detach.default, (node,))
    new.meta = dict(node.meta)
    return new


def uncached(program: ExportedProgram, model: nn.Module, export: Callable[[nn.Module], ExportedProgram]) -> ExportedProgram:
    """The program, exported once more where the model reads tensors that it once computed from its parameters, and kept.

    Such a tensor would be a constant of the graph, and its parameters lost. Models drop what they keep so when they are set to train.

    **Raises** `CaptureError` if it is kept all the same.
    """
    if not _baked(program):
        return program
    program = export(forgetful(model))
    if baked := _baked(program):
        name, made_of = baked
        raise CaptureError(
            f"'{name}' is a plain tensor that was made of {made_of}: as a constant of the graph it would stay as it is",
            because="the model keeps it from an earlier run, or it is no registered parameter",
            attempt="a fresh model that has not run yet; or compute it in forward",
        )
    return program


def forgetful(model: nn.Module) -> nn.Module:
    """The model, without what it drops when it is set to train."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
    finally:
        for module, mode in modes.items():
            module.training = mode
    return model


def _baked(program: ExportedProgram) -> tuple[str, str] | None:
    """A constant that is a view of a parameter, was computed from some, or holds values of an unused one; and what it is made of."""
    specs = program.graph_signature.input_specs
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    parameters = {str(spec.target): program.state_dict[str(spec.target)] for spec in specs if spec.kind == InputKind.PARAMETER}
    unused = {str(spec.target) for spec in specs if spec.kind == InputKind.PARAMETER and spec.arg.name not in read}
    storages = {tensor.untyped_storage()._cdata: name for name, tensor in parameters.items()}
    for spec in specs:
        constant = program.constants.get(str(spec.target)) if spec.kind == InputKind.CONSTANT_TENSOR else None
        if not isinstance(constant, Tensor) or not constant.is_floating_point() or spec.arg.name not in read:
            continue
        if (owner := storages.get(constant.untyped_storage()._cdata)) is not None:
            return str(spec.target), f"the parameter '{owner}'"
        if constant.requires_grad:
            return str(spec.target), "trainable tensors"
        if constant.numel() > 1 and not constant.is_meta:
            for name in unused:
                if parameters[name].dtype == constant.dtype and bool(torch.isin(constant, parameters[name].detach()).all()):
                    return str(spec.target), f"the parameter '{name}'"
    return None


def remarks(
    program: ExportedProgram, dead: Sequence[str], backwards: Sequence[str], dropped: Sequence[str], decisions: int
) -> Iterator[str]:
    """What a reader should know of a trace. `dead`: tensors without effect; `backwards`: what `own_backwards` found; `dropped`: the
    classes of outputs that are left out; `decisions`: how many values of the inputs decide what the model computes."""
    for name in dict.fromkeys(dropped):
        yield f"an output is a {name}, which a graph cannot hold: a rewritten graph returns None in its place"
    if decisions:
        yield (
            f"what the model computes depends on {decisions} value{'s' * (decisions > 1)} of the example inputs (sizes of images, masks): "
            "a rewritten graph takes inputs in which that is the same, and refuses others"
        )
    for name in dict.fromkeys(backwards):
        yield f"'{name}' has a backward of its own: in a rewritten graph its gradient is that of its forward"
    if moved := sorted(set(program.graph_signature.buffers_to_mutate.values())):
        yield f"the model changes its buffers as it runs ({_some(moved)}); a rewritten graph leaves them as they are"
    parameters = list({id(tensor): (name, tensor) for name, tensor in reversed(list(program.named_parameters()))}.values())
    places: dict[object, str] = {}
    for name, tensor in reversed(parameters):
        place = name if tensor.is_meta or not tensor.numel() else (tensor.device, tensor.data_ptr())
        if (first := places.setdefault(place, name)) != name:
            yield f"'{first}' and '{name}' are two parameters in one memory: in a child each has its own"
    sizes = {name: tensor.numel() for name, tensor in parameters}
    dead = [name for name in dead if name in sizes]
    share = sum(sizes[name] for name in dead) / max(sum(sizes.values()), 1)
    if share >= _LARGE:
        yield f"{share:.0%} of the parameters have no effect on the example inputs ({_some(dead)}): no child learns of them"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def draws(graph: fx.Graph) -> fx.Node | None:
    """The first op of a graph that draws random numbers."""
    node: fx.Node
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
            schema = node.target._schema.arguments
            given = {**dict(zip((each.name for each in schema), node.args, strict=False)), **node.kwargs}
            if all(given.get(each.name, each.default_value) for each in schema if each.name in _SWITCHES):
                return node
    return None
