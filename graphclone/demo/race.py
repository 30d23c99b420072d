"""Two models trained side by side on the same batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from graphclone.demo.curves import Curve, Score
from graphclone.demo.task import Batch


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

    AdamW (β 0.9 and 0.95, weight decay 0.1, gradients clipped to norm 1), a tenth of the steps warm-up, then a cosine. All are
    evaluated on `held_out` before the first step, every `every` steps and after the last. They are left in eval mode.

    Each model has a thread of its own, which is faster than sharing the cores of every small matrix product, and by far so where
    other programs want these cores as well; the result is the same.
    """
    watch = watch or Watch()
    runners = [_Runner(model, lr, steps) for model in models.values()]
    marks = [step for step in range(steps + 1) if step % every == 0 or step == steps]
    found: dict[str, list[Score]] = {name: [] for name in models}
    with ThreadPoolExecutor(len(runners)) as pool:
        for step in range(steps + 1):
            if step:
                losses = pool.map(_Runner.learn, runners, repeat(next(batches)))
                for name, loss in zip(models, losses, strict=True):
                    watch.step(name, step, loss)
            if step in marks:
                for name, score in zip(models, pool.map(evaluate, models.values(), repeat(held_out)), strict=True):
                    found[name].append(score)
                    watch.score(name, step, score)
    return {name: Curve(tuple(marks), tuple(scores)) for name, scores in found.items()}


class _Runner:
    """A model with its optimizer and schedule."""

    def __init__(self, model: nn.Module, lr: float, steps: int) -> None:
        self.model = model
        self.optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
        self.schedule = warm_up_then_cosine(self.optimizer, steps, warm_up=max(steps // 10, 1))

    def learn(self, batch: Batch) -> float:
        self.model.train()
        loss = _loss(_logits(self.model, batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return float(loss.detach())


def warm_up_then_cosine(optimizer: Optimizer, steps: int, warm_up: int) -> LRScheduler:
    """From a hundredth of the peak up to it, then down to a fiftieth."""
    (peak,) = {group["lr"] for group in optimizer.param_groups}
    rise = LinearLR(optimizer, 0.01, total_iters=warm_up)
    fall = CosineAnnealingLR(optimizer, steps - warm_up, eta_min=peak / 50)
    return SequentialLR(optimizer, [rise, fall], [warm_up])


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """One row for each target."""
    logits: Tensor = model(**batch.inputs).logits
    return logits.flatten(0, -2)


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(logits, batch.targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Score:
    """Mean loss, and the share that is right, over all targets."""
    model.eval()
    loss, right, total = 0.0, 0, 0
    for batch in batches:
        logits, count = _logits(model, batch), batch.targets.numel()
        loss += float(_loss(logits, batch)) * count
        right += int((logits.argmax(-1) == batch.targets.flatten()).sum())
        total += count
    return Score(loss / total, right / total)
