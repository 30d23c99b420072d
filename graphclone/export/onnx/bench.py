"""How long a model takes here: a measurement, not a promise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import onnxruntime
import torch

from graphclone.export.onnx.compared import fed
from graphclone.export.onnx.plain import Plain

_WARM, _LEAST, _SECONDS = 3, 10, 2.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run at these shapes, the median and the fastest of `runs`."""

    runtime: str
    shapes: str
    median: float
    fastest: float
    runs: int


@torch.no_grad()
def latencies(plain: Plain, running: onnxruntime.InferenceSession) -> list[Latency]:
    """The module in PyTorch and its file in ONNX Runtime, on the example inputs, with as many threads as torch has."""
    given = fed(plain, running, plain.inputs)
    shapes = ", ".join("×".join(map(str, each.shape)) for each in plain.inputs[:3])
    runs: dict[str, Callable[[], object]] = {
        "PyTorch": lambda: plain(*plain.inputs),
        "ONNX Runtime": lambda: running.run(None, given),
    }
    return [_measured(name, shapes, run) for name, run in runs.items()]


def _measured(name: str, shapes: str, run: Callable[[], object]) -> Latency:
    for _ in range(_WARM):
        run()
    taken: list[float] = []
    while len(taken) < _LEAST or (sum(taken) < _SECONDS and len(taken) < 1000):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return Latency(name, shapes, 1000 * statistics.median(taken), 1000 * min(taken), len(taken))
