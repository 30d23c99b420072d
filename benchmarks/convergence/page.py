"""The page: what ends where on each budget, how soon each comes to where the random child ends, and what it costs to begin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.convergence.arms import ABLATIONS, ARMS
from benchmarks.convergence.grid import Grid, Results
from benchmarks.convergence.runs import DISTILLED
from graphclone.demo.curves import first_reaching
from graphclone.demo.task import task_named

INTRODUCTION = """# Convergence

How soon a child learns, by how it begins. Made by `python -m benchmarks.convergence` (resumable; the runs are in
[convergence.json](convergence.json)).

Each figure is the held-out loss at the end of a run that has a schedule of its own (AdamW, a tenth of the steps warm-up, then a cosine),
the mean over seeds and, where there are several, their standard deviation. Peak rate and weight decay are tuned for each arm by itself on
the first seed. A seed says the order of the training data, the calibration batches, the random child and random choices.

*sooner*: in how many times fewer steps an arm comes to the loss at which the random child ends its longest run. *own budget*: the shortest
run (between two budgets: by a straight line over the logarithm of the steps) that ends there. *same schedule*: the step of the longest run
at which it is there, with the rate still high. *begun in*: seconds, of the parent's capture, its analysis, calibration and the closed-form
steps; in brackets, their share of the time in which the random child is trained for as long as its longest run.
"""


_EVERY = (*ARMS, *ABLATIONS, *(arm + DISTILLED for arm in ("random", "paper", "full")))


@dataclass(frozen=True)
class Line:
    """One arm: the end losses of each budget, one for each seed, and what the page says of the arm beside these."""

    arm: str
    ends: Mapping[int, Sequence[float]]
    before: float
    own: float | None
    same: float | None
    rates: str
    made: float
    parameters: int


def write(output: Path, grids: Mapping[str, Grid], results: Results) -> None:
    """The page and the plots."""
    text = INTRODUCTION
    for task, grid in grids.items():
        lines = lines_of(task, grid, results)
        if lines:
            plot(output / f"convergence-{task}.png", task, grid, results, [line.arm for line in lines if line.arm in ARMS])
            text += "\n".join(section(task, grid, results, lines)) + "\n"
    (output / "CONVERGENCE.md").write_text(text)


def lines_of(task: str, grid: Grid, results: Results) -> list[Line]:
    goal = _mean(_ends(grid.curves(results, task, "random", grid.budgets[-1])))
    return [line for arm in _EVERY if (line := _line(task, arm, grid, results, goal)) is not None]


def _line(task: str, arm: str, grid: Grid, results: Results, goal: float | None) -> Line | None:
    curves = {steps: grid.curves(results, task, arm, steps) for steps in grid.budgets}
    ends = {steps: _ends(found) for steps, found in curves.items() if found}
    if not ends:
        return None
    longest, found = max(ends), curves[max(ends)]
    tuned = [run for steps in grid.tuned_at if (run := grid.tuned(results, task, arm, steps)) is not None]
    same = first_reaching(found[0]["steps"], _means(found), goal) if goal is not None and longest == grid.budgets[-1] else None
    return Line(
        arm,
        ends,
        statistics.fmean(each["loss"][0] for each in found),
        reaching(ends, goal) if goal is not None else None,
        same,
        " / ".join(f"{run.lr:g}" for run in tuned) + (f", {tuned[-1].decay:g}" if tuned else ""),
        statistics.median(each["made_in"] for each in found),
        found[0]["parameters"],
    )


def reaching(ends: Mapping[int, Sequence[float]], goal: float) -> float | None:
    """The steps of the shortest run that ends at the goal, between two budgets over log(steps); None where none does. Where the shortest
    is enough, it is that: how much less would do is not known."""
    budgets = sorted(ends)
    losses = [statistics.fmean(ends[steps]) for steps in budgets]
    for i, loss in enumerate(losses):
        if loss <= goal:
            if i == 0:
                return float(budgets[0])
            share = (losses[i - 1] - goal) / (losses[i - 1] - loss)
            return math.exp(math.log(budgets[i - 1]) + share * (math.log(budgets[i]) - math.log(budgets[i - 1])))
    return None


def section(task: str, grid: Grid, results: Results, lines: Sequence[Line]) -> Iterator[str]:
    it = task_named(task)
    longest = grid.budgets[-1]
    trained = [each["seconds"] for each in grid.curves(results, task, "random", longest)]
    children = ", ".join(f"{name} {value}" for name, value in it.child.items())
    yield f"\n## {task}\n"
    yield f"Parent: `{it.parent.name}`; child: {lines[0].parameters:,} parameters ({children}); {it.loss}.\n"
    yield f"![loss over steps](convergence-{task}.png)\n"
    budgets, at = (" | ".join(map(str, grid.budgets)), " / ".join(map(str, grid.tuned_at)))
    yield f"| arm | before | {budgets} | sooner: own budget | same schedule | rate at {at}, decay | begun in |"
    yield "|---|" + "---|" * (len(grid.budgets) + 5)
    for line in lines:
        cells = [_spread(line.ends[steps]) if steps in line.ends else "" for steps in grid.budgets]
        share = f" ({line.made / statistics.fmean(trained):.0%})" if trained else ""
        yield (
            f"| {line.arm} | {line.before:.2f} | {' | '.join(cells)} | {_times(longest, line.own, min(grid.budgets))} "
            f"| {_times(longest, line.same, 0)} | {line.rates} | {line.made:.1f} s{share} |"
        )
    whole = {line.arm for line in lines if all(len(line.ends.get(steps, ())) == len(grid.seeds) for steps in grid.budgets)}
    if missing := [arm for arm in _EVERY if arm not in whole]:
        yield f"\nNot run yet, or not at all budgets with all seeds: {'; '.join(missing)}."
    failed = sorted(
        {(run.split(" | ")[1], result["error"]) for run, result in results.items() if run.startswith(task) and "error" in result}
    )
    yield from (f"\n{arm}: {error}" for arm, error in failed)


def _times(steps: int, reached: float | None, least: int) -> str:
    if reached is None:
        return "never"
    if not reached:
        return "at once"
    return f"{'≥ ' if reached == least else ''}{steps / reached:.1f}× ({reached:.0f} steps)"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _ends(curves: Iterable[Mapping[str, Any]]) -> list[float]:
    return [each["loss"][-1] for each in curves]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _means(curves: Sequence[Mapping[str, Any]]) -> list[float]:
    return [statistics.fmean(losses) for losses in zip(*(each["loss"] for each in curves), strict=True)]


def plot(path: Path, task: str, grid: Grid, results: Results, arms: Sequence[str]) -> None:
    """The curves of the longest runs, and the ends of all budgets; bands are a standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True, layout="constrained")
    for arm in arms:
        curves = grid.curves(results, task, arm, grid.budgets[-1])
        if curves:
            means = _means(curves)
            spread = [
                statistics.stdev(losses) if len(losses) > 1 else 0
                for losses in zip(*(each["loss"] for each in curves), strict=True)
            ]
            (drawn,) = left.plot(curves[0]["steps"], means, label=arm)
            low, high = ([mean + sign * sd for mean, sd in zip(means, spread, strict=True)] for sign in (-1, 1))
            left.fill_between(curves[0]["steps"], low, high, alpha=0.2, color=drawn.get_color())
        ends = {steps: _ends(grid.curves(results, task, arm, steps)) for steps in grid.budgets}
        found = {steps: each for steps, each in ends.items() if each}
        errors = [statistics.stdev(each) if len(each) > 1 else 0 for each in found.values()]
        right.errorbar(list(found), [statistics.fmean(each) for each in found.values()], errors, marker="o", label=arm)
    left.set(xlabel="step of the longest run", ylabel=f"held-out loss, {task_named(task).loss}")
    right.set(xlabel="steps of a run with a schedule of its own", xscale="log")
    right.legend(fontsize="small")
    highest = [each["loss"][0] for each in grid.curves(results, task, "random", grid.budgets[-1])]
    if highest:
        left.set_ylim(top=max(highest) * 1.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)
