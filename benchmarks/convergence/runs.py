"""One run: a child, made in one of the ways, trained on one budget."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from benchmarks.convergence.ablations import ABLATIONS, EVERY
from benchmarks.convergence.arms import ARMS, Subject
from benchmarks.convergence.races import RACES, Loss, Variant, opened
from graphclone.demo.task import Batch
from graphclone.training import Learner, curve, held_out_loss

DISTILLED = " + distillation"
FEW = ("random", "paper", "full")


def offered(variant: Variant) -> tuple[str, ...]:
    """The arms that are run unless others are asked for. Where the loss is agreement with the parent, a distillation is no other arm."""
    distilled = tuple(arm + DISTILLED for arm in ARMS if RACES[variant.task].labelled)
    return (*ARMS, *ABLATIONS, *distilled) if variant.plain else FEW


@dataclass(frozen=True)
class Run:
    """What is trained how: `arm`, for `steps` steps at peak rate `lr` with weight decay `decay`."""

    variant: Variant
    arm: str
    steps: int
    lr: float
    decay: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.variant} | {self.arm} | {self.steps} steps | lr {self.lr:g} | decay {self.decay:g} | seed {self.seed}"


@cache
def beginning(variant: Variant, arm: str, seed: int, folder: Path | None) -> tuple[nn.Module, float]:
    """The child before training, and the seconds that it took to make it: capture, analysis and calibration are no other arm's."""
    alone = Subject(variant, *opened(variant, folder), seed)
    start = _now(variant)
    return EVERY[arm](alone), _now(variant) - start


def trained(run: Run, folder: Path | None = None) -> dict[str, Any]:
    """The held-out loss at some steps, as plain data. `folder`: of a parent that is not the task's own."""
    parent, data = opened(run.variant, folder)
    first, made = beginning(run.variant, run.arm.removesuffix(DISTILLED), run.seed, folder)
    child, start = copy.deepcopy(first), _now(run.variant)
    loss = RACES[run.variant.task].loss
    of_labels = partial(_loss, loss=loss, parent=None)
    to_learn = partial(_loss, loss=loss, parent=parent.module) if run.arm.endswith(DISTILLED) else of_labels
    learner = Learner[Batch](child, to_learn, lr=run.lr, steps=run.steps, decay=run.decay)
    look = partial(held_out_loss, child, of_labels, data.held_out)
    found = dict(curve(learner, data.train(run.seed), run.steps, max(run.steps // 20, 5), look))
    return {
        "steps": list(found),
        "loss": [round(loss, 5) for loss in found.values()],
        "parameters": sum(each.numel() for each in child.parameters()),
        "parent": round(_of_parent(run.variant, folder), 5),
        "made_in": round(made, 2),
        "seconds": round(_now(run.variant) - start, 2),
    }


@cache
def _of_parent(variant: Variant, folder: Path | None) -> float:
    """The held-out loss of the parent itself."""
    parent, data = opened(variant, folder)
    return held_out_loss(parent.module, partial(_loss, loss=RACES[variant.task].loss, parent=None), data.held_out)


def _now(variant: Variant) -> float:
    """The time at which a device has done what it was given."""
    if torch.device(variant.device).type == "cuda":
        torch.cuda.synchronize(variant.device)
    return time.perf_counter()


def _loss(child: nn.Module, batch: Batch, *, loss: Loss, parent: nn.Module | None) -> Tensor:
    """The task's; with a parent, half of it that of the parent's probabilities."""
    outputs = child(**batch.inputs)
    own = loss(outputs, batch)
    if parent is None:
        return own
    with torch.no_grad():
        taught = parent(**batch.inputs).logits.flatten(0, -2)
    learnt = kl_div(
        log_softmax(outputs.logits.flatten(0, -2), -1), log_softmax(taught, -1), log_target=True, reduction="batchmean"
    )
    return (own + learnt) / 2


def best(results: Mapping[str, Mapping[str, Any]], runs: Iterable[Run]) -> Run | None:
    """The run that ends lowest, of those that have been done."""
    done = [run for run in runs if "loss" in results.get(run.key, {})]
    return min(done, key=lambda run: results[run.key]["loss"][-1], default=None)
