"""Values that decide what a model computes (`int(grid[0])`, `if mask.any()`): worked out while it is traced, and held in the graph.

torch.export does not know them, and stops. Those that follow from the inputs without any parameter are the same in every child: they
are worked out from the example inputs, by running so much of the graph as stands already, and the graph asserts them.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from graphclone.inplace import storage

aten = torch.ops.aten
ASSERT = aten._assert_scalar.default
MARK = (
    "graphclone: decided"  # how the message of an assertion that this module has written begins; then comes a place in the model
)
TOLD = "the model was traced with inputs for which"  # how it begins in a child
_SHAPED = {"new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like"}  # of a tensor only its shape and dtype
_LIKE = {"expand_as", "view_as", "reshape_as", "type_as"}  # of the second tensor only its shape and dtype
_SPREADING = {"expand", "expand_as", "unsqueeze", "to", "type_as", "contiguous", "clone", "detach"}  # a mask over more dims
_STATISTICS = {"batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit"}  # they write, and do not say so
_SELECTING = {"index", "masked_select", "repeat_interleave"}  # the shape of the result is in the other operands


@contextlib.contextmanager
def deciding(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """While this lasts, torch.export knows every value and size that follows from these inputs, and asserts it in its graph.

    Those that a parameter or a draw of random numbers has a part in stay unknown to it.
    """
    given = ProxyTorchDispatchMode.__torch_dispatch__
    trained = [None for _ in model.named_parameters(remove_duplicate=False)]
    buffers = [buffer for _, buffer in model.named_buffers(remove_duplicate=False)]
    inputs = [*trained, *buffers, *pytree.tree_leaves((args, dict(kwargs)))]
    graphs: dict[fx.Graph, _Values] = {}

    def dispatch(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tracer = mode.tracer
        before = next(reversed(tracer.graph.nodes), None)
        result = given(mode, func, types, args, kwargs)
        if not any(map(_undecided, pytree.tree_leaves(result))):
            return result
        values = graphs.setdefault(tracer.graph, _Values(tracer, inputs))
        values.catch_up()
        node = before.next if before is not None else next(iter(tracer.graph.nodes))
        value = values.of(node) if node.target is func else None
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return result
        with mode:
            return _decide(values, node, result, value, f"{MARK}{_place()}" if node in values.varying else "")

    ProxyTorchDispatchMode.__torch_dispatch__ = dispatch  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ProxyTorchDispatchMode.__torch_dispatch__ = given  # type: ignore[method-assign]


def _undecided(value: Any) -> bool:
    sizes: tuple[Any, ...] = tuple(value.shape) if isinstance(value, Tensor) else (value,)
    return any(isinstance(size, (SymInt, SymFloat, SymBool)) and bool(free_unbacked_symbols(size)) for size in sizes)


def _decide(values: _Values, node: fx.Node, result: Any, value: Any, message: str) -> Any:
    """The result of a call, with the sizes of its tensors known; in place of a number, the number. `message`, of the assertion: empty
    where only constants decide, of which nobody has to be told."""
    tracer = values.tracer
    if isinstance(result, (tuple, list)):
        parts = [_call(tracer, operator.getitem, (node, index), node.meta["val"][index]) for index in range(len(result))]
        return type(result)(_decide(values, *each, message) for each in zip(parts, result, value, strict=True))
    if not _undecided(result):
        return result
    if isinstance(result, Tensor):
        open_ = [dim for dim, size in enumerate(result.shape) if _undecided(size)]
        found = _length(values, node, open_[0], value.shape[open_[0]]) if message and len(open_) == 1 and value.numel() else None
        if len(open_) > 1 or not value.numel() or (message and found is None):
            return result
        _check(result.shape[open_[0]], value.shape[open_[0]])
    elif node.target in (aten.item.default, aten._local_scalar_dense.default):
        found = node.args[0], value
        _check(result, value)
        result = value
    else:
        return result
    if message and found is not None:
        _assert(tracer, *found, message)
    return result


def _length(values: _Values, node: fx.Node, dim: int, size: int) -> tuple[Any, int] | None:
    """The size of a dim as the sum of a tensor, and what that is: of the mask or the repeats, where they select from another tensor; else
    counted, since the other dims may have other sizes in a child."""
    with _disable_current_modes():
        if _name(node) in _SELECTING:
            chosen = [each for each in pytree.tree_leaves(node.args[1:]) if isinstance(each, fx.Node)]
            repeats = _name(node) == "repeat_interleave"
            chosen = [each for each in chosen if each in values and (repeats or values[each].dtype == torch.bool)]
            if len(chosen) != 1:
                return None
            source = chosen[0]
            while _name(source) in _SPREADING and source.args[0] in values:  # over dims that may have other sizes in a child
                source = source.args[0]  # type: ignore[assignment]
            ones, size = source.meta["val"], int(values[source].sum())
        else:
            ones = torch.ones_like(node.meta["val"], dtype=torch.int64)
            source = _call(values.tracer, aten.ones_like.default, (node,), ones, dtype=torch.int64)
            if others := [each for each in range(ones.dim()) if each != dim]:
                ones = ones.amax(others)
                source = _call(values.tracer, aten.amax.default, (source, others), ones)
        return _call(values.tracer, aten.sum.default, (source,), ones.sum()), size


def _call(tracer: Any, target: Any, args: tuple[Any, ...], value: Any, **kwargs: Any) -> fx.Node:
    node: fx.Node = tracer.create_node("call_function", target, args, kwargs)
    node.meta["val"] = value
    return node


def _check(symbol: Any, value: Any) -> None:
    """Tell torch, so that it has no more questions."""
    if isinstance(symbol, SymBool):
        torch._check(symbol if value else torch.sym_not(symbol))  # type: ignore[no-untyped-call]
    elif isinstance(symbol, SymInt):
        # of a size, torch takes for granted that it is 2 or more
        symbol.node.shape_env.size_like -= free_unbacked_symbols(symbol)
        torch._check(symbol == value)  # type: ignore[no-untyped-call]


def _assert(tracer: Any, tensor: Any, value: Any, message: str) -> None:
    """Tell whoever runs the graph. torch drops an assertion of what it knows already: so it is a copy of the number that is asserted."""
    fake = tensor.meta["val"]
    with _disable_current_modes():
        integer, negative = fake.to(torch.int64), fake < 0
    if isinstance(value, float) and value == 0:  # which of the two zeros
        _assert(tracer, _call(tracer, aten.signbit.default, (tensor,), negative), math.copysign(1, value) < 0, message)
    if isinstance(value, bool):
        value, copied = int(value), _call(tracer, aten.sum.default, (tensor,), integer)  # 0 or 1
    else:
        copied = _call(tracer, aten.clone.default, (tensor,), fake)
    number = _call(tracer, aten._local_scalar_dense.default, (copied,), value)
    _call(tracer, ASSERT, (_call(tracer, operator.eq, (number, value), True), message), None)


def _place() -> str:
    """Where in the user's model Python is."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not frame.f_code.co_filename.startswith("<eval_with_key>"):  # a graph: it has no place
        path = Path(frame.f_code.co_filename)
        if "torch" not in path.parts and path.parent != Path(__file__).parent and path.name != "contextlib.py":
            return f" at {path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class _Values(dict[fx.Node, Any]):
    """What the nodes of a growing graph are on the example inputs, as far as no parameter and no chance has a part in it."""

    def __init__(self, tracer: Any, inputs: Sequence[Any]) -> None:
        self.tracer, self.nodes, self.inputs = tracer, tracer.graph.nodes, inputs
        self.last: fx.Node | None = None
        self.varying: set[fx.Node] = set()  # what an input or a buffer has a part in
        self.casts = int(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))  # how deep in autocast

    def catch_up(self) -> None:
        with _disable_current_modes(), torch.no_grad(), torch._C._DisableAutocast():
            if self.last is None:
                self._begin()
            node = next(iter(self.nodes)) if self.last is None else self.last.next
            while node.op != "root":
                self._run(node)
                self.last, node = node, node.next

    def _begin(self) -> None:
        places = [node for node in self.nodes if node.op == "placeholder"]
        if len(places) == len(self.inputs):
            given = zip(places, self.inputs, strict=True)
            self.update((place, _own(value)) for place, value in given if not (value is None or _empty(value)))
            self.varying.update(self)

    def _run(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            constant = operator.attrgetter(str(node.target))(self.tracer.root)
            if isinstance(constant, Tensor) and not _empty(constant):
                self[node] = _own(constant)
        elif "autocast" in getattr(node.target, "__name__", ""):
            self.casts += -1 if "exit" in str(node.target) else 1
        elif _runs(node):
            name = _name(node)
            first = self._shape if name in _SHAPED else self.__getitem__
            with contextlib.suppress(Exception):  # then it is not known
                args, kwargs = fx.map_arg((node.args[:1], node.kwargs), first)
                args += fx.map_arg(node.args[1:], self._shape if name in _LIKE else first)
                value = node.target(*args, **kwargs)  # type: ignore[operator]
                if not self.casts or not any(map(_real, pytree.tree_leaves((args, kwargs, value)))):
                    self[node] = value
        if not self.varying.isdisjoint(node.all_input_nodes):
            self.varying.update([node, *self._written(node)])
        if node.op == "call_function" and node not in self:
            for each in self._written(node):
                del self[each]

    def of(self, node: fx.Node) -> Any:
        """The value of a node, or one that has its shape; None where neither is known."""
        if node not in self and _name(node) in _SELECTING:
            with contextlib.suppress(Exception), _disable_current_modes(), torch.no_grad():
                rest, kwargs = fx.map_arg((node.args[1:], node.kwargs), self.__getitem__)
                return node.target(self._shape(node.args[0]), *rest, **kwargs)  # type: ignore[operator, arg-type]
        return self.get(node)

    def _shape(self, node: fx.Node) -> Any:
        """A value, or where it is not known any other of its shape and dtype."""
        if node in self:
            return self[node]
        value = node.meta["val"]
        return torch.empty([int(size) for size in value.shape], dtype=value.dtype, device=value.device)

    def _written(self, node: fx.Node) -> list[fx.Node]:
        """What a call writes into, and every view of it."""
        storages = {place for each in _arguments(node, written=True) for place in self._storages(each)}
        if not storages:  # nearly every call: no need to go through all values
            return []
        return [each for each, value in self.items() if isinstance(value, Tensor) and storage(value) in storages]

    def _storages(self, node: fx.Node) -> set[int]:
        """The memory that a value lies in, or, where it is not known, what it may be a view of."""
        if node in self:
            return {storage(self[node])} if isinstance(self[node], Tensor) else set()
        return {place for each in _arguments(node, written=False) for place in self._storages(each)}


def _arguments(node: fx.Node, written: bool) -> list[fx.Node]:
    """The operands that a call writes into; else those that its result may be a view of."""
    if node.op != "call_function":
        return []
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.all_input_nodes if not written else []
    if written and _name(node) in _STATISTICS:
        return [each for each in node.args[3:5] if isinstance(each, fx.Node)]
    schema = node.target._schema.arguments
    given = {**dict(zip((each.name for each in schema), node.args, strict=False)), **node.kwargs}
    aliases = [each for each in schema if each.alias_info is not None and (each.alias_info.is_write or not written)]
    return [each for argument in aliases for each in pytree.tree_leaves(given.get(argument.name)) if isinstance(each, fx.Node)]


def _runs(node: fx.Node) -> bool:
    """Whether a call computes something, and by no chance: no switch of torch's own state."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__module__", "") in ("_operator", "math") or "sym_" in getattr(node.target, "__name__", "")
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _own(value: Any) -> Any:
    """A copy: the graph may write into it."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _empty(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_meta or isinstance(value, FakeTensor))


def _name(node: fx.Node) -> str:
    return node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""
