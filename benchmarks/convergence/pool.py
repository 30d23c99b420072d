"""Runs, several at once, each in a process that makes a child but once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.convergence.grid import Grid
from benchmarks.convergence.runs import Run, trained


def done(
    grids: Mapping[str, Grid], arms: Sequence[str], results: Mapping[str, Mapping[str, Any]], jobs: int
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs as they end. The caller adds each to `results`, which says what is next."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
        busy: dict[Future[dict[str, Any]], Run] = {}
        while True:
            ready = (run for task, grid in grids.items() for arm in arms for run in grid.next(results, task, arm))
            for run in ready:
                if len(busy) == jobs:
                    break
                if run not in busy.values():
                    busy[pool.submit(_one, run)] = run
            if not busy:
                return
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                yield busy.pop(future), future.result()


def _begin() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def _one(run: Run) -> dict[str, Any]:
    try:
        return trained(run)
    except Exception as error:  # a rival that cannot is told on the page
        return {"error": f"{type(error).__name__}: {error}"}
