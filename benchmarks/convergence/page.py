"""The page: what ends where on each budget, how soon each comes to where the random child ends, and what it costs to begin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.convergence.ablations import ABLATIONS
from benchmarks.convergence.arms import ARMS
from benchmarks.convergence.grid import Grid, Results, grid_for
from benchmarks.convergence.races import RACES, SIZES, Variant
from benchmarks.convergence.runs import DISTILLED, FEW, offered
from graphclone.demo.curves import first_reaching

INTRODUCTION = """# Convergence

How soon a child learns, by how it begins. Made by `python -m benchmarks.convergence` (resumable; the runs are in
[convergence.json](convergence.json)).

Each figure is the held-out loss at the end of a run that has a schedule of its own (AdamW, a tenth of the steps warm-up, then a cosine),
the mean over seeds and, where there are several, their standard deviation. Peak rate and weight decay are tuned for each arm by itself on
the first seed. A seed says the order of the training data, the calibration batches, the random child and random choices.

*sooner*: in how many times fewer steps an arm comes to the loss at which the random child ends its longest run. *own budget*: the shortest
run (between two budgets: by a straight line over the logarithm of the steps) that ends there. *same schedule*: the step of the longest run
at which it is there, with the rate still high. *begun in*: seconds, of the parent's capture, its analysis, calibration and the closed-form
steps, in a process that has imported torch.export; in brackets, their share of the shortest time that any of these children was trained
for as long as the longest run (its twenty looks at the held-out loss among it). Both are taken with as many processes at work as there
are cores.

A task's own child is of the size `small`. Raced by few arms on a smaller grid: other sizes (`tiny`; `deep`: as narrow, with all blocks;
`heads`: with all heads, narrower; `same` and `deeper`: the parent's own, and half as many blocks again), a longer budget, parents that are
scaled up (`x4`), and parents that were trained for fewer steps than the task's own (`of 100 steps`, with a schedule of their own).
`text` learns the bytes of Python's standard library, `vision` scikit-learn's digits. `minilm` has no labels: its child is to find the
sentences of a batch alike as its parent does (KL between the softmaxes of cosines / 0.05, see
[sentences.py](convergence/sentences.py)), so that a loss of 0 is the parent.
"""


_EVERY = (*ARMS, *ABLATIONS, *(arm + DISTILLED for arm in ARMS))


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


def write(output: Path, results: Results, short: bool = False) -> None:
    """The page and the plots, of all that has been run."""
    text = INTRODUCTION + "".join(f"\n{told}\n" for told in _absent(results))
    for variant in variants_of(results):
        grid = grid_for(variant, short)
        lines = lines_of(variant, grid, results)
        if lines:
            plot(output / _plot_of(variant), variant, grid, results, [line.arm for line in lines if line.arm in ARMS])
            text += "\n".join([*section(variant, grid, results, lines), *lengths(variant, grid, results)]) + "\n"
    (output / "CONVERGENCE.md").write_text(text)


def variants_of(results: Results) -> list[Variant]:
    """Those of which there are runs, tasks and sizes in their order."""
    found = {Variant.read(key.split(" | ")[0]) for key in results}
    return sorted(
        found,
        key=lambda each: (list(RACES).index(each.task), each.scale or 0, each.device, each.trained or 0, SIZES.index(each.size)),
    )


def _absent(results: Results) -> Iterator[str]:
    """Tasks of which there is no run: why not."""
    run = {each.task for each in variants_of(results)}
    for name, race in RACES.items():
        if name not in run:
            why = (
                "has not been run"
                if race.folder() is not None
                else f"needs its parent, which is not installed here ({race.install})"
            )
            yield f"The task `{name}` {why}."


def _plot_of(variant: Variant) -> str:
    return f"convergence-{str(variant).replace(' ', '-')}.png"


def lines_of(variant: Variant, grid: Grid, results: Results) -> list[Line]:
    goal = _mean(_ends(grid.curves(results, variant, "random", grid.budgets[-1])))
    return [line for arm in _EVERY if (line := _line(variant, arm, grid, results, goal)) is not None]


def _line(variant: Variant, arm: str, grid: Grid, results: Results, goal: float | None) -> Line | None:
    curves = {steps: grid.curves(results, variant, arm, steps) for steps in grid.budgets}
    ends = {steps: _ends(found) for steps, found in curves.items() if found}
    if not ends:
        return None
    longest, found = max(ends), curves[max(ends)]
    tuned = [run for steps in grid.tuned_at if (run := grid.tuned(results, variant, arm, steps)) is not None]
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


def section(variant: Variant, grid: Grid, results: Results, lines: Sequence[Line]) -> Iterator[str]:
    race = RACES[variant.task]
    longest = grid.budgets[-1]
    quickest = _quickest(variant, grid, results, longest)
    children = ", ".join(f"{name} {value}" for name, value in variant.child.items())
    yield f"\n## {variant}\n"
    times = f" × {variant.scale}" if variant.scale is not None else ""
    own = [each["parent"] for line in lines for each in grid.curves(results, variant, line.arm, longest) if "parent" in each]
    ends = f" (its loss: {round(own[0], 3) + 0.0:.3f})" if own else ""  # no -0.000
    steps = f" after {variant.trained} steps of training" if variant.trained is not None else ""
    like = children or "as its parent"
    yield f"Parent: `{race.parent}`{times}{steps}{ends}; child: {lines[0].parameters:,} parameters ({like}); {race.unit}.\n"
    yield f"![loss over steps]({_plot_of(variant)})\n"
    budgets, at = (" | ".join(map(str, grid.budgets)), " / ".join(map(str, grid.tuned_at)))
    yield f"| arm | before | {budgets} | sooner: own budget | same schedule | rate at {at}, decay | begun in |"
    yield "|---|" + "---|" * (len(grid.budgets) + 5)
    for line in lines:
        cells = [_spread(line.ends[steps]) if steps in line.ends else "" for steps in grid.budgets]
        yield (
            f"| {line.arm} | {line.before:.2f} | {' | '.join(cells)} | {_times(longest, line.own, min(grid.budgets))} "
            f"| {_times(longest, line.same, 0)} | {line.rates} | {line.made:.1f} s ({line.made / quickest:.0%}) |"
        )
    whole = {line.arm for line in lines if all(len(line.ends.get(steps, ())) == len(grid.seeds) for steps in grid.budgets)}
    if missing := [arm for arm in offered(variant) if arm not in whole]:
        yield f"\nNot run yet, or not at all budgets with all seeds: {'; '.join(missing)}."
    failed = sorted(
        {
            (run.split(" | ")[1], result["error"])
            for run, result in results.items()
            if run.startswith(f"{variant} | ") and "error" in result
        }
    )
    yield from (f"\n{arm}: {error}" for arm, error in failed)


def lengths(variant: Variant, grid: Grid, results: Results) -> Iterator[str]:
    """What the length of the training that is replaced changes, once there is a longer one than the grid's."""
    budgets = [*grid.budgets, grid.longer]
    replaced = {steps: grid.curves(results, variant, "random", steps) for steps in budgets[-3:]}
    if not replaced[grid.longer]:
        return
    quickest = {steps: _quickest(variant, grid, results, steps) for steps in replaced}
    yield f"\nThe longer the training that is replaced (of {grid.longer} steps: rates tuned anew):\n"
    yield f"| arm | {' | '.join(f'{steps} steps' for steps in replaced)} | at {grid.longer}: loss | rate |"
    yield "|---|" + "---|" * (len(replaced) + 2)
    for arm in FEW:
        curves = {steps: found for steps in budgets if (found := grid.curves(results, variant, arm, steps))}
        tuned = grid.tuned(results, variant, arm, grid.longer)
        if curves:
            ends = {steps: _ends(found) for steps, found in curves.items()}
            made = statistics.median(each["made_in"] for found in curves.values() for each in found)
            cells = [_replaced(steps, ends, made / quickest[steps], found) if found else "" for steps, found in replaced.items()]
            longer = f"{_spread(ends[grid.longer])} | {tuned.lr:g}" if tuned is not None and grid.longer in ends else "not run |"
            yield f"| {arm} | {' | '.join(cells)} | {longer} |"


