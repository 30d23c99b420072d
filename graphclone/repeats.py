"""Values that are repeated along one axis by a chain of views (unsqueeze, expand, reshape): keys, for each query head of their group.

A class leaves the chain out where it would repeat once; seen through, the two graphs are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from graphclone.rules import identity
from graphclone.streams import shape_of

_aten = torch.ops.aten
_MERGES = {_aten.reshape.default, _aten.view.default, _aten._unsafe_view.default, _aten.flatten.using_ints}
_COPIES = {_aten.clone.default, _aten.contiguous.default}


def repeats(nodes: Iterable[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The nodes of such chains, each → what the chain repeats."""
    found: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node.target in _MERGES and (chain := _chain(node)):
            *inside, source = chain
            found.update(dict.fromkeys((node, *inside), source))
    return found


def _chain(merge: fx.Node) -> list[fx.Node]:
    """What comes before the reshape, back to what is repeated; empty if it is another reshape, or something else reads of the chain."""
    chain: list[fx.Node] = []
    wanted = [_aten.unsqueeze.default, _aten.expand.default]
    node = merge
    while wanted:
        node = node.all_input_nodes[0]
        if node.op != "call_function" or len(node.users) != 1:
            return []
        if node.target is wanted[-1]:
            wanted.pop()
        elif not identity(node.target) and node.target not in _COPIES:
            return []
        chain.append(node)
    source = node.all_input_nodes[0]
    before, after = shape_of(source), shape_of(merge)
    if len(before) != len(after) or sum(a != b for a, b in zip(before, after, strict=True)) > 1:
        return []
    return [*chain, source]
