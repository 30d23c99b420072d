"""What the two processes hand each other: a child's folder, and beside it what it was asked and what it should answer.

The one that reads may not import graphclone, so that what `graphclone.verify` has for this is here once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from models_zoo.entry import Inputs

ASKED = "asked.pt"


def folder_of(root: Path, name: str) -> Path:
    return root / name.replace("/", "--")


def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that a model returns; what it draws at random is always the same."""
    args, kwargs = inputs
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [leaf.clone() for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of the same tensor; infinite where shapes or NaNs disagree."""
    if [each.shape for each in expected] != [each.shape for each in found]:
        return float("inf")
    return max((_apart(*_wide(a, b)) for a, b in zip(expected, found, strict=True) if a.numel()), default=0.0)


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [torch.view_as_real(each).double() if each.is_complex() else each.double() for each in tensors]


def _apart(a: Tensor, b: Tensor) -> float:
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    a, b = a.nan_to_num(), b.nan_to_num()
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
