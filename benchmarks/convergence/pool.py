"""Runs, several at once, each in a process that makes a child but once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphclone as gc
from benchmarks.convergence.races import Variant
from benchmarks.convergence.runs import Run, beginning, trained

Child = tuple[Variant, str, int]  # with its arm and seed


def done(ready: Callable[[], Iterable[Run]], jobs: int, folders: Mapping[Variant, Path]) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs as they end. `ready`: those that can be done now, and have not been; `folders`: parents that are not the task's own."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
        busy: dict[Future[dict[str, Any]], Run] = {}
        while True:
            for run in ready():
                if len(busy) == jobs:
                    break
                if run not in busy.values():
                    busy[pool.submit(_one, run, folders.get(run.variant))] = run
            if not busy:
                return
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                yield busy.pop(future), future.result()


def begun(wanted: Iterable[Child], jobs: int) -> Iterator[tuple[Child, float]]:
    """The seconds that children take to be made, as many at once as there are trainings."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
        busy = {pool.submit(_made, *each): each for each in wanted}
        yield from ((busy[future], future.result()) for future in as_completed(busy))


def _begin() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.capture(nn.Linear(1, 1), (torch.ones(1, 1),))  # what torch imports for it, once in a process, is no part of a child's time


def _one(run: Run, folder: Path | None) -> dict[str, Any]:
    try:
        return trained(run, folder)
    except Exception as error:  # a rival that cannot is told on the page
        return {"error": f"{type(error).__name__}: {error}"}


def _made(variant: Variant, arm: str, seed: int) -> float:
    return beginning(variant, arm, seed, None)[1]
