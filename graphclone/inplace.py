"""In-place ops as functional ones, where the graph itself shows what shares memory with what.

torch's functionalisation traces the whole program twice more. Most programs need little of it: an `add_` on a sum that nobody else
holds, rows written into fresh zeros. What an op writes into is known here by the storage of the traced values: those that share it are the
value, its views and what they are views of.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

aten = torch.ops.aten
_VIEWS = (aten.view, aten.transpose, aten.permute, aten.slice, aten.select, aten.unsqueeze, aten.expand, aten.detach, aten.alias)
_SCATTERS = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
    aten.alias.default: None,
}


def mutates(node: fx.Node) -> bool:
    """Whether an op writes into one of its arguments."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def storage(tensor: Tensor) -> int:
    """What tensors that share memory have in common."""
    return int(tensor.untyped_storage()._cdata)


def same(graph: fx.Graph) -> None:
    """Call a dropout that draws nothing what it is: the value itself, and so written with it. (torch's functionalisation misses that.)"""
    for node in graph.nodes:
        if node.target is aten.dropout.default and (node.args[1] == 0 or node.args[2] is False):
            node.target, node.args = aten.alias.default, node.args[:1]


def pure(graph: fx.Graph) -> fx.Graph | None:
    """The graph without in-place ops; or None where one is not understood: it writes into an input, a buffer or more than its first
    argument, or something that shares the memory, and is no slice of it, is read afterwards."""
    new, env = fx.Graph(), dict[fx.Node, fx.Node]()
    new.output(new.graph_copy(graph, env))
    last = next(reversed(new.nodes))
    last.meta = dict(next(reversed(graph.nodes)).meta)
    order = {node: at for at, node in enumerate(new.nodes)}
    shared = _sharing(new)
    if shared is None:
        return None
    for node in [node for node in new.nodes if mutates(node)]:
        if not _rewritten(node, order, shared[node]):
            return None
    return new


def _sharing(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]] | None:
    """What shares the memory that an op writes into, for each that writes; or None where the storages of the trace cannot tell."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    tensors = {node: [each for each in pytree.tree_leaves(node.meta.get("val")) if isinstance(each, Tensor)] for node in nodes}
    if not all(map(_stored, itertools.chain(*tensors.values()))):
        return None
    places: dict[fx.Node, set[int]] = {}
    one = dict[int, int]()  # the storage of an alias that was a dropout → that of the value
    shared = defaultdict[int, list[fx.Node]](list)
    for node in nodes:
        places[node] = {storage(each) for each in tensors[node]}
        if node.target is aten.alias.default and isinstance(node.args[0], fx.Node):
            one |= {mine: theirs for mine in places[node] for theirs in places[node.args[0]]}
        places[node] = {one.get(each, each) for each in places[node]}
        if not _known(node, places):
            return None
        for each in places[node] if not _copied(node) else ():
            shared[each].append(node)
    return {node: shared[min(places[node])] for node in nodes if mutates(node)}


def _stored(tensor: Tensor) -> bool:
    """Whether it has a storage to be known by: a sparse one has several, one under `torch.vmap` none."""
    return tensor.layout is torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _copied(node: fx.Node) -> bool:
    """Whether it is a constant that is copied where it is used, though the trace has kept one storage for both."""
    return node.op == "placeholder" and [user.target for user in node.users] == [aten.lift_fresh_copy.default]


def _known(node: fx.Node, places: dict[fx.Node, set[int]]) -> bool:
    """Whether the storages tell that a view is one of what it views, and a result of a write the place that is written."""
    if mutates(node) or (isinstance(node.target, OpOverload) and node.target.overloadpacket in _VIEWS):
        return isinstance(node.args[0], fx.Node) and len(places[node]) == 1 and places[node] == places[node.args[0]]
    return True


def _rewritten(node: fx.Node, order: dict[fx.Node, int], shared: list[fx.Node]) -> bool:
    """Make one in-place op functional, and let what comes later read its result. **Returns** whether it could be done.

    `shared`: the nodes whose values share the memory.
    """
    target, now = node.args[0], order[node]
    assert isinstance(target, fx.Node)
    if node.target is aten.copy_.default and node.args[1] in shared and _memory(target) == _memory(node.args[1]):
        node.replace_all_uses_with(target)  # Python's `x[1:] += y` ends by writing what it has written
        node.graph.erase_node(node)
        return True
    twin = _twin(node)
    if twin is None:
        return False
    chain = _slices(target) if twin is not aten.detach.default else [target]
    if any(each.op != "call_function" for each in shared):  # an input or a buffer, which others see
        return False
    later = (each for each in shared if order[each] < now and any(order[user] > now for user in each.users))
    if any(each not in chain for each in later):
        return False
    node.target = twin
    written = {target: node}
    for piece, whole in itertools.pairwise(chain):
        scatter, new = _SCATTERS[piece.target], written[piece]  # type: ignore[index]
        if scatter is not None:
            with node.graph.inserting_after(new):
                new = node.graph.call_function(scatter, (whole, new, *piece.args[1:]))
            new.meta, order[new] = {**node.meta, "val": whole.meta["val"]}, now
            shared.append(new)
        written[whole] = new
    for old, new in written.items():
        old.replace_all_uses_with(new, delete_user_cb=lambda user: order[user] > now, propagate_meta=False)
    return True


def _memory(node: Any) -> object:
    """Where in a storage a value lies, and how it is read. (To compare sizes that are open would fix them: those equal nothing.)"""
    val = node.meta["val"]
    where = val.storage_offset(), *val.shape, *val.stride()
    return (val.dtype, val.is_conj(), val.is_neg(), *where) if all(isinstance(each, int) for each in where) else object()


def _slices(node: fx.Node) -> list[fx.Node]:
    """A value, what it is a slice of, what that is a slice of …"""
    chain = [node]
    while chain[-1].target in _SCATTERS and isinstance(chain[-1].args[0], fx.Node):
        chain.append(chain[-1].args[0])
    return chain


def _twin(node: fx.Node) -> OpOverload | None:
    """`aten.add.Tensor` of `aten.add_.Tensor`, where it gives what the place can hold."""
    op = node.target
    assert isinstance(op, OpOverload)
    schema = op._schema
    if op.namespace != "aten" or [each.name for each in schema.arguments if each.alias_info and each.alias_info.is_write] != [
        schema.arguments[0].name
    ]:
        return None
    if torch.Tag.inplace_view in op.tags and op is not aten.detach_.default:
        return None
    packet = getattr(aten, op.overloadpacket.__name__.removesuffix("_"), None)
    twin = getattr(packet, op._overloadname, None)
    if not isinstance(twin, OpOverload) or twin is op or twin._schema.is_mutable:
        return None
    if [str(each.type) for each in twin._schema.arguments] != [str(each.type) for each in schema.arguments]:
        return None
    return twin if _holds(node, twin) else None


def _holds(node: fx.Node, twin: OpOverload) -> bool:
    """Whether the result has the place's own dtype (a place of integers would round what `add_` gives it)."""
    if twin in (aten.copy.default, aten.detach.default):
        return True
    place: Any = node.meta["val"]
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    try:
        with place.fake_mode:
            return bool(twin(*args, **kwargs).dtype == place.dtype)
    except Exception:  # a size that torch knows only as it runs
        return False
