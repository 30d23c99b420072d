"""ONNX Runtime beside PyTorch, on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphclone.export.onnx.plain import Plain

Array = NDArray[Any]

# How far ONNX Runtime's outputs may be from PyTorch's, as a share of their largest value where that is above 1.
# What 8 bits do to a model is for its user to judge: only what is as large as the outputs themselves is refused.
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "int8": 1.0}
DOUBTFUL = 0.1  # above it, the user is told
MASKED = 1e30  # what is that large, a mask has filled in: no value to compare others with


class Disagreement(Exception):
    """ONNX Runtime computes something else than PyTorch."""


@dataclass(frozen=True)
class Difference:
    """At inputs of these shapes, of the output that differs most for its size: the largest difference, and the largest value.

    `share`: the one beside the other, where that is above 1.
    """

    shapes: str
    largest: float
    output: float

    @property
    def share(self) -> float:
        return self.largest / max(1.0, self.output)

    def __str__(self) -> str:
        return f"{self.shapes}: {self.largest:.1e} (outputs up to {self.output:.2g})"


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime, after onnx's own checker."""
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fed(plain: Plain, running: onnxruntime.InferenceSession, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """Inputs under their names, without those that the model never reads."""
    wanted = {each.name for each in running.get_inputs()}
    return {name: tensor.numpy() for name, tensor in zip(plain.names, tensors, strict=True) if name in wanted}


@torch.no_grad()
def compare(plain: Plain, running: onnxruntime.InferenceSession, tensors: Sequence[Tensor], precision: str) -> Difference:
    """**Raises** `Disagreement` where an output has another shape, or differs by more than the precision explains."""
    expected = plain(*(each.clone() for each in tensors))  # first: what PyTorch refuses, nobody has to compute
    results = running.run(None, fed(plain, running, tensors))
    pairs = zip(plain.output_names, expected, results, strict=True)
    found = [tolerated(name, ours.float().numpy(), theirs.astype(np.float32), precision) for name, ours, theirs in pairs]
    shapes = ", ".join("×".join(map(str, each.shape)) for each in tensors)
    return max((Difference(shapes, *each) for each in found), key=lambda each: each.share, default=Difference(shapes, 0.0, 0.0))


def tolerated(name: str, expected: Array, found: Array, precision: str) -> tuple[float, float]:
    """The largest difference, and the largest value expected.

    **Raises** `Disagreement` where the first is no matter of precision.
    """
    if expected.shape != found.shape:
        raise Disagreement(f"output {name} is {found.shape} in ONNX Runtime, {expected.shape} in PyTorch")
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))  # infinities, and what is no number in both
    with np.errstate(invalid="ignore"):
        gap = float(np.where(same, 0.0, np.abs(expected - found)).max(initial=0.0))
    values = np.abs(expected)
    size = float(values[values < MASKED].max(initial=0.0))
    if not gap <= TOLERANCES[precision] * max(1.0, size):
        raise Disagreement(f"output {name} differs by {gap:.2g} between ONNX Runtime and PyTorch")
    return gap, size
