"""Example inputs as data, so that a plan can say what its parent was traced with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphclone.errors import PlanError

# What inputs may be put together of in a file: torch imports whatever others name when it reads them.
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes, dtypes and structure of inputs, fit for JSON. Integers keep their values (token ids have to be valid).

    Empty where the structure is of a type that cannot be written down.
    """
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    try:
        structure = pytree.treespec_dumps(spec)
    except (TypeError, NotImplementedError):
        return {}
    return {"leaves": [_describe(leaf) for leaf in leaves], "structure": structure} if _is_plain(structure) else {}


def _is_plain(structure: str) -> bool:
    """Whether a written structure is made of tuples, lists and dicts with plain keys only."""
    waiting = [json.loads(structure)[1]]
    while waiting:
        node = waiting.pop()
        keys = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
        plain = keys is None or (isinstance(keys, list) and all(isinstance(key, (str, int, type(None))) for key in keys))
        if node["type"] not in _STRUCTURES or not plain:
            return False
        waiting += node["children_spec"]
    return True


def _describe(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    data = {"shape": list(leaf.shape), "dtype": str(leaf.dtype).removeprefix("torch.")}
    return data if leaf.is_floating_point() or leaf.is_complex() or leaf.is_meta else {**data, "values": leaf.flatten().tolist()}


def example(description: Mapping[str, Any], model: nn.Module | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of that description, where `model` has its tensors; floats are drawn from a standard normal with a fixed seed.

    **Raises** `PlanError` where the description was not written by `describe`.
    """
    try:
        plain = _is_plain(description["structure"])
    except (KeyError, TypeError, ValueError, IndexError):
        plain = False
    if not plain:
        raise PlanError(
            "the plan's example inputs cannot be read",
            because="they are made of something else than tuples, lists and dicts",
            attempt="execute(plan, model, trace=capture(model, …))",
        )
    generator = torch.Generator().manual_seed(0)
    held = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    device = next((tensor.device for tensor in held), torch.device("cpu"))

    def make(leaf: Any) -> Any:
        if not isinstance(leaf, Mapping):
            return leaf
        dtype = getattr(torch, leaf["dtype"])
        if "values" in leaf:
            return torch.tensor(leaf["values"], dtype=dtype).reshape(leaf["shape"]).to(device)
        drawn = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(leaf["shape"], generator=generator, dtype=drawn).to(device, dtype)

    args, kwargs = pytree.tree_unflatten(
        [make(leaf) for leaf in description["leaves"]], pytree.treespec_loads(description["structure"])
    )
    return tuple(args), kwargs
