"""`graphclone race`: children of one size, begun in several ways, trained on the user's own data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from graphclone import sources
from graphclone.cli.console import err, out
from graphclone.cli.options import Asked
from graphclone.cli.planning import Job, asked_for, planned
from graphclone.cli.ranking import examples_of
from graphclone.cli.wanted import Wanted, check
from graphclone.demo.curves import first_reaching
from graphclone.errors import DestinationError, SizeError, SourceError, UnknownNameError
from graphclone.execute import execute, fill
from graphclone.export.folder import new_folder
from graphclone.export.pytorch import save_state
from graphclone.recipe import RECIPES
from graphclone.report import Sheet
from graphclone.training import Learner, curve, held_out_loss

RANDOM = "random"
ARMS = (RANDOM, *RECIPES)
_HELD_OUT = 8  # one example of so many, where no file says which
_CURVE = 20  # evaluations of a run

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Course:
    """How it is run: `arms`, each at every peak rate of `rates`; `held_out`, a file, or the last eighth of the data; `calibration`: how
    many batches children are made on."""

    arms: list[str]
    rates: list[float]
    decay: float
    steps: int
    held_out: Path | None
    calibration: int

    def check(self) -> None:
        """**Raises** `UnknownNameError`, `SizeError`."""
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise UnknownNameError(f"no way to begin is called '{unknown[0]}'", attempt=" or ".join(ARMS))
        if self.steps < 1 or self.calibration < 2:
            raise SizeError("a race has at least one step, and children are made on at least two batches")
        if not all(0 < rate < float("inf") for rate in self.rates):
            raise SizeError(f"cannot train at the rates {', '.join(f'{rate:g}' for rate in self.rates)}", attempt="--lr 1e-3")


@dataclass(frozen=True)
class Ran:
    """The best run of an arm: its peak rate, and held-out losses by step; `ends`: the last one at each rate."""

    arm: str
    parameters: int
    rate: float
    losses: Mapping[int, float]
    ends: Mapping[float, float]


def run(asked: Asked, wanted: Wanted, course: Course) -> None:
    check(asked, wanted)
    course.check()
    assert wanted.output is not None
    with new_folder(wanted.output, wanted.overwrite) as folder:
        train, held_out = _data(asked, wanted, course)
        few = folder / "calibration.safetensors"
        save_state({name: tensor[: course.calibration * wanted.batch] for name, tensor in train.items()}, few)
        batch = {name: tensor[: wanted.batch] for name, tensor in train.items()}
        ran, jobs = [], dict[str, Job]()
        for arm in dict.fromkeys(course.arms):
            recipe = "paper" if arm == RANDOM else arm
            if recipe not in jobs:
                jobs[recipe] = planned(asked, replace(wanted, data=few, recipe=recipe), batch)
            ran.append(_best(arm, jobs[recipe], wanted, course, train, held_out))
        _tell(ran)
        (folder / "race.json").write_text(json.dumps(_data_of(ran, wanted, course), indent=1) + "\n", encoding="utf-8")
        _plot(folder / "loss.png", ran)
    out().print(f"written to [bold]{wanted.output}[/]", soft_wrap=True)


def _data(asked: Asked, wanted: Wanted, course: Course) -> tuple[Batch, list[Batch]]:
    """What is learnt from, and batches of what is not."""
    assert wanted.data is not None
    train = sources.read_state(wanted.data, allow_pickle=asked.allow_pickle)
    count = examples_of(train, wanted.data)
    if course.held_out is not None:
        held_out = sources.read_state(course.held_out, allow_pickle=asked.allow_pickle)
        examples_of(held_out, course.held_out)
    else:
        apart = count // _HELD_OUT
        held_out = {name: tensor[count - apart :] for name, tensor in train.items()}
        train = {name: tensor[: count - apart] for name, tensor in train.items()}
    least = min(examples_of(train, wanted.data), examples_of(held_out, wanted.data) if held_out else 0)
    if least < wanted.batch:
        raise SourceError(
            f"'{wanted.data}' has too few examples for a race",
            because=f"there are {count}, and a batch of {wanted.batch} has to fit both into what is learnt from and what is held out",
            attempt="more data, --held-out FILE, or a smaller --batch",
        )
    whole = range(0, len(next(iter(held_out.values()))) // wanted.batch * wanted.batch, wanted.batch)
    return train, [{name: tensor[at : at + wanted.batch] for name, tensor in held_out.items()} for at in whole]


def _best(arm: str, job: Job, wanted: Wanted, course: Course, train: Batch, held_out: list[Batch]) -> Ran:
    """The arm at every rate, and the run that ends lowest."""
    runs = {}
    for rate in course.rates:
        child = _begun(arm, job, wanted)
        runs[rate] = _losses(child, arm, rate, wanted, course, train, held_out)
    ends = {rate: losses[max(losses)] for rate, losses in runs.items()}
    rate = min(ends, key=lambda each: math.inf if math.isnan(ends[each]) else ends[each])
    return Ran(arm, sum(each.numel() for each in child.parameters()), rate, runs[rate], ends)


def _losses(
    child: nn.Module, arm: str, rate: float, wanted: Wanted, course: Course, train: Batch, held_out: list[Batch]
) -> dict[int, float]:
    """One run, with a bar."""
    loss, losses = partial(_loss, name=arm), {}
    learner = Learner[Batch](child, loss, lr=rate, steps=course.steps, decay=course.decay)
    batches, every = _shuffled(train, wanted.batch, wanted.seed), max(course.steps // _CURVE, 1)
    with Progress(console=err(), transient=True) as bar:
        task = bar.add_task(f"{arm}, lr {rate:g}", total=course.steps)
        for step, found in curve(learner, batches, course.steps, every, lambda: held_out_loss(child, loss, held_out)):
            losses[step] = found
            bar.update(task, completed=step)
    return losses


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


def _loss(model: nn.Module, batch: Batch, *, name: str) -> Tensor:
    """What the model itself calls its loss: `.loss` of its output, or a first output without dims.

    **Raises** `SourceError` where it has none.
    """
    found: Any = model(**batch)
    loss = getattr(found, "loss", None)
    if loss is None and isinstance(found, Mapping):
        loss = found.get("loss")
    if loss is None:
        loss = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(loss, Tensor) or loss.dim():
        raise SourceError(
            f"the {name} child gives no loss",
            because="its output has no `.loss`, and its first one is no scalar",
            attempt="labels among the tensors of --data, named as the parent's forward names them",
        )
    return loss


def _shuffled(data: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches; every example once, then again in another order."""
    order, count = torch.Generator().manual_seed(seed), len(next(iter(data.values())))
    while True:
        for at in torch.split(torch.randperm(count, generator=order), size):
            if len(at) == size:
                yield {name: tensor[at] for name, tensor in data.items()}


def _tell(ran: list[Ran]) -> None:
    twin = next((each for each in ran if each.arm == RANDOM), None)
    table = Sheet("", ">parameters", ">peak lr", ">before", ">half-way", ">at the end", "sooner than random")
    for each in ran:
        steps = sorted(each.losses)
        half = min(steps, key=lambda step: abs(2 * step - steps[-1]))
        losses = [f"{each.losses[step]:.4f}" for step in (0, half, steps[-1])]
        table.add_row(each.arm, f"{each.parameters:,}", f"{each.rate:g}", *losses, _sooner(each, twin) if twin else "")
    out().print(table)


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
        "arms": {
            each.arm: {
                "parameters": each.parameters,
                "lr": each.rate,
                "steps": list(each.losses),
                "loss": list(each.losses.values()),
                "ends": {f"{rate:g}": end for rate, end in each.ends.items()},
            }
            for each in ran
        },
    }


def _plot(path: Path, ran: list[Ran]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for each in ran:
        axes.plot(list(each.losses), list(each.losses.values()), lw=2, label=f"{each.arm}, lr {each.rate:g}")
    axes.set(xlabel="training steps", ylabel="held-out loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
