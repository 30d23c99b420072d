"""The words of the table, and what a run of one tool on one model comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.side_by_side.subjects import Inputs

WORDS = ("full", "partial", "no-op", "wrong", "fails", "hangs")  # from best to worst
TOLERANCE = 1e-3  # relative to the largest output; float error is about 1e-6, a wrong pairing about 1


@dataclass(frozen=True)
class Outcome:
    """What came of it: one of `WORDS`, why, and for each role how many of its parameters were narrowed."""

    word: str
    reason: str = ""
    setting: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rank(self) -> int:
        return WORDS.index(self.word)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def told(error: BaseException) -> str:
    """An error in one short line."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}"[:160]


@torch.no_grad()
def principal(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs that no inner axis runs along: logits where the model has some, else its first tensor."""
    return answers(model(*inputs[0], **inputs[1]))


def answers(out: Any) -> list[Tensor]:
    if isinstance(out, Mapping) and (logits := [out[key] for key in out if "logits" in key]):
        return logits
    return [
        leaf for leaf in pytree.tree_leaves(list(out.values()) if isinstance(out, Mapping) else out) if isinstance(leaf, Tensor)
    ][:1]


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference, relative to the largest value; infinite where shapes disagree or values are not finite."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    if not all(bool(tensor.isfinite().all()) for tensor in found):
        return float("inf")
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-9)) for a, b in zip(expected, found, strict=True))
