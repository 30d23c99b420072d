"""`graphclone race`: children of one size, begun in several ways, trained on the user's own data."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

import graphclone
from graphclone.cli.console import err, out
from graphclone.cli.examples import Batch, check_held_out, check_sizes, loss_of, shuffled, split_data
from graphclone.cli.kept import Kept, Run, key
from graphclone.cli.options import Asked
from graphclone.cli.planning import Job, Known, asked_for, known, planned
from graphclone.cli.wanted import Wanted, check
from graphclone.demo.curves import first_reaching
from graphclone.errors import DestinationError, SizeError, UnknownNameError
from graphclone.execute import execute, fill
from graphclone.execute.graph import Child
from graphclone.export.folder import new_folder
from graphclone.export.pytorch import save_state
from graphclone.export.record import digest
from graphclone.recipe import RECIPES
from graphclone.report import Sheet
from graphclone.training import Learner, curve, held_out_loss

RANDOM = "random"
ARMS = (RANDOM, *RECIPES)
_CURVE = 20  # evaluations of a run, at most

Which = tuple[str, float, int]  # arm, peak rate, seed: one run


@dataclass(frozen=True)
class Course:
    """How it is run: `arms`, each at every peak rate of `rates` and on every one of `seeds`; `held_out`, a file, or the last eighth of the
    data; `calibration`: how many batches children are made on."""

    arms: list[str]
    rates: list[float]
    decay: float
    steps: int
    held_out: Path | None
    calibration: int
    seeds: range

    def check(self) -> None:
        """**Raises** `UnknownNameError`, `SizeError`."""
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise UnknownNameError(f"no way to begin is called '{unknown[0]}'", attempt=" or ".join(ARMS))
        if self.steps < 1 or self.calibration < 2 or not self.seeds:
            raise SizeError("a race has at least one step and one seed, and children are made on at least two batches")
        if not all(0 < rate < float("inf") for rate in self.rates):
            raise SizeError(f"cannot train at the rates {', '.join(f'{rate:g}' for rate in self.rates)}", attempt="--lr 1e-3")
        if not 0 <= self.decay < float("inf"):
            raise SizeError(f"cannot train with a weight decay of {self.decay:g}", attempt="--decay 0.1")

    def runs(self) -> list[Which]:
        return list(itertools.product(dict.fromkeys(self.arms), dict.fromkeys(self.rates), self.seeds))


@dataclass(frozen=True)
class Ran:
    """All runs of an arm: for each peak rate, one for each seed."""

    arm: str
    runs: Mapping[float, Sequence[Run]]

    @property
    def parameters(self) -> int:
        return next(iter(self.runs.values()))[0].parameters

    @property
    def ends(self) -> dict[float, float]:
        """The last loss at each rate, the mean over seeds."""
        return {rate: _mean([run.losses[max(run.losses)] for run in runs]) for rate, runs in self.runs.items()}

    @property
    def rate(self) -> float:
        """The one that ends lowest."""
        ends = self.ends
        return min(ends, key=lambda each: math.inf if math.isnan(ends[each]) else ends[each])

    @property
    def losses(self) -> dict[int, float]:
        """By step, at the best rate, the mean over seeds."""
        return {step: _mean(found) for step, found in self._by_step().items()}

    @property
    def deviations(self) -> dict[int, float]:
        """The standard deviation over seeds, where there are several."""
        return {step: statistics.stdev(found) for step, found in self._by_step().items() if len(found) > 1}

    def _by_step(self) -> dict[int, list[float]]:
        runs = self.runs[self.rate]
        return {step: [run.losses[step] for run in runs] for step in runs[0].losses}


def _mean(found: Sequence[float]) -> float:
    return sum(found) / len(found)


def run(asked: Asked, wanted: Wanted, course: Course) -> None:
    check(asked, wanted)
    course.check()
    assert wanted.output is not None
    with new_folder(wanted.output, wanted.overwrite) as folder:
        train, held_out = split_data(asked, wanted, course.held_out)
        of = known(asked, wanted, {name: tensor[: wanted.batch] for name, tensor in train.items()})
        check_held_out(of.parent, held_out, course.held_out)  # before any child is made
        few = folder / "calibration.safetensors"
        save_state({name: tensor[: course.calibration * wanted.batch] for name, tensor in train.items()}, few)
        race = _Race(asked, wanted, course, train, held_out, of, few, {})
        kept, every = Kept.beside(wanted.output), race.determined()
        ran = _all_run(race, kept, every)
        _tell(ran)
        (folder / "race.json").write_text(json.dumps(_finite(_data_of(ran, wanted, course)), indent=1) + "\n", encoding="utf-8")
        _plot(folder / "loss.png", ran)
    kept.forget(every.values())
    out().print(f"written to [bold]{wanted.output}[/]", soft_wrap=True)


def _all_run(race: _Race, kept: Kept, every: Mapping[Which, Mapping[str, Any]]) -> list[Ran]:
    """Every run, from `kept` where it is done; each that is done now is added to it."""
    found = kept.read()
    runs = {each: found[key(of)] for each, of in every.items() if key(of) in found}
    if runs:
        told = f"going on: {len(runs)} of {len(every)} runs are done and kept in '{kept.path.name}'"
        err().print(told, markup=False, soft_wrap=True)
    try:
        for each, of in every.items():
            if each not in runs:
                runs[each] = race.run(*each)
                kept.add(of, runs[each])
                first, *_, last = runs[each].losses.values()
                told = f"{_named(*each)}: loss {first:.4f} → {last:.4f} ({len(runs)} of {len(every)} runs)"
                err().print(told, markup=False, highlight=False, soft_wrap=True)
    except BaseException as error:
        told = f"{len(runs)} of {len(every)} runs are kept in '{kept.path.name}': the same command goes on with the others"
        if runs and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {told}") from None
        if runs:
            err().print(told, markup=False, soft_wrap=True)
        raise
    return [
        Ran(arm, {rate: [runs[arm, rate, seed] for seed in race.course.seeds] for rate in race.course.rates})
        for arm in dict.fromkeys(race.course.arms)
    ]


@dataclass(frozen=True)
class _Race:
    """What every run is made of. `few`: the file of calibration data; `jobs`: recipe → how its child is made, once it is needed."""

    asked: Asked
    wanted: Wanted
    course: Course
    train: Batch
    held_out: list[Batch]
    of: Known
    few: Path
    jobs: dict[str, Job]

    def determined(self) -> dict[Which, dict[str, Any]]:
        """For each run all that its result depends on."""
        wanted, course, trace = self.wanted, self.course, self.of.layout.trace
        like = wanted.like / "config.json" if wanted.like is not None and wanted.like.is_dir() else wanted.like
        common = {
            "graphclone": graphclone.__version__,
            "torch": torch.__version__,
            "parent": digest(trace.state, str(trace.graph), str(getattr(self.of.parent.module, "config", ""))),
            "built": [self.asked.arg, digest({}, _code(self.of.parent.module))],  # in train mode it may be another program
            "train": digest(self.train),
            "held_out": [digest(batch) for batch in self.held_out],
            "set": wanted.set,
            "width": wanted.width,
            "depth": wanted.depth,
            "params": wanted.params,
            "like": digest({}, like.read_text(encoding="utf-8")) if like is not None else None,
            "batch": wanted.batch,
            "steps": course.steps,
            "every": _every(course.steps, self.held_out),
            "decay": course.decay,
            "calibration": course.calibration,
        }
        recipes = {name: vars(recipe) for name, recipe in RECIPES.items()}
        return {
            (arm, rate, seed): {**common, "arm": arm, "recipe": recipes.get(arm), "rate": rate, "seed": seed}
            for arm, rate, seed in course.runs()
        }

    def run(self, arm: str, rate: float, seed: int) -> Run:
        wanted = replace(self.wanted, seed=seed)
        child = _begun(arm, self._job("paper" if arm == RANDOM else arm), wanted)
        if isinstance(child, Child):
            check_sizes(self.train, self.held_out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # a child that drops units does so alike, whatever ran before
            losses = _losses(child, arm, rate, wanted, self.course, self.train, self.held_out)
        return Run(sum(each.numel() for each in child.parameters()), losses)

    def _job(self, recipe: str) -> Job:
        if recipe not in self.jobs:
            self.jobs[recipe] = planned(self.asked, replace(self.wanted, data=self.few, recipe=recipe), self.of)
        return self.jobs[recipe]


def _code(module: nn.Module) -> str:
    """The file that the parent's class is written in, where there is one."""
    with contextlib.suppress(OSError, TypeError):
        return Path(inspect.getfile(type(module))).read_text(encoding="utf-8", errors="replace")
    return ""


