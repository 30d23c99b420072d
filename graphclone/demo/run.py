"""`graphclone demo`: clone an embedded parent at half width and half depth, check the clone, race it against a random twin."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import graphclone as gc
from graphclone import report, sources
from graphclone.demo import tables
from graphclone.demo.curves import Curve, Score, SpeedUp, speed_up
from graphclone.demo.plot import plot
from graphclone.demo.progress import Bars, Stages
from graphclone.demo.race import evaluate, race
from graphclone.demo.ready import one_thread, require
from graphclone.demo.task import TASKS, Data, Task, task_named
from graphclone.export.folder import new_folder
from graphclone.export.pytorch import save_state
from graphclone.sources import Parent
from graphclone.verify import Report

CALIBRATION = 1_000_003  # added to the seed: the batches that units are ranked on are not the first ones of the race


class _Refuted(Exception):
    """An oracle says that the clone is wrong."""


@dataclass(frozen=True)
class _Subjects:
    """Who takes part: the parent, and the clone with how it was made and on what its units were ranked."""

    parent: Parent
    parent_score: Score
    clone: Any
    plan: gc.Plan
    calibration: Mapping[str, Tensor]


def run_demo(
    output: Path | None,
    *,
    task: str = "text",
    quick: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
) -> int:
    """The main job on a real parent and real data.

    **Arguments**

    - `output`: the folder to write, `graphclone-demo` in the current one by default. It appears when all is done; until then an
      existing one stays as it was;
    - `task`: `text` or `vision`; `quick`: everything in four training steps; `seed`: of the batches and of the random twin.

    **Returns** the exit status: 0, or 1 if an oracle failed (nothing is written then).

    **Raises** `OutputError` when `output` exists without `overwrite`, `SourceError` when something is not installed: both before any
    work.
    """
    console = console or Console()
    it = task_named(task).short() if quick else task_named(task)
    require(it.extras, it.libraries)
    target = output or Path("graphclone-demo")
    try:
        with new_folder(target, overwrite) as folder, one_thread():
            figures = _play(it, folder, seed, console)
            figures = {"task": task, "quick": quick, "seed": seed, **figures}
            (folder / "results.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except _Refuted:
        console.print("\n[bold red]An oracle failed: the clone is not what its plan says. Nothing was written.[/]")
        return 1
    _closing(it, target, console)
    return 0


def _play(it: Task, folder: Path, seed: int, console: Console) -> dict[str, Any]:
    """All stages; what they write goes to `folder`, and what they found is returned as plain data."""
    begun, cpu = time.perf_counter(), time.process_time()
    stages = Stages(console, 5)
    with stages("The parent, and what both twins learn from", "reading"):
        data = it.data(it.held_out)
        parent = sources.load(str(it.parent))
        score = evaluate(parent.module, data.held_out)
        _say(console, f"{type(parent.module).__name__} of {tables.parameters(parent.module):,} parameters, from {it.parent}")
        _say(console, f"held out: {tables.scored(it, score)}")
        _say(console, f"data: {data.described}")
    with stages("The clone", "capturing, analysing, ranking units, filling"):
        subjects = _clone(it, parent, score, data, seed, console)
    with stages("The oracles, on the parent and on the clone", "checking"):
        verdicts = gc.verify(parent.module, kwargs=data.few.inputs, plan=subjects.plan, child=subjects.clone)
        console.print(tables.oracles(verdicts))
        if not verdicts.passed:
            raise _Refuted
    with stages("The race: the clone and a randomly initialised twin"):
        curves = _race(it, subjects, data, seed, console)
        found = speed_up(curves["clone"], curves["twin"])
        console.print(tables.side_by_side(curves, found, it))
        console.print(f"   [bold green]{found}[/]", highlight=False, soft_wrap=True)
    with stages("The trained child, in each form", "writing, reading back, comparing"):
        written = _write(it, folder, subjects, curves, found, data, console)
    seconds = {**stages.seconds, "total": round(time.perf_counter() - begun, 2), "cpu": round(time.process_time() - cpu, 2)}
    _say(console, f"{seconds['total']:.0f} seconds in all ({seconds['cpu']:.0f} of processor time)")
    return {**_figures(it, subjects, verdicts, curves, found, data), **written, "seconds": seconds}


def _clone(it: Task, parent: Parent, score: Score, data: Data, seed: int, console: Console) -> _Subjects:
    """A destination built from config overrides, filled; and what came from where."""
    calibration = [batch.inputs for batch in itertools.islice(data.train(seed + CALIBRATION), it.calibration)]
    destination = sources.destination(parent, it.child, seed=seed)
    clone, made = gc.subclone(parent.module, destination, kwargs=data.few.inputs, data=calibration)
    layout = gc.analyze(gc.capture(parent.module, kwargs=data.few.inputs))
    _say(console, f"{tables.parameters(clone):,} parameters: {', '.join(f'{name} {value}' for name, value in it.child.items())}")
    console.print(tables.indented(report.plan_table(made.plan, layout)))
    console.print(tables.indented(report.origin_table(made.filled.filled, made.plan, layout)))
    for note in report.plan_notes(made.plan):
        _say(console, note)
    return _Subjects(
        parent, score, clone, made.plan, {name: torch.cat([b[name] for b in calibration]) for name in calibration[0]}
    )


def _race(it: Task, subjects: _Subjects, data: Data, seed: int, console: Console) -> dict[str, Curve]:
    twin = sources.destination(subjects.parent, it.child, seed=seed)
    models: dict[str, nn.Module] = {"twin": twin, "clone": subjects.clone}
    _say(console, f"{it.steps} steps on the same batches, peak learning rate {it.lr:g}: the best one for the twin")
    with Bars(console, list(models), it.steps) as bars:
        return race(models, data.train(seed), data.held_out, lr=it.lr, steps=it.steps, every=it.every, watch=bars)


def _write(
    it: Task, folder: Path, subjects: _Subjects, curves: dict[str, Curve], found: SpeedUp, data: Data, console: Console
) -> dict[str, float]:
    """The plot, the child as a HF folder and as ONNX; how far each form is from the child in memory."""
    from graphclone.demo.outputs import write_folder, write_onnx  # these need the extras

    save_state(subjects.calibration, folder / "calibration.safetensors")

    title = f"Half the width, half the depth: a clone of {tables.parameters(subjects.clone):,} parameters and its random twin"
    loss = subjects.parent_score.loss
    plot(folder / "loss.png", curves["clone"], curves["twin"], found, parent_loss=loss, loss=it.loss, title=title)
    reloaded = write_folder(
        subjects.clone, subjects.plan, it, data.few, folder / "child", f"{it.steps} steps of graphclone's demo"
    )
    _say(console, f"Hugging Face folder, read back with {it.loader}: largest difference {reloaded:.1e}")
    onnx = write_onnx(subjects.clone, data.few, folder / "child.onnx")
    _say(console, f"ONNX, run in ONNX Runtime: largest difference {onnx:.1e}")
    return {"reload_difference": reloaded, "onnx_difference": onnx}


def _figures(
    it: Task, subjects: _Subjects, verdicts: Report, curves: dict[str, Curve], found: SpeedUp, data: Data
) -> dict[str, Any]:
    return {
        "data": data.described,
        "loss_unit": it.loss,
        "parent": {"parameters": tables.parameters(subjects.parent.module), **asdict(subjects.parent_score)},
        "child": {"parameters": tables.parameters(subjects.clone), "config": dict(it.child)},
        "oracles": [asdict(verdict) for verdict in verdicts.verdicts],
        "training": {"peak_lr": it.lr, "steps": it.steps, "every": it.every},
        "curves": {name: {"steps": curve.steps, **_columns(curve)} for name, curve in curves.items()},
        "speed_up": {**asdict(found), "times": found.times, "text": str(found)},
        "versions": {"graphclone": gc.__version__, "torch": torch.__version__},
    }


def _columns(curve: Curve) -> dict[str, list[float]]:
    return {"loss": [score.loss for score in curve.scores], "right": [score.right for score in curve.scores]}


def _closing(it: Task, target: Path, console: Console) -> None:
    """What was written where, and the command that does the same with the user's own model."""
    console.print(f"\n[bold]Written to {target}{os.sep}[/]")
    for name, what in _WRITTEN.items():
        console.print(f"   {name:<23}  {what}", highlight=False, soft_wrap=True)
    settings = " ".join(f"--set {name}={value}" for name, value in it.child.items())
    console.print("\n[bold]The untrained clone as a command; your own model goes in the parent's place[/]")
    here = it.parent.relative_to(Path.cwd()) if it.parent.is_relative_to(Path.cwd()) else it.parent
    ranked_on = f"--data {shlex.quote(str(target / 'calibration.safetensors'))} --batch {it.batch}"
    command = f"graphclone clone {shlex.quote(str(here))} {settings} {ranked_on} -o my-child"
    console.print(f"   {command}", highlight=False, soft_wrap=True)
    other = next(name for name in TASKS if TASKS[name].parent != it.parent)
    console.print(f"   graphclone demo --task {other} runs the other modality", highlight=False)


_WRITTEN = {
    "loss.png": "both loss curves",
    "child/": "the trained clone as a Hugging Face folder, with its plan.json",
    "child.onnx": "the same as ONNX",
    "calibration.safetensors": "what the parent's units were ranked on",
    "results.json": "every figure above",
}


def _say(console: Console, text: str) -> None:
    console.print(f"   {text}", highlight=False, markup=False, soft_wrap=True)
