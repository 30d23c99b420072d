"""Two models trained side by side on the same batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graphclone.demo.curves import Curve, Score
from graphclone.demo.task import Batch
from graphclone.training import Learner


class Watch:
    """Who hears of a race while it is run; this one does not listen."""

    def step(self, name: str, step: int, loss: float) -> None:
        """A model took a step, on a batch of this loss."""

    def score(self, name: str, step: int, score: Score) -> None:
        """A model was evaluated."""


def race(
    models: Mapping[str, nn.Module],
    batches: Iterator[Batch],
    held_out: Sequence[Batch],
    *,
    lr: float,
    steps: int,
    every: int,
    watch: Watch | None = None,
) -> dict[str, Curve]:
    """Train every model on the same batches in the same order, with the same optimizer, schedule and learning rate.

    All are evaluated on `held_out` before the first step, every `every` steps and after the last. They are left in eval mode.

    Each model has a thread of its own, which is faster than sharing the cores of every small matrix product, and by far so where
    other programs want these cores as well; the result is the same.
    """
    watch = watch or Watch()
    learners = [Learner(model, _loss, lr=lr, steps=steps) for model in models.values()]
    marks = [step for step in range(steps + 1) if step % every == 0 or step == steps]
    found: dict[str, list[Score]] = {name: [] for name in models}
    with ThreadPoolExecutor(len(learners)) as pool:
        for step in range(steps + 1):
            if step:
                losses = pool.map(Learner.learn, learners, repeat(next(batches)))
                for name, loss in zip(models, losses, strict=True):
                    watch.step(name, step, loss)
            if step in marks:
                for name, score in zip(models, pool.map(evaluate, models.values(), repeat(held_out)), strict=True):
                    found[name].append(score)
                    watch.score(name, step, score)
    return {name: Curve(tuple(marks), tuple(scores)) for name, scores in found.items()}


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """One row for each target."""
    logits: Tensor = model(**batch.inputs).logits
    return logits.flatten(0, -2)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(_logits(model, batch), batch.targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Score:
    """Mean loss, and the share that is right, over all targets."""
    model.eval()
    loss, right, total = 0.0, 0, 0
    for batch in batches:
        logits, count = _logits(model, batch), batch.targets.numel()
        loss += float(cross_entropy(logits, batch.targets.flatten())) * count
        right += int((logits.argmax(-1) == batch.targets.flatten()).sum())
        total += count
    return Score(loss / total, right / total)
