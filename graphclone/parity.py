"""Whether a graph computes what the model does that it was captured from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone.faithful import draws

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
TOLERANCE = 1e-5  # a model may run a fused kernel where its graph does not
DIFFERS = "the graph differs from the model"


def parity(model: nn.Module, graph: fx.Graph, state: Mapping[str, Tensor], inputs: Inputs) -> str | None:
    """What there is to say if the graph does not compute what the model does on its example inputs. (One that has no values, or draws
    random ones, is not asked.)"""
    given = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if any(tensor.is_meta for tensor in (*state.values(), *given)) or draws(graph) is not None:
        return None
    with as_it_was(model), torch.no_grad():
        found = pytree.tree_leaves(_Reading(graph, state).run(*pytree.tree_leaves(own(inputs))))
        expected = outputs(model, own(inputs))
    error = difference(expected, [leaf for leaf in found if isinstance(leaf, Tensor)])
    if error <= max(TOLERANCE, roundings(expected)):
        return None
    return f"{DIFFERS} on the example inputs by {error:.1e}: part of it (a mask, a branch) was traced otherwise than it runs"


def own(inputs: Inputs) -> Inputs:
    """The inputs once more: a model may write into them."""
    copied: Inputs = pytree.tree_map_only(Tensor, torch.clone, inputs)
    return copied


class _Reading(fx.Interpreter):
    """Runs a graph on the tensors of its state, none copied."""

    def __init__(self, graph: fx.Graph, state: Mapping[str, Tensor]) -> None:
        super().__init__(nn.Module(), graph=graph)
        self.state = state

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.state[target]


@contextlib.contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Gives a model the buffers again that it had: running it must not change what is compared with it."""
    before = [(module, name, b, b.clone()) for module in model.modules() for name, b in module._buffers.items() if b is not None]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            with torch.no_grad():
                module._buffers[name] = buffer if buffer.is_meta or torch.equal(buffer, value) else buffer.copy_(value)


@torch.no_grad()
def outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that a module returns, in order; what it draws at random is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [leaf.detach() for leaf in pytree.tree_leaves(module(*inputs[0], **inputs[1])) if isinstance(leaf, Tensor)]


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of the same tensor; infinite where shapes or NaNs disagree."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = (torch.view_as_real(each.to(torch.complex128)) if each.is_complex() else each.double() for each in (a, b))
        if a.numel() == 0:
            continue
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        a, b = a.nan_to_num(), b.nan_to_num()
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)))
    return worst


def roundings(values: Iterable[Any]) -> float:
    """Eight roundings in the lowest precision of half or more among some values."""
    dtypes = {
        value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() > 1
    }
    return 8 * max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
