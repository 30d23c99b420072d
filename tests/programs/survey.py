"""Draw many programs, ask the oracles, count."""

from __future__ import annotations

import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import torch

from graphclone import axes as algebra
from graphclone.layout import Layout
from graphclone.rules import name_of
from tests.programs.generate import generate
from tests.programs.minimise import minimise
from tests.programs.opened import judge_open
from tests.programs.oracles import Outcome, judge
from tests.programs.program import Program

PORTION = 50


@dataclass
class Tally:
    """What was counted over some programs."""

    counts: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.ops += other.ops
        self.faults += other.faults


def asks(name: str, opened: bool) -> Callable[[Program], Outcome]:
    """Who judges the program of this name: with its sizes as they are, or with open ones."""
    return (lambda program: judge_open(program, Random(name))) if opened else judge


def portion(job: tuple[int, int, int, bool]) -> Tally:
    """The programs from `first` to `last` of a seed; program n of a seed is the same wherever it is drawn."""
    seed, first, last, opened = job
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tally = Tally()
    for number in range(first, last):
        name = f"{seed}/{number}"
        program, ask = generate(Random(name), opened=opened), asks(name, opened)
        tally.ops.update({name_of(node.target) for node in program.calls})
        outcome = ask(program)
        tally.counts.update({"programs": 1, "calls": len(program.calls), "two sizes": outcome.sizes == 2})
        tally.counts.update({"unstable": outcome.unstable, "rounding": outcome.rounding})
        if outcome.layout is not None:
            tally.counts.update(freedom(outcome.layout))
        if outcome.fault:
            kind = outcome.fault.split()[0]
            tally.counts[kind] += 1
            small = minimise(program, ask)
            again = ask(small)
            tally.faults.append((kind, f"program {name}: {again.crash or '; '.join(again.wrong)}", small.source()))
    return tally


def freedom(layout: Layout) -> Counter[str]:
    """How many factors are free, and how many elements of parameters lie on a free axis."""
    inside = [factor for factor in layout.factors if factor.slots]
    counted = Counter({"factors": len(inside), "free factors": sum(factor.frozen is None for factor in inside)})
    for name in layout.trace.parameters:
        elements, fixed = 1, 1
        for axis in layout.axes(name):
            free = [f for f in dict.fromkeys(algebra.factors(axis)) if f.frozen is None]
            held = [algebra.labels(axis, factor) for factor in free]
            elements *= axis.size
            fixed *= sum(all(labels[i] < 0 for labels in held) for i in range(axis.size))
        counted += Counter({"elements": elements, "free elements": elements - fixed})
    return counted


def survey(count: int, seed: int, jobs: int, opened: bool = False) -> Iterator[Tally]:
    work = [(seed, first, min(first + PORTION, count), opened) for first in range(0, count, PORTION)]
    if jobs == 1:
        yield from map(portion, work)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(portion, work)
