"""Are torch-pruning's groups right? Two checks that use nothing but what it says itself.

**Permutation.** A group says: these positions of these layers belong to one unit, and units can go one by one. Then units can change
places as well. So every group that it pruned is permuted at random in a fresh copy of the model, each member by the positions that
torch-pruning gives for a unit (`root_idxs`), and the outputs must stay. What is a unit follows from how it was used:

- told nothing of heads: every index is one (it removes them one by one);
- told to remove whole heads: a head is one; where key/value heads are shared, only heads of one key/value head change places, and keys
  and values stay where they are, as it prunes them;
- told to remove dims of every head, or of every channel group: the same dim of all heads is one.

**Zeroed parent.** Removing units that no norm and no residual stream carries is the same as setting to zero, in the parent, everything
that is removed. So the groups whose members are all linear layers or convolutions are pruned in a fresh copy, its attributes fixed up
likewise, and its outputs must be those of the zeroed parent. In plain use of an encoder that reads the number of heads from the width,
it is here that scores computed across the wrong head boundaries show.

Heads whose dims it removes, as it was told to, are left out here: a model may scale their scores by the width that is left.

A group whose units do not map one to one is left out of the permutation, and counted.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side.subjects import Inputs
from benchmarks.side_by_side.theirs import Removal, Use, attentions, prune, pruner_for
from benchmarks.side_by_side.verdict import TOLERANCE, difference, principal, told


@dataclass(frozen=True)
class Check:
    """`passed` is None where there was nothing to check."""

    passed: bool | None
    detail: str


def slots(module: nn.Module, out: bool) -> list[tuple[nn.Module, str, int, int]]:
    """(holder, parameter or buffer, dim, repeats) of what pruning a layer's outputs or inputs cuts."""
    kind = type(module).__name__
    if kind == "Conv1D":
        return [(module, "weight", 1, 1), (module, "bias", 0, 1)] if out else [(module, "weight", 0, 1)]
    if hasattr(module, "reduction"):  # patch merging
        inner = [(module.reduction, "weight", 1, 4), (module.norm, "weight", 0, 4), (module.norm, "bias", 0, 4)]
        return [(module.reduction, "weight", 0, 1)] if out else inner  # type: ignore[return-value, list-item]
    if isinstance(module, nn.Embedding):
        return [(module, "weight", 1, 1)]
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm):
        return [(module, name, 0, 1) for name in ("weight", "bias", "running_mean", "running_var")]
    if isinstance(module, nn.Linear):
        return [(module, "weight", 0, 1), (module, "bias", 0, 1)] if out else [(module, "weight", 1, 1)]
    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        depthwise = module.groups == module.out_channels > 1
        if out or depthwise:
            return [(module, "weight", 0, 1), (module, "bias", 0, 1)]
        if module.groups == 1:
            return [(module, "weight", 1, 1)]
    raise NotImplementedError(kind)


def places(model: nn.Module, name: str, out: bool, dim: int | None) -> list[tuple[nn.Module, str, int, int]]:
    """The same for a place by name; `dim` for a bare parameter."""
    if dim is not None:
        holder, _, leaf = name.rpartition(".")
        return [(model.get_submodule(holder), leaf, dim, 1)]
    return slots(model.get_submodule(name), out)


def _change(place: tuple[nn.Module, str, int, int], change: Callable[[Tensor, int], Tensor]) -> None:
    """Replace a tensor by a changed copy, as torch-pruning does: a tie to another layer ends there."""
    holder, name, dim, repeats = place
    tensor: Tensor | None = getattr(holder, name, None)
    if tensor is not None:
        parts = tensor.detach().unflatten(dim, (repeats, -1))  # type: ignore[no-untyped-call]
        changed = change(parts, dim % tensor.dim() + 1).flatten(dim % tensor.dim(), dim % tensor.dim() + 1)
        setattr(holder, name, nn.Parameter(changed) if isinstance(tensor, nn.Parameter) else changed)


# -- permutation -----------------------------------------------------------------------------------------------------


def permutation(model: nn.Module, inputs: Inputs, use: Use, done: list[Removal]) -> Check:
    expected = principal(model, inputs)
    together = copy.deepcopy(model)
    pruner = pruner_for(together, inputs, use)
    names = {module: name for name, module in together.named_modules()}
    orders, skipped = [], 0
    for group in _groups(pruner, names, {removal.root for removal in done}):
        try:
            orders.append(_orders(pruner, group, use, names))
        except NotImplementedError:
            skipped += 1
    untouched = copy.deepcopy(model)
    if not orders:
        return Check(None, f"{skipped} groups whose units do not map one to one")
    error = _reordered(untouched, inputs, expected, [each for order in orders for each in order[1]])
    note = f"{len(orders)} groups, difference {error:.0e}" + (f", {skipped} left out" if skipped else "")
    if error <= TOLERANCE:
        return Check(True, note)
    guilty = [root for root, order in orders if _reordered(copy.deepcopy(model), inputs, expected, order) > TOLERANCE]
    return Check(False, f"permuting its own groups changes the outputs by {share(error)}, e.g. at {(guilty or ['all'])[0]}")


Order = tuple[str, bool, int | None, list[int]]  # place, out, dim, the positions in their new order


def _reordered(model: nn.Module, inputs: Inputs, expected: list[Tensor], orders: list[Order]) -> float:
    for name, out, dim, order in orders:
        for place in places(model, name, out, dim):
            _change(place, functools.partial(_taken, order))
    return difference(expected, principal(model, inputs))


