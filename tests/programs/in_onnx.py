"""Random programs as ONNX files: at values that no export has seen, a file gives what the module gives, or refuses them.

Some of the programs are steered: what they compute depends on values of their inputs, as where Python branches on them.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone.errors import GraphcloneError
from graphclone.export.onnx import export_onnx
from graphclone.export.onnx.compared import session
from tests.programs.generate import generate
from tests.programs.opened import played
from tests.programs.program import Program

TOLERANCE = 1e-3  # of the largest value: single precision, through up to a dozen ops
TRIALS = 3


class Steered(nn.Module):
    """A program whose results are changed as the values of its first input say."""

    def __init__(self, program: nn.Module, how: str) -> None:
        super().__init__()
        self.program, self.how = program, how

    def forward(self, *inputs: Tensor) -> Any:
        first, *rest = pytree.tree_leaves(self.program(*inputs))
        first = first.float()
        positive = int((inputs[0] > 0).sum())
        match self.how:
            case "branch":
                first = first + 1 if positive % 2 else first * 2
            case "loop":
                for _ in range(positive % 3):
                    first = first + first.amax()
            case "size":
                first = first.reshape(-1)[: 1 + positive % 3]
            case "any":
                first = first - 1 if (inputs[0] > 1).any() else first
            case "number":
                first = first * positive
        return (first, *rest)


def single(module: fx.GraphModule) -> fx.GraphModule:
    """The module in single precision, as runtimes have it."""
    for node in module.graph.nodes:
        args, kwargs = pytree.tree_map(lambda each: torch.float32 if each is torch.float64 else each, (node.args, node.kwargs))
        node.args, node.kwargs = args, kwargs
    module.recompile()
    return module.float()


def judge_onnx(program: Program, rng: Random, opened: bool) -> tuple[str, str]:
    """`ok`, `refused`, `tied` (of equal values torch took others than the runtime) or `wrong`, and why."""
    plain = single(played(program, rng) if opened else _as_it_is(program))
    steered = program.inputs and rng.random() < 0.5
    module = Steered(plain, rng.choice(("branch", "loop", "size", "any", "number"))) if steered else plain
    inputs = tuple(each.float() if each.is_floating_point() else each for each in program.inputs)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "program.onnx"
        try:
            export_onnx(module, inputs, {}, path)
        except GraphcloneError as error:
            return "refused", " ".join(str(error).split())
        running = session(path)
        for trial in range(TRIALS):
            given = [_others(each, torch.Generator().manual_seed(trial)) for each in inputs]
            if fault := _fault(module, running, given):
                return "tied" if Ties(plain).found(given) else "wrong", f"{fault} (trial {trial})"
    return "ok", ""


class Ties(fx.Interpreter):
    """Whether something is chosen from values of which some are equal: which ones, torch does not say."""

    tied = False

    def found(self, given: list[Tensor]) -> bool:
        self.run(*given)
        return self.tied

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and str(n.target).startswith(_CHOOSING):
            chosen_from = self.env[n.all_input_nodes[0]]
            self.tied |= chosen_from.unique().numel() < chosen_from.numel()
        return super().run_node(n)


_CHOOSING = tuple(f"aten.{name}" for name in ("topk", "kthvalue", "median", "sort", "argsort"))


def _as_it_is(program: Program) -> fx.GraphModule:
    """No number is computed from sizes."""

    class Never(Random):
        def random(self) -> float:
            return 1.0

    return played(program, Never())


def _others(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator)
    return torch.randint(0, int(tensor.max()) + 1, tensor.shape, generator=generator).to(tensor.dtype)


def _fault(module: nn.Module, running: InferenceSession, given: list[Tensor]) -> str:
    try:
        expected = [each.detach().numpy() for each in pytree.tree_leaves(module(*given)) if isinstance(each, Tensor)]
    except Exception:  # the module itself does not take these: an index beyond a size, a slice that is empty
        return ""
    names = [each.name for each in running.get_inputs()]
    try:
        found = running.run(None, dict(zip(names, (each.numpy() for each in given), strict=True)))
    except Exception as error:
        return "" if "refused: " in str(error) else f"the file does not run: {str(error)[:200]}"
    return next(filter(None, map(_difference, expected, found)), "")


def _difference(expected: Any, found: Any) -> str:
    if expected.shape != found.shape:
        return f"{found.shape} for {expected.shape}"
    wide = expected.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    largest = max(1.0, float(finite.max(initial=0.0)))
    if np.allclose(wide, found.astype(np.float64), rtol=0.0, atol=TOLERANCE * largest, equal_nan=True):
        return ""
    return f"differs by {float(np.nanmax(np.abs(wide - found), initial=0.0)) if finite.size else math.inf:.1e}"


def survey_onnx(seed: int, numbers: Iterable[int], opened: bool) -> Counter[str]:
    """How many got each verdict; what is not `ok` is printed."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for name in (f"{seed}/{number}" for number in numbers):
        verdict, why = judge_onnx(generate(Random(name), opened=opened), Random(name), opened)
        counts[verdict] += 1
        if verdict != "ok":
            print(f"{name} {verdict}: {why[:400]}", flush=True)
    return counts
