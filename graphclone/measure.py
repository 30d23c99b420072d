"""Times for `graphclone.allocate.latency`: how long a child takes here when one factor at a time has fewer units."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphclone import axes as algebra
from graphclone.allocate import INSIDE, Table, inside
from graphclone.axes import Factor
from graphclone.blocks import Block
from graphclone.errors import SizeError, UnknownNameError
from graphclone.execute import execute
from graphclone.inputs import example
from graphclone.layout import Layout
from graphclone.passes import Shrink
from graphclone.plan import Plan

Runtime = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Callable[[], object]]  # → what runs the module once
SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
_WARM = 3  # runs that do not count


def in_torch(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> object:
        return module(*args, **kwargs)

    return run


def in_onnxruntime(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], object]:
    from graphclone.export.onnx import loaded  # an extra

    return loaded(module, args, kwargs)


RUNTIMES: Mapping[str, Runtime] = {"torch": in_torch, "onnxruntime": in_onnxruntime}


def measured(
    layout: Layout,
    parent: nn.Module,
    plan: Plan,
    *,
    kinds: Sequence[str] = INSIDE,
    shares: Sequence[float] = SHARES,
    runtime: str | Runtime = "torch",
    repeats: int = 20,
    timer: Callable[[], float] = time.perf_counter,
) -> Table:
    """For each factor that `allocate` may shrink, the time of the plan's whole child in which only that factor has fewer units, at a few
    widths: seconds, the least of `repeats` runs on the CPU, at the example inputs' sizes. Blocks that are alike are measured once.

    The children of one factor run in turn, so that what slows the machine slows them all: what counts is the differences between them.

    **Arguments**

    - `plan`, `kinds`: as for `allocate`; other factors are as wide as the plan has them;
    - `shares`: of a factor's units, rounded up. The least is the least that `allocate` can be asked for; the whole is always measured;
    - `runtime`: `torch` (the rewritten graph), `onnxruntime` (its export), or a function that makes a child ready to run;
    - `timer`: seconds since whenever.

    **Raises** `SizeError`, `UnknownNameError`; `OutputError` where a child cannot be exported.
    """
    if repeats < 1 or not shares or not all(0 < share <= 1 for share in shares):
        raise SizeError("times are measured at least once, at shares between 0 and 1 of a factor's units")
    if isinstance(runtime, str) and runtime not in RUNTIMES:
        raise UnknownNameError(f"nothing is measured in '{runtime}'", attempt=" or ".join(RUNTIMES))
    ready = RUNTIMES[runtime] if isinstance(runtime, str) else runtime
    inputs = example(layout.trace.inputs)
    chosen = inside(layout, plan, kinds)
    shrinking = {factor.name for factor in chosen}
    widest = replace(plan, keep={name: kept for name, kept in plan.keep.items() if name not in shrinking}, fitted=())

    def child(name: str, width: int) -> Callable[[], object]:
        narrowed = Shrink({name: width})(widest, layout)
        return ready(execute(narrowed, parent, trace=layout.trace), *inputs)

    known: dict[object, Mapping[int, float]] = {}
    whole = None
    for factor in chosen:
        if (key := _alike(factor, layout, widest)) not in known:
            whole = whole or child(factor.name, factor.size)
            widths = sorted({math.ceil(factor.size * share) for share in shares} - {factor.size})
            runs = {factor.size: whole, **{width: child(factor.name, width) for width in widths}}
            known[key] = _timed(runs, repeats, timer)
    return {factor.name: known[_alike(factor, layout, widest)] for factor in chosen}


def _timed(runs: Mapping[int, Callable[[], object]], repeats: int, timer: Callable[[], float]) -> dict[int, float]:
    """The least time of each, all of them in turn."""
    taken: dict[int, list[float]] = {width: [] for width in runs}
    for turn in range(_WARM + repeats):
        for width, run in runs.items():
            start = timer()
            run()
            if turn >= _WARM:
                taken[width].append(timer() - start)
    return {width: min(times) for width, times in taken.items()}


def _alike(factor: Factor, layout: Layout, plan: Plan) -> object:
    """Equal for factors that are in the same places of blocks which run the same ops at the same sizes; else the factor's name."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    found = [
        (stack.name, block.kind, shapes, places)
        for stack in layout.blocks
        for block in stack.blocks
        if (places := frozenset(_places(factor, block)))
        and {name for name, _ in factor.slots} <= {name for _, _, name in block.uses}
        and (shapes := tuple(tuple(algebra.size(axis, keep) for axis in layout.axes(name)) for _, _, name in block.uses))
    ]
    return found[0] if len(found) == 1 else factor.name


def _places(factor: Factor, block: Block) -> Iterator[tuple[int, int]]:
    """Which uses of parameters a factor is part of, by number, and in which dim."""
    for number, (_, _, used) in enumerate(block.uses):
        for name, dim in factor.slots:
            if name == used:
                yield number, dim