def _taken(order: list[int], tensor: Tensor, dim: int) -> Tensor:
    return tensor.index_select(dim, torch.tensor(order))


def _groups(pruner: Any, names: dict[Any, str], roots: set[str]) -> Iterator[Any]:
    """The full groups, each with the root that the pruner gives it."""
    for found in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types):
        group = found
        if pruner._is_atten_group(group)[0]:
            group = pruner._downstream_node_as_root_if_attention(group)
            if group is not None:  # with shared key/value heads it comes with as many positions as these have
                layer, handler = group[0].dep.target.module, group[0].dep.handler
                group = pruner.DG.get_pruning_group(layer, handler, list(range(pruner.DG.get_in_channels(layer))))
        if group is not None:
            first = group[0].dep
            out = pruner.DG.is_out_channel_pruning_fn(first.handler)
            if f"{names.get(first.target.module, '?')}.{'out' if out else 'in'}" in roots:
                yield group


def _orders(pruner: Any, group: Any, use: Use, names: dict[Any, str]) -> tuple[str, list[Order]]:
    attends, layers = pruner._is_atten_group(group)
    size = len(group[0].idxs)
    shared = {layer for layer in layers if pruner.num_heads[layer] < max(pruner.num_heads[each] for each in layers)}
    if attends and use.heads == "whole":
        heads = max(pruner.num_heads[layer] for layer in layers)
        units = [list(range(head * size // heads, (head + 1) * size // heads)) for head in range(heads)]
        classes = min(pruner.num_heads[layer] for layer in layers) if shared else 1
    else:
        channels = pruner._get_channel_groups(group)
        units = [[unit + channel * size // channels for channel in range(channels)] for unit in range(size // channels)]
        classes, shared = 1, set()
    target = _shuffled(len(units), classes)
    orders = []
    for item in group:
        module = item.dep.target.module
        bare = isinstance(module, nn.Parameter)
        name = pruner.DG._param_to_name.get(module) if bare else names.get(module)
        if name is None or module in shared:
            continue
        out = pruner.DG.is_out_channel_pruning_fn(item.dep.handler)
        dim = item.dep.target.pruning_dim if bare else None
        full = (
            module.shape[dim] if bare else pruner.DG.get_out_channels(module) if out else pruner.DG.get_in_channels(module)
        ) or 0
        orders.append((name, out, dim, _order(item, units, target, full)))
    root = names.get(group[0].dep.target.module, "?")
    return root, orders


def _shuffled(count: int, classes: int) -> list[int]:
    """A permutation that moves every unit within its class."""
    size = count // classes
    order: list[int] = []
    for each in range(classes):
        order += [each * size + unit for unit in torch.randperm(size, generator=torch.Generator().manual_seed(each)).tolist()]
    return order


def _order(item: Any, units: list[list[int]], target: list[int], full: int) -> list[int]:
    """The new order of a member's positions: where unit i lay, unit target[i] comes to lie."""
    at: dict[int, list[int]] = {}
    for position, root in zip(item.idxs, item.root_idxs or [], strict=True):
        at.setdefault(root, []).append(position)
    held = [[position for root in unit for position in sorted(at.get(root, []))] for unit in units]
    everything = [position for unit in held for position in unit]
    if None in at or len(set(everything)) != len(everything) or len({len(unit) for unit in held}) != 1:
        raise NotImplementedError
    if everything and max(everything) >= full:
        raise IndexError(f"position {max(everything)} of {full}")
    order = list(range(full))
    for unit, source in zip(held, target, strict=True):
        for position, taken in zip(unit, held[source], strict=True):
            order[position] = taken
    return order


# -- zeroed parent ---------------------------------------------------------------------------------------------------


def zeroed(model: nn.Module, inputs: Inputs, use: Use, done: list[Removal]) -> Check:
    inner = [removal for removal in done if _inner(model, removal, use)]
    if not inner:
        return Check(None, "no group without a norm")
    child, parent = copy.deepcopy(model), copy.deepcopy(model)
    try:
        _, gone = prune(child, inputs, use, only={removal.root for removal in inner})
        found = principal(child, inputs)
    except Exception as error:  # the whole model may run where this half-pruned one does not
        return Check(None, f"not to be run alone: {told(error)}")
    for removal in gone:
        for name, direction, positions in removal.places:
            for place in slots(parent.get_submodule(name), direction == "out"):
                _change(place, functools.partial(_emptied, positions))
    off = difference(principal(parent, inputs), found)
    if off <= TOLERANCE:
        return Check(True, f"{len(inner)} groups, difference {off:.0e}")
    return Check(False, f"a child pruned in heads and MLP only differs from the zeroed parent by {share(off)}")


def _emptied(positions: tuple[int, ...], tensor: Tensor, dim: int) -> Tensor:
    return tensor.index_fill(dim, torch.tensor(positions), 0)


def share(error: float) -> str:
    return f"{error:.0%}" if error >= 0.01 else f"{error:.1%}"


def _inner(model: nn.Module, removal: Removal, use: Use) -> bool:
    """Linear layers and convolutions only: no norm, table or bare parameter carries these units."""
    modules = dict(model.named_modules())
    attention = {layer for each in attentions(model) for layer in (each.queries, *each.others)}
    if use.heads == "dims" and any(modules.get(name) in attention for name, *_ in removal.places):
        return False
    plain = (nn.Linear, nn.modules.conv._ConvNd)
    return all(
        name in modules and (isinstance(modules[name], plain) or type(modules[name]).__name__ == "Conv1D")
        for name, *_ in removal.places
    )
