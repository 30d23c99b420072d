"""One model through everything that graphclone promises: what passes, what is refused and why, what is wrong."""

from __future__ import annotations

import copy
import functools
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphclone as gc
from graphclone import axes as algebra
from graphclone.capture import Trace, at_other_sizes
from graphclone.dynamic import resized
from graphclone.errors import DestinationError, GraphcloneError
from graphclone.execute import fill
from graphclone.layout import Layout
from graphclone.report import free_share
from graphclone.verify import (
    Inputs,
    Verdict,
    growth,
    identity,
    masked_parent,
    outputs,
    permutation,
    rewritten,
    rotation,
    two_roads,
)
from models_zoo import field as zoo
from models_zoo.roundtrip.folders import folder_of
from models_zoo.roundtrip.kept import keep

COLUMNS = (
    *("build", "capture", "parity", "permutation", "masked", "growth", "rotation"),
    *("shrink", "shallower", "deeper", "destination", "dynamic", "onnx"),
)
ORACLES = ("permutation", "masked", "growth", "rotation")
PARITY = 1e-5  # a model may run a fused kernel where its graph does not
_PATH = re.compile(r"/[\w./+-]*/(?=[\w.-]+)")  # of this machine: it tells a reader nothing


@dataclass(frozen=True)
class Cell:
    """`mark`: ✓ passed, ✗ wrong or crashed, ○ refused with a reason (a limitation), – does not apply."""

    mark: str
    note: str = ""
    seconds: float = 0.0


@dataclass
class Row:
    """What came of one model. `dead`: the share of the parameters' elements that the example inputs do not reach; `free`: the share of
    the others that lie on at least one free axis; `frozen`: the reasons for which the largest frozen axes are so."""

    name: str
    cells: dict[str, Cell] = field(default_factory=dict)
    nodes: int = 0
    parameters: int = 0
    free: float = 0.0
    dead: float = 0.0
    factors: int = 0
    blocks: str = ""
    frozen: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(name: str, extra: Collection[str] = (), children: Path | None = None, oracles: Collection[str] = ORACLES) -> Row:
    """Every check in turn; one that cannot be made leaves those that need it undone.

    **Arguments**: `extra`, of "dynamic" and "onnx" those that are to be asked as well; `children`, where to leave the filled child;
    `oracles`: when these are not all of them, nothing else is asked.
    """
    row = Row(name)
    try:
        tiny = zoo.find(name)
        model = _timed(row, "build", tiny.build)
        inputs = _timed(row, "build", tiny.inputs)
        expected = _timed(row, "build", lambda: outputs(copy.deepcopy(model), inputs))
        trace = _timed(row, "capture", lambda: gc.capture(model, *inputs, check=False))
        layout = _timed(row, "capture", lambda: gc.analyze(trace))
    except _Stopped:
        return row
    _describe(row, trace, layout, model)
    _oracles(row, trace, layout, inputs, expected, oracles)
    if row.cells["parity"].mark != "✓":
        return row
    if any("differs" in row.cells[column].note for column in oracles):
        _doubled(row, tiny, oracles)
    if set(oracles) != set(ORACLES):
        return row
    _ran(row, "shrink", lambda: _shrunk(layout, model, trace, inputs, expected))
    for column, depth in (("shallower", 0.5), ("deeper", 2.0)):
        _ran(row, column, lambda depth=depth: _at_depth(layout, model, trace, inputs, expected, depth))  # type: ignore[misc]
    folder = folder_of(children, name) if children is not None else None
    _filled(row, tiny, lambda sizes, smaller: destination(model, smaller, layout, inputs, sizes, folder))
    if "dynamic" in extra:
        _attempted(row, "dynamic", lambda: _at_other_sizes(model, inputs))
    if "onnx" in extra:
        _ran(row, "onnx", lambda: _onnx(layout, model, trace, inputs))
    return row


def _oracles(
    row: Row, trace: Trace, layout: Layout, inputs: Inputs, expected: list[torch.Tensor], asked: Collection[str] = ORACLES
) -> None:
    every: list[tuple[str, Callable[[], Verdict]]] = [
        ("permutation", lambda: permutation(trace, layout, inputs, expected, 0)),
        ("permutation", lambda: permutation(trace, layout, inputs, expected, 1)),
        ("masked", lambda: masked_parent(trace, layout, inputs, 0)),
        ("growth", lambda: growth(trace, layout, inputs, expected, 0)),
        ("rotation", lambda: rotation(trace, layout, inputs, expected, 0)),
    ]
    _judged(row, "parity", lambda: identity(trace, layout, inputs, expected), PARITY)
    if row.cells["parity"].mark == "✓":
        for column, what in every:
            if column in asked:
                _judged(row, column, what)


