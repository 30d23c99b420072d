"""`graphclone clone`: from a parent on disk to a child on disk."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from graphclone import report, sizes
from graphclone.cli.console import err, out, working
from graphclone.cli.options import Asked
from graphclone.cli.planning import Job, planned
from graphclone.cli.wanted import Wanted, check
from graphclone.cli.writing import Written, write
from graphclone.errors import DestinationError, OutputError
from graphclone.execute.destination import Filled
from graphclone.export.folder import new_file, new_folder
from graphclone.verify import Verdict, two_roads


def run(asked: Asked, wanted: Wanted) -> None:
    check(asked, wanted)
    if wanted.plan_only:
        _plan_only(asked, wanted)
        return
    assert wanted.output is not None
    with new_folder(wanted.output, wanted.overwrite) as folder:  # the first thing: an output that is refused costs no time
        job = planned(asked, wanted)
        _show(job)
        job, written = _written(folder, job, asked, wanted)
        verdict = _both_roads(job) if job.overrides and not wanted.set else None
    if written.filled is not None:
        _tell(written.filled, job)
    for note in (*written.notes, *_precision(job)):
        out().print(f"note: {note}", markup=False, soft_wrap=True)
    if verdict is not None:
        settings = " ".join(f"{name}={value}" for name, value in job.overrides.items())
        out().print(f"\nsettings found for the parent's class: [bold]{escape(settings)}[/]", soft_wrap=True)
        out().print(f"its outputs beside the rewritten graph's: {verdict}", markup=False, soft_wrap=True)
    out().print(f"\nwritten to [bold]{escape(str(wanted.output))}[/]", soft_wrap=True)
    again = ["graphclone", "verify", str(wanted.output), "--parent", *asked.words()]
    err().print(f"next: {shlex.join(again)}", style="dim", soft_wrap=True, markup=False)


def _written(folder: Path, job: Job, asked: Asked, wanted: Wanted) -> tuple[Job, Written]:
    """Where a graph whose sizes nobody asked to be open cannot be written, the one of fixed sizes is."""
    try:
        with working("writing"):
            return job, write(folder, job, wanted.pt2, wanted.shard)
    except OutputError as error:
        if wanted.dynamic or job.layout.trace.open is None:
            raise
        why = str(error).splitlines()[0]
    job = planned(asked, replace(wanted, graph=True))
    note = f"it takes inputs of the example's sizes only; with open ones: {why}"
    job = replace(job, plan=job.plan.remark(note))
    with working("writing"):
        written = write(folder, job, wanted.pt2, wanted.shard)
    return job, replace(written, notes=(note, *written.notes))


def _precision(job: Job) -> list[str]:
    stored = str(getattr(job.parent.config, "dtype", None)).removeprefix("torch.")
    return [f"the parent is stored in {stored}, the child in float32"] if stored.endswith("16") else []


def _both_roads(job: Job) -> Verdict:
    """**Raises** `DestinationError` where the child, whose settings nobody gave, is not what its plan says."""
    assert job.child is not None
    verdict = two_roads(job.plan, job.parent.module, job.child, (job.parent.args, dict(job.parent.kwargs)), job.layout.trace)
    if not verdict.passed:
        raise DestinationError(
            "the parent's class computes otherwise in these sizes than the plan",
            because=f"an instance with {', '.join(f'{name}={value}' for name, value in job.overrides.items())} differs from the "
            f"rewritten graph by {verdict.error:.1e}",
            attempt="--graph, which writes the rewritten graph",
        )
    return verdict


def _plan_only(asked: Asked, wanted: Wanted) -> None:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(new_file(wanted.output, wanted.overwrite)) if wanted.output is not None else None
        job = planned(asked, wanted)
        _show(job)
        if path is not None:
            job.plan.save(path)


def _show(job: Job) -> None:
    console = out()
    before, after = report.parameters(job.layout), sizes.parameters(job.plan, job.layout)
    if job.options:
        console.print(report.option_table(job.options, job.layout))
        console.print()
    console.print(f"[bold]{before:,} → {after:,} parameters[/] ({after / before:.1%})")
    console.print(report.plan_table(job.plan, job.layout))
    for note in report.plan_notes(job.plan):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _tell(filled: Filled, job: Job) -> None:
    console = out()
    console.print("\n[bold]What came from where[/]")
    console.print(report.origin_table(filled.filled, job.plan, job.layout))
    for name in filled.fresh:
        console.print(f"as its class initialised it: {name}", markup=False, soft_wrap=True)
    if filled.fresh and job.child is not None:
        count = sum(parameter.numel() for parameter in job.child.parameters())
        console.print(f"with what its class initialised, the child has {count:,} parameters", soft_wrap=True)
    for name in filled.differing:
        console.print(f"computed by the child's class, and otherwise than in the parent: {name}", markup=False, soft_wrap=True)
