"""One run: a child, made in one of the ways, trained on one budget."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from benchmarks.convergence.arms import EVERY, Subject
from graphclone import sources
from graphclone.demo.race import evaluate
from graphclone.demo.task import Batch, task_named
from graphclone.training import Learner, curve

DISTILLED = " + distillation"


@dataclass(frozen=True)
class Run:
    """What is trained how: `arm`, for `steps` steps at peak rate `lr` with weight decay `decay`."""

    task: str
    arm: str
    steps: int
    lr: float
    decay: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.task} | {self.arm} | {self.steps} steps | lr {self.lr:g} | decay {self.decay:g} | seed {self.seed}"


@cache
def subject(task: str, seed: int) -> Subject:
    it = task_named(task)
    return Subject(it, sources.load(str(it.parent)), it.data(it.held_out), seed)


@cache
def beginning(task: str, arm: str, seed: int) -> tuple[nn.Module, float]:
    """The child before training, and the seconds that it took to make it: capture, analysis and calibration are no other arm's."""
    alone, start = replace(subject(task, seed)), time.perf_counter()
    return EVERY[arm](alone), time.perf_counter() - start


def trained(run: Run) -> dict[str, Any]:
    """The held-out loss at some steps, as plain data."""
    own = subject(run.task, run.seed)
    first, made = beginning(run.task, run.arm.removesuffix(DISTILLED), run.seed)
    child, start = copy.deepcopy(first), time.perf_counter()
    taught = own.parent.module if run.arm.endswith(DISTILLED) else None
    learner = Learner[Batch](child, partial(_loss, parent=taught), lr=run.lr, steps=run.steps, decay=run.decay)
    found = dict(
        curve(
            learner, own.data.train(run.seed), run.steps, max(run.steps // 20, 5), lambda: evaluate(child, own.data.held_out).loss
        )
    )
    return {
        "steps": list(found),
        "loss": [round(loss, 5) for loss in found.values()],
        "parameters": sum(each.numel() for each in child.parameters()),
        "made_in": round(made, 2),
        "seconds": round(time.perf_counter() - start, 2),
    }


def _loss(child: nn.Module, batch: Batch, *, parent: nn.Module | None) -> Tensor:
    """Of the labels; with a parent, half of it that of the parent's probabilities."""
    logits = child(**batch.inputs).logits.flatten(0, -2)
    loss = cross_entropy(logits, batch.targets.flatten())
    if parent is None:
        return loss
    with torch.no_grad():
        taught = parent(**batch.inputs).logits.flatten(0, -2)
    learnt = kl_div(log_softmax(logits, -1), log_softmax(taught, -1), log_target=True, reduction="batchmean")
    return (loss + learnt) / 2


def best(results: Mapping[str, Mapping[str, Any]], runs: Iterable[Run]) -> Run | None:
    """The run that ends lowest, of those that have been done."""
    done = [run for run in runs if "loss" in results.get(run.key, {})]
    return min(done, key=lambda run: results[run.key]["loss"][-1], default=None)