def _doubled(row: Row, tiny: zoo.Tiny, asked: Collection[str]) -> None:
    """What differs in single precision is asked again in double: a rounding shrinks, and flips no choice (`topk`); a wrong result stays."""
    again = Row(row.name)
    try:
        model = tiny.build().double()
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, tiny.inputs())
        trace = gc.capture(model, args, kwargs)
        expected = outputs(copy.deepcopy(model), (args, kwargs))
        _oracles(again, trace, gc.analyze(trace), (args, kwargs), expected, asked)
    except Exception as error:
        again.cells = {column: Cell("✗", f"and in double precision: {reason(error)}") for column in asked}
    for column in asked:
        old, new = row.cells[column], again.cells.get(column, Cell("✗"))
        if "differs" in old.note:
            passed = new.mark == "✓"
            note = f"in double precision; in single {old.note}" if passed else f"{old.note}; in double precision {new.note}"
            row.cells[column] = Cell(new.mark if passed else "✗", note, old.seconds + new.seconds)


class _Stopped(Exception):
    """Nothing further can be asked."""


def _timed(row: Row, column: str, what: Callable[[], Any]) -> Any:
    start = time.time()
    try:
        result = what()
    except Exception as error:
        mark = "–" if isinstance(error, zoo.Unbuildable) else "✗"
        row.cells[column] = Cell(mark, reason(error), time.time() - start)
        raise _Stopped from error
    row.cells[column] = Cell("✓", seconds=row.cells.get(column, Cell("")).seconds + time.time() - start)
    return result


def _judged(row: Row, column: str, what: Callable[[], Verdict], tolerance: float = 0.0) -> None:
    """A check that ends in a verdict; what has failed once stays so."""

    def judge() -> Cell:
        verdict = what()
        if verdict.passed or verdict.error <= tolerance:
            return Cell("–", "nothing is free that it could be asked of") if verdict.empty else Cell("✓")
        return Cell("✗", f"differs by {verdict.error:.1e}")

    _attempted(row, column, judge)


def _filled(row: Row, tiny: zoo.Tiny, judge: Callable[[str, nn.Module], Verdict]) -> None:
    """The first smaller instance that is not refused; the note says which it is, and why the smallest was."""
    start = time.time()
    refused: list[Cell] = []
    found = None
    for sizes, build in tiny.destinations():
        cell = _judged_one(build, functools.partial(judge, sizes))
        if cell.mark in "✓✗":
            found = replace(cell, note=cell.note or (f"{sizes}; half of everything: {refused[0].note}" if refused else ""))
            break
        refused.append(cell)
    none = refused[0] if refused else Cell("–", "the class has no smaller sizes to give")
    row.cells["destination"] = replace(found or none, seconds=time.time() - start)


def _judged_one(build: Callable[[], nn.Module], judge: Callable[[nn.Module], Verdict]) -> Cell:
    try:
        smaller = build()
    except Exception as error:  # sizes that the class does not take
        return Cell("–", reason(error))
    asked = Row("")
    _judged(asked, "destination", lambda: judge(smaller))
    return asked.cells["destination"]


def _ran(row: Row, column: str, what: Callable[[], str | None]) -> None:
    """A check that ends in nothing, or says why it does not apply."""

    def run() -> Cell:
        why = what()
        return Cell("–", why) if why else Cell("✓")

    _attempted(row, column, run)


def _attempted(row: Row, column: str, what: Callable[[], Cell]) -> None:
    before = row.cells.get(column)
    if before is not None and before.mark != "✓":
        return
    start = time.time()
    try:
        cell = what()
    except GraphcloneError as error:
        cell = Cell("○", reason(error))
    except Exception as error:
        cell = Cell("✗", reason(error))
    row.cells[column] = Cell(cell.mark, cell.note, (before.seconds if before else 0.0) + time.time() - start)


def reason(error: BaseException) -> str:
    if isinstance(error, GraphcloneError):
        return _PATH.sub("", " · ".join(line.strip() for line in str(error).splitlines()[:2]))[:300]
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = _PATH.sub("", (str(error).strip().splitlines() or [""])[0])
    return f"{type(error).__name__}: {first[:200]} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno})"


def _describe(row: Row, trace: Trace, layout: Layout, model: nn.Module) -> None:
    sizes = {name: trace.state[name].numel() for name in trace.parameters}
    row.nodes, row.parameters = len(layout.trace.graph.nodes), sum(p.numel() for p in model.parameters())
    reached, why = sum(sizes.values()), dict[str, int]()
    for name, size in sizes.items():
        found = [factor for axis in layout.axes(name) for factor in algebra.factors(axis)]
        if found and all(factor.frozen is not None for factor in found):
            reason = str(max(found, key=lambda factor: factor.size).frozen)
            why[reason] = why.get(reason, 0) + size
    row.free, row.dead = free_share(layout), 1 - reached / max(row.parameters, 1)
    row.factors = sum(factor.frozen is None and bool(factor.slots) for factor in layout.factors)
    row.blocks = "; ".join(map(str, layout.blocks))
    row.frozen = [
        f"{100 * size / max(reached, 1):.0f} %: {reason}" for reason, size in sorted(why.items(), key=lambda e: -e[1])[:3]
    ]


