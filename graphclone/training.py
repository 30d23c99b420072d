"""Training, as far as children are compared by it: one optimizer, one schedule, a loss on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

B = TypeVar("B")
Loss = Callable[[nn.Module, B], Tensor]  # a model and a batch → a scalar


class Learner(Generic[B]):
    """A model with its optimizer and schedule: AdamW (β 0.9 and 0.95, gradients clipped to norm 1), a tenth of the steps warm-up, then
    a cosine.

    **Arguments**: `lr`, the peak; `decay`, of the weights; `steps`, how many there will be.
    """

    def __init__(self, model: nn.Module, loss: Loss[B], *, lr: float, steps: int, decay: float = 0.1) -> None:
        self.model, self.loss = model, loss
        self.optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=decay)
        self.schedule = warm_up_then_cosine(self.optimizer, steps, warm_up=max(steps // 10, 1))

    def learn(self, batch: B) -> float:
        """One step, in train mode; the loss before it."""
        self.model.train()
        loss = self.loss(self.model, batch)
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
    fall = CosineAnnealingLR(optimizer, max(steps - warm_up, 1), eta_min=peak / 50)
    return SequentialLR(optimizer, [rise, fall], [warm_up])


def curve(
    learner: Learner[B], batches: Iterable[B], steps: int, every: int, look: Callable[[], float]
) -> Iterator[tuple[int, float]]:
    """Train, and look now and then: before the first step, after every `every` and after the last, each with its step."""
    yield 0, look()
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        learner.learn(batch)
        if step % every == 0 or step == steps:
            yield step, look()


@torch.no_grad()
def held_out_loss(model: nn.Module, loss: Loss[B], batches: Iterable[B]) -> float:
    """The mean over batches, in eval mode."""
    model.eval()
    found = [float(loss(model, batch)) for batch in batches]
    return sum(found) / len(found)
