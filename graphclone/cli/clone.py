"""`graphclone clone`: from a parent on disk to a child on disk."""

from __future__ import annotations

import contextlib
import inspect
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import graphclone as gc
from graphclone import report, sources
from graphclone.capture import capture
from graphclone.cli import children
from graphclone.cli.children import GRAPH, WEIGHTS, Record
from graphclone.cli.console import err, out, working
from graphclone.cli.options import Asked
from graphclone.destination import plan_for
from graphclone.errors import OutputError, SizeError, SourceError
from graphclone.execute import fill
from graphclone.execute.destination import Filled
from graphclone.export.folder import new_file, new_folder
from graphclone.export.pytorch import save_graph, save_state
from graphclone.layout import Layout, analyze
from graphclone.plan import Plan
from graphclone.scores import Scores, score_activations, score_weights
from graphclone.sources import Parent

SCORES = ("activations", "weights", "uniform")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks of the child."""

    output: Path | None
    set: list[str]
    width: list[str]
    depth: list[str]
    scores: str | None
    data: Path | None
    batch: int
    scale: bool
    plan_only: bool
    overwrite: bool
    seed: int


@dataclass(frozen=True)
class _Job:
    """A plan, and what it was made of."""

    parent: Parent
    layout: Layout
    plan: Plan
    overrides: dict[str, object]
    child: nn.Module | None  # the destination, where the parent's class could be built in other sizes


def run(asked: Asked, wanted: Wanted) -> None:
    _check(asked, wanted)
    if wanted.plan_only:
        _plan_only(asked, wanted)
        return
    assert wanted.output is not None
    with new_folder(wanted.output, wanted.overwrite) as folder:
        job = _plan(asked, wanted)
        _show(job)
        with working("writing"):
            filled = _write(folder, job, asked)
    if filled is not None:
        _tell(filled, job)
    out().print(f"\nwritten to [bold]{wanted.output}[/]", soft_wrap=True)
    again = ["graphclone", "verify", str(wanted.output), "--parent", *asked.words()]
    err().print(f"next: {shlex.join(again)}", style="dim", soft_wrap=True)


def _plan_only(asked: Asked, wanted: Wanted) -> None:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(new_file(wanted.output, wanted.overwrite)) if wanted.output is not None else None
        job = _plan(asked, wanted)
        _show(job)
        if path is not None:
            job.plan.save(path)


def _plan(asked: Asked, wanted: Wanted) -> _Job:
    with working(f"loading {asked.spec}"):
        parent = children.load(asked)
        overrides = sources.assignments(wanted.set)
        child = sources.destination(parent, overrides, seed=wanted.seed) if overrides else None
    with working("capturing and analysing"):
        layout = analyze(capture(parent.program or parent.module, parent.args, parent.kwargs))
        target = analyze(capture(child, parent.args, parent.kwargs), like=layout.blocks) if child is not None else None
    with working("ranking units"):
        ranked = _scores(parent, layout, asked, wanted)
    if target is not None:
        plan = plan_for(layout, target, ranked, wanted.scale)
    else:
        widths, depths = _sizes(wanted.width, "--width"), _depth(wanted.depth)
        plan = gc.plan(layout, width=widths, depth=depths, scores=ranked, scale=wanted.scale)
    return _Job(parent, layout, plan, overrides, child)


def _check(asked: Asked, wanted: Wanted) -> None:
    """Whatever can be refused before any work is done."""
    if wanted.set and (wanted.width or wanted.depth):
        raise SizeError(
            "--set and --width or --depth were given together",
            because="--set builds the child from the parent's class, and all sizes follow from it; the others rewrite the graph",
            attempt="one or the other",
        )
    if not (wanted.set or wanted.width or wanted.depth):
        raise SizeError(
            "nothing says how large the child is", attempt="--set hidden_size=96, or --width residual=0.5 --depth 0.5"
        )
    if wanted.scores not in (None, *SCORES):
        raise SizeError(f"there is no way '{wanted.scores}' to rank units", attempt=f"--scores {', '.join(SCORES)}")
    if wanted.scores == "activations" and wanted.data is None:
        raise SizeError("--scores activations needs calibration data", attempt="--data FILE.safetensors, or --scores weights")
    if wanted.batch < 1:
        raise SizeError(f"--batch {wanted.batch}: a batch has at least one example")
    if wanted.output is None:
        if not wanted.plan_only:
            raise OutputError("nothing says where to write the child", attempt="-o FOLDER, or --plan-only")
        return
    target, source = wanted.output.expanduser().resolve(), Path(asked.spec).expanduser()
    if source.exists() and (source.resolve().is_relative_to(target) or target.is_relative_to(source.resolve())):
        raise OutputError(
            f"will not write '{wanted.output}'", because=f"the parent '{asked.spec}' lies there", attempt="another folder"
        )


# -- reading options -------------------------------------------------------------------------------------------------


def _number(text: str, option: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise SizeError(f"cannot read {option} '{text}'", because="a size is a number, or a share such as 0.5") from None
    if not 0 < value <= 1:
        raise SizeError(f"cannot read {option} '{text}'", because="a share lies between 0 and 1")
    return value


def _sizes(texts: list[str], option: str) -> dict[str, int | float]:
    found = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name:
            raise SizeError(f"cannot read {option} '{text}'", because="it is written NAME=N", attempt=f"{option} residual=0.5")
        found[name.strip()] = _number(size.strip(), option)
    return found


def _depth(texts: list[str]) -> int | float | Mapping[str, int | float] | None:
    if not texts:
        return None
    if any("=" in text for text in texts):
        return _sizes(texts, "--depth")
    if len(texts) > 1:
        raise SizeError("--depth is given twice", attempt="--depth STACK=N for each stack")
    return _number(texts[0], "--depth")


def _scores(parent: Parent, layout: Layout, asked: Asked, wanted: Wanted) -> Scores:
    kind = wanted.scores or ("activations" if wanted.data is not None else "weights")
    if kind == "uniform":
        return Scores()
    if kind == "weights":
        return score_weights(layout)
    assert wanted.data is not None
    state = sources.read_state(wanted.data, allow_pickle=asked.allow_pickle)
    return score_activations(parent.module, _batches(state, parent, wanted))


def _batches(state: Mapping[str, Tensor], parent: Parent, wanted: Wanted) -> Iterator[Any]:
    """Examples along dim 0, in batches; inputs that the data does not name are the parent's own examples, where they fit any batch."""
    counts = {tensor.shape[0] for tensor in state.values() if tensor.dim()}
    names = set(inspect.signature(parent.module.forward).parameters)
    if len(counts) != 1 or 0 in counts:
        raise SourceError(f"cannot use '{wanted.data}'", because=f"its tensors have {sorted(counts)} examples along dim 0")
    if unknown := sorted(set(state) - names) if names else []:
        raise SourceError(
            f"cannot use '{wanted.data}'", because=f"the parent takes no input '{unknown[0]}', but ({', '.join(sorted(names))})"
        )
    (count,) = counts
    for start in range(0, count, wanted.batch):
        yield {name: tensor[start : start + wanted.batch] for name, tensor in state.items()}


