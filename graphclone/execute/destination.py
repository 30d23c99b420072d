"""A plan's tensors, put into a module that the user built."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphclone.errors import DestinationError
from graphclone.execute.memory import weights
from graphclone.plan import Plan

_WIDE = {"integer": torch.int64, "real": torch.float64, "complex": torch.complex128}


@dataclass(frozen=True)
class Filled:
    """What came from where.

    - `filled`: tensor of the destination → tensor of the parent;
    - `fresh`: parameters that nothing in the parent corresponds to: they are as their class initialised them;
    - `differing`: unsaved tensors that the destination computes by itself, and not as the parent has them;
    - `remarks`: what a reader should know.
    """

    filled: dict[str, str]
    fresh: tuple[str, ...]
    differing: tuple[str, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.filled)} tensors from the parent"]
        lines += [f"as initialised: {name}" for name in self.fresh]
        lines += [f"computed by the destination, and otherwise than in the parent: {name}" for name in self.differing]
        return "\n".join([*lines, *(f"note: {remark}" for remark in self.remarks)])


@torch.no_grad()
def fill(
    plan: Plan, fetch: Callable[[str], Tensor], destination: nn.Module, fitted: Mapping[str, Tensor] | None = None
) -> Filled:
    """Write the plan's tensors into the destination, in its own dtype and on its own device.

    Parameters and persistent buffers are filled; other tensors are the class's own business (it would compute them again on loading),
    and where they differ from the parent's, the report says so.

    **Arguments**: `fetch` gives a tensor of the parent by name; `fitted`, the values of the plan's fitted tensors.

    **Raises** `DestinationError` where a shape is not what the plan makes.
    """
    persistent = destination.state_dict(keep_vars=True)
    everything = {**dict(destination.named_buffers()), **persistent}
    filled, differing = {}, []
    for name, tensor in weights(plan, fetch, fitted):
        target = everything[name] if name in everything else held(destination, name)
        if target is None:
            continue
        if target.shape != tensor.shape:
            raise DestinationError(f"'{name}' is {list(target.shape)} in the destination; the plan makes it {list(tensor.shape)}")
        if name not in persistent:
            differing += [] if _alike(target, tensor) else [name]
            continue
        if _number(target) != _number(tensor):
            raise DestinationError(
                f"'{name}' is of {target.dtype} in the destination, of {tensor.dtype} in the parent",
                because="a cast between integers, real and complex numbers would change what it means",
                attempt="the same kind of number in both",
            )
        target.copy_(tensor)
        filled[name] = plan.tensors[name].source
    names = {name for name, _ in destination.named_parameters(remove_duplicate=True)}
    reached = {id(everything[name]) for name in filled}
    fresh = tuple(name for name in sorted(names) if id(everything[name]) not in reached)
    return Filled(filled, fresh, tuple(differing), plan.remarks)


def held(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that a module keeps under this name, be it a parameter, a buffer or a plain attribute."""
    try:
        found = operator.attrgetter(name)(module)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    kind = _number(theirs)
    wide = _WIDE[kind]
    return kind == _number(ours) and torch.allclose(ours.to(dtype=wide), theirs.to(ours.device, wide), equal_nan=True)


def _number(tensor: Tensor) -> str:
    return "real" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"