def _half(layout: Layout) -> gc.Plan:
    inner = [f for f in layout.factors if f.frozen is None and f.slots and not f.interface and f.size > 1]
    return gc.plan(layout, width={factor.name: max(2, -(-factor.size // 2)) for factor in inner})


def _run(child: nn.Module, model: nn.Module, inputs: Inputs, expected: list[torch.Tensor]) -> None:
    """What is inside may be smaller, or the blocks fewer: the outputs are as large as they were, and as finite.

    Unless the weights have a part in their sizes, so that the parent's own change with them: as many as are found (keypoints), or as
    long as is predicted (speech).
    """
    found = outputs(child, inputs)
    shapes, wanted = ([tuple(tensor.shape) for tensor in each] for each in (found, expected))
    if shapes != wanted:
        others = [tuple(tensor.shape) for tensor in outputs(_altered(model), inputs)]
        assert others != wanted, f"outputs of other shapes: {shapes}, not {wanted}"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.isfinite().all() or not theirs.isfinite().all(), "outputs that are not finite"


def _altered(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return other


def _shrunk(layout: Layout, model: nn.Module, trace: Trace, inputs: Inputs, expected: list[torch.Tensor]) -> str | None:
    made = _half(layout)
    if not made.keep:
        return "nothing is free"
    _run(gc.execute(made, model, trace=trace), model, inputs, expected)
    return None


def _at_depth(
    layout: Layout, model: nn.Module, trace: Trace, inputs: Inputs, expected: list[torch.Tensor], depth: float
) -> str | None:
    if not layout.blocks:
        return "no repeated blocks"
    _run(gc.execute(gc.plan(layout, depth=depth), model, trace=trace), model, inputs, expected)
    return None


def destination(model: nn.Module, child: nn.Module, layout: Layout, inputs: Inputs, sizes: str, folder: Path | None) -> Verdict:
    theirs = gc.analyze(gc.capture(child, *inputs, check=False), like=layout.blocks)
    made = gc.plan(layout, destination=theirs)
    filled = fill(made, layout.trace.state.__getitem__, child)
    verdict = two_roads(made, model, child, inputs, layout.trace)
    if filled.fresh and not verdict.passed:  # a branch that only the smaller one has, where its widths happen to allow a skip
        raise DestinationError(
            f"the smaller instance has {len(filled.fresh)} parameters that the parent has not, and computes with them: {filled.fresh[0]} …"
        )
    if folder is not None:  # one that differs too: the round trip is to show it
        keep(folder, sizes, child, made, inputs, outputs(rewritten(made, model, child, layout.trace), inputs))
    return verdict


def _at_other_sizes(model: nn.Module, inputs: Inputs) -> Cell:
    """All oracles on the graph with open sizes, at other ones than it was captured with."""
    trace = gc.capture(model, *inputs, dynamic=batch_and_sequence(inputs))
    if trace.open is None or trace.open.other == trace.open.sizes:
        return Cell("–", "no batch or sequence may vary")
    other = at_other_sizes(trace)
    assert other.open is not None
    inputs = resized(other.open, inputs)
    try:
        expected = outputs(copy.deepcopy(model), inputs)
    except Exception as error:
        return Cell("–", f"the model itself refuses inputs that are merely longer: {reason(error)}")
    found = Row("")
    _oracles(found, other, gc.analyze(other), inputs, expected)
    failed = [f"{column} {cell.note}" for column, cell in found.cells.items() if cell.mark == "✗"]
    return Cell("✗", "; ".join(failed)) if failed else Cell("✓", other.open.shown())


def batch_and_sequence(inputs: Inputs) -> list[list[int]]:
    """The dims to leave open: no side of an image, since two thirds of the time would go into those."""
    leaves = pytree.tree_leaves(inputs)
    return [[0, 1][: each.dim() if each.dim() < 4 else 1] if isinstance(each, torch.Tensor) else [] for each in leaves]


def _onnx(layout: Layout, model: nn.Module, trace: Trace, inputs: Inputs) -> str | None:
    """The half-width child in ONNX Runtime beside PyTorch; `export_onnx` raises where they differ."""
    from graphclone.export.onnx import export_onnx

    made = _half(layout)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(gc.execute(made, model, trace=trace), *inputs, Path(folder) / "child.onnx")
    return None