def _quickest(variant: Variant, grid: Grid, results: Results, steps: int) -> float:
    """The seconds of the shortest training of so many steps. Children are of one size, and a machine is not as quick every day: the least
    flatters no beginning. Infinite where there is none."""
    curves = (grid.curves(results, variant, arm, steps) for arm in _EVERY)
    return min((each["seconds"] for found in curves for each in found), default=math.inf)


def _replaced(steps: int, ends: Mapping[int, Sequence[float]], share: float, random: Sequence[Mapping[str, Any]]) -> str:
    return f"{_times(steps, reaching(ends, statistics.fmean(_ends(random))), min(ends))}, begun in {share:.1%}"


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


def plot(path: Path, variant: Variant, grid: Grid, results: Results, arms: Sequence[str]) -> None:
    """The curves of the longest runs, and the ends of all budgets; bands are a standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True, layout="constrained")
    for arm in arms:
        curves = grid.curves(results, variant, arm, grid.budgets[-1])
        if curves:
            means = _means(curves)
            spread = [
                statistics.stdev(losses) if len(losses) > 1 else 0
                for losses in zip(*(each["loss"] for each in curves), strict=True)
            ]
            (drawn,) = left.plot(curves[0]["steps"], means, label=arm)
            low, high = ([mean + sign * sd for mean, sd in zip(means, spread, strict=True)] for sign in (-1, 1))
            left.fill_between(curves[0]["steps"], low, high, alpha=0.2, color=drawn.get_color())
        ends = {steps: _ends(grid.curves(results, variant, arm, steps)) for steps in grid.budgets}
        found = {steps: each for steps, each in ends.items() if each}
        errors = [statistics.stdev(each) if len(each) > 1 else 0 for each in found.values()]
        right.errorbar(list(found), [statistics.fmean(each) for each in found.values()], errors, marker="o", label=arm)
    left.set(xlabel="step of the longest run", ylabel=f"held-out loss, {RACES[variant.task].unit}")
    right.set(xlabel="steps of a run with a schedule of its own", xscale="log")
    right.legend(fontsize="small")
    highest = [each["loss"][0] for each in grid.curves(results, variant, "random", grid.budgets[-1])]
    if highest:
        left.set_ylim(top=max(highest) * 1.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)