# -- writing ---------------------------------------------------------------------------------------------------------


def _write(folder: Path, job: _Job, asked: Asked) -> Filled | None:
    """A Hugging Face folder, the weights of a factory's model, or a graph."""
    fetch = job.layout.trace.state.__getitem__
    if job.child is None:
        graph = gc.execute(job.plan, job.parent.module, trace=job.layout.trace)
        save_graph(graph, job.parent.args, job.parent.kwargs, folder / GRAPH)
        Record("graph", asked.spec).save(folder)
        job.plan.save(folder / "plan.json")
        return None
    filled = fill(job.plan, fetch, job.child)
    if _is_hf(job.child):
        from graphclone.export.hf import save_hf

        source = Path(asked.spec).expanduser()
        save_hf(job.child, source if source.is_dir() else None, folder, job.plan.dumps())
        return filled
    save_state(job.child.state_dict(), folder / WEIGHTS)
    Record("factory", asked.spec, sources.assignments(asked.arg), job.overrides, asked.input).save(folder)
    job.plan.save(folder / "plan.json")
    return filled


def _is_hf(module: nn.Module) -> bool:
    return callable(getattr(module, "save_pretrained", None)) and hasattr(module, "config")


# -- telling ---------------------------------------------------------------------------------------------------------


def _show(job: _Job) -> None:
    console = out()
    before, after = report.parameters(job.layout), report.child_parameters(job.plan, job.layout)
    console.print(f"[bold]{before:,} → {after:,} parameters[/] ({after / before:.1%})")
    console.print(report.plan_table(job.plan, job.layout))
    for note in report.plan_notes(job.plan):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _tell(filled: Filled, job: _Job) -> None:
    console = out()
    console.print("\n[bold]What came from where[/]")
    console.print(report.origin_table(filled.filled, job.plan, job.layout))
    for name in filled.fresh:
        console.print(f"as its class initialised it: {name}", markup=False)
    for name in filled.differing:
        console.print(f"computed by the child's class, and otherwise than in the parent: {name}", markup=False)
