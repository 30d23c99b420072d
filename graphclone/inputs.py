"""Example inputs as data, so that a plan can say what its parent was traced with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes, dtypes and structure of inputs, fit for JSON. Integers keep their values (token ids have to be valid).

    Empty where the structure is of a type that cannot be written down.
    """
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    try:
        return {"leaves": [_describe(leaf) for leaf in leaves], "structure": pytree.treespec_dumps(spec)}
    except (TypeError, NotImplementedError):
        return {}


def _describe(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    data = {"shape": list(leaf.shape), "dtype": str(leaf.dtype).removeprefix("torch.")}
    return data if leaf.is_floating_point() or leaf.is_complex() or leaf.is_meta else {**data, "values": leaf.flatten().tolist()}


def example(description: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of that description; floats are drawn from a standard normal with a fixed seed."""
    generator = torch.Generator().manual_seed(0)

    def make(leaf: Any) -> Any:
        if not isinstance(leaf, Mapping):
            return leaf
        dtype = getattr(torch, leaf["dtype"])
        if "values" in leaf:
            return torch.tensor(leaf["values"], dtype=dtype).reshape(leaf["shape"])
        drawn = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(leaf["shape"], generator=generator, dtype=drawn).to(dtype)

    args, kwargs = pytree.tree_unflatten(
        [make(leaf) for leaf in description["leaves"]], pytree.treespec_loads(description["structure"])
    )
    return tuple(args), kwargs
