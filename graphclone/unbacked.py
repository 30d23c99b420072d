"""Sizes that depend on values (a mask's true positions, distinct tokens): made concrete from the example inputs.

The graph keeps working them out when it runs; only the analysis, which wants numbers, takes those of one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from graphclone.errors import CaptureError


def make_concrete(graph: fx.Graph, state: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> None:
    """Write concrete values into the `val` of every node that has none, from one run of the graph.

    **Raises** `CaptureError` when the tensors hold no values to run on.
    """
    unknown = {node for node in graph.nodes if _unknown(node)}
    if not unknown:
        return
    leaves = pytree.tree_leaves(inputs)
    if any(isinstance(each, Tensor) and each.is_meta for each in (*state.values(), *leaves)):
        raise CaptureError(
            "the model has sizes that depend on values, and its tensors are on the meta device, where they have none",
            attempt="real weights and inputs",
        )
    with torch.no_grad():
        _Run(graph, state, unknown).run(*leaves)


def _unknown(node: fx.Node) -> bool:
    return any(bool(free_unbacked_symbols(each)) for each in pytree.tree_leaves(node.meta.get("val")) if _symbolic(each))


def _symbolic(value: Any) -> bool:
    return isinstance(value, (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool))


class _Run(fx.Interpreter):
    def __init__(self, graph: fx.Graph, state: Mapping[str, Tensor], unknown: set[fx.Node]) -> None:
        super().__init__(nn.Module(), graph=graph)
        self.state, self.unknown = state, unknown

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.state[target]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.unknown:
            n.meta["counted"] = True  # its sizes are those of this run
            n.meta["val"] = pytree.tree_map_only(Tensor, lambda each: torch.empty_like(each, device="meta"), result)
        return result