def _losses(
    child: nn.Module, arm: str, rate: float, wanted: Wanted, course: Course, train: Batch, held_out: list[Batch]
) -> dict[int, float]:
    """One run, with a bar."""
    loss, losses = partial(loss_of, name=f"{arm} child"), {}
    learner = Learner[Batch](child, loss, lr=rate, steps=course.steps, decay=course.decay)
    batches, every = shuffled(train, wanted.batch, wanted.seed), _every(course.steps, held_out)
    with Progress(console=err(), transient=True, disable=not err().is_terminal) as bar:
        task = bar.add_task(_named(arm, rate, wanted.seed), total=course.steps)
        for step, found in curve(learner, batches, course.steps, every, lambda: held_out_loss(child, loss, held_out)):
            losses[step] = found
            bar.update(task, completed=step)
    return losses


def _named(arm: str, rate: float, seed: int) -> str:
    return f"{arm}, lr {rate:g}, seed {seed}"


def _every(steps: int, held_out: list[Batch]) -> int:
    """The steps between two looks at what is held out. A step costs three passes forward: looking takes no longer than learning, unless
    four looks do."""
    looks = min(max(3 * steps // len(held_out), 4), _CURVE)
    return max(steps // looks, 1)


def _begun(arm: str, job: Job, wanted: Wanted) -> nn.Module:
    """A child before training.

    **Raises** `DestinationError` for a random one where the child is a graph, which has no way to initialise itself.
    """
    if job.child is None:
        if arm == RANDOM:
            raise DestinationError(
                "there is no random child to race against",
                because="the child is a rewritten graph, and only a class knows how it is initialised",
                attempt="--arm paper --arm full, or sizes that the parent's class can have",
            )
        return execute(job.plan, job.parent.module, trace=job.layout.trace, fitted=job.fitted)
    child = asked_for(job.parent, job.overrides, wanted)
    assert child is not None
    if arm != RANDOM:
        fill(job.plan, job.layout.trace.state.__getitem__, child, job.fitted)
    return child


def _tell(ran: list[Ran]) -> None:
    twin = next((each for each in ran if each.arm == RANDOM), None)
    table = Sheet("", ">parameters", ">peak lr", ">before", ">half-way", ">at the end", "sooner than random")
    for each in ran:
        steps = sorted(each.losses)
        half = min(steps, key=lambda step: abs(2 * step - steps[-1]))
        losses = [f"{each.losses[step]:.4f}" for step in (0, half, steps[-1])]
        spread = each.deviations.get(steps[-1])
        losses[-1] += f" ± {spread:.4f}" if spread is not None else ""
        table.add_row(each.arm, f"{each.parameters:,}", f"{each.rate:g}", *losses, _sooner(each, twin) if twin else "")
    out().print(table)
    if lost := [each.arm for each in ran if not math.isfinite(each.ends[each.rate])]:
        err().print(f"no run of {', '.join(lost)} ends at a finite loss: try a lower --lr", markup=False, soft_wrap=True)


def _sooner(each: Ran, twin: Ran) -> str:
    """In how many times fewer steps it is at the loss at which the random twin ends."""
    if each.arm == RANDOM:
        return ""
    steps = sorted(twin.losses)
    reached = first_reaching(sorted(each.losses), [each.losses[step] for step in sorted(each.losses)], twin.losses[steps[-1]])
    return "never" if reached is None else f"{steps[-1] / reached:.1f}× ({reached:.0f} steps)" if reached else "at once"


def _data_of(ran: list[Ran], wanted: Wanted, course: Course) -> dict[str, Any]:
    return {
        "steps": course.steps,
        "batch": wanted.batch,
        "decay": course.decay,
        "seed": wanted.seed,
        "seeds": len(course.seeds),
        "arms": {
            each.arm: {
                "parameters": each.parameters,
                "lr": each.rate,
                "steps": list(each.losses),
                "loss": list(each.losses.values()),
                "ends": {f"{rate:g}": end for rate, end in each.ends.items()},
                **({"deviation": list(each.deviations.values())} if each.deviations else {}),
            }
            for each in ran
        },
    }


def _finite(data: Any) -> Any:
    """As JSON has it: null for a loss that is no number."""
    if isinstance(data, dict):
        return {name: _finite(each) for name, each in data.items()}
    if isinstance(data, list):
        return [_finite(each) for each in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _plot(path: Path, ran: list[Ran]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for each in ran:
        steps, losses, spread = list(each.losses), list(each.losses.values()), list(each.deviations.values())
        (line,) = axes.plot(steps, losses, lw=2, label=f"{each.arm}, lr {each.rate:g}")
        if spread:
            low, high = ([loss + sign * by for loss, by in zip(losses, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel="training steps", ylabel="held-out loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
