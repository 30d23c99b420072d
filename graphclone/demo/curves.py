"""Loss curves as data, and how much sooner one comes to where the other ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Held-out `loss` in nats, and the share of targets that were `right`."""

    loss: float
    right: float


@dataclass(frozen=True)
class Curve:
    """Held-out scores of one model after so many steps; the first is before any training."""

    steps: tuple[int, ...]
    scores: tuple[Score, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(score.loss for score in self.scores)

    @property
    def end(self) -> Score:
        return self.scores[-1]


@dataclass(frozen=True)
class SpeedUp:
    """When two curves first come down to `goal`, the loss at which the twin ends; None where the clone never does."""

    goal: float
    twin_step: float
    clone_step: float | None

    @property
    def times(self) -> float | None:
        """How many times fewer steps the clone needed; None if it never got there, or had no need of any."""
        return self.twin_step / self.clone_step if self.clone_step else None

    def __str__(self) -> str:
        if self.clone_step is None:
            return f"the clone never reached the twin's final loss ({self.goal:.3f})"
        if self.times is None:
            return f"the clone was at the twin's final loss ({self.goal:.3f}) before its first step"
        return (
            f"the clone reached the twin's final loss in {self.times:.1f}× fewer steps"
            f" ({self.goal:.3f}: {self.clone_step:.0f} steps, not {self.twin_step:.0f})"
        )


def speed_up(clone: Curve, twin: Curve) -> SpeedUp:
    """Both curves smoothed alike, and read alike: the step, between two evaluations, at which each first falls to the goal."""
    smooth_clone, smooth_twin = smooth(clone.losses), smooth(twin.losses)
    goal = smooth_twin[-1]
    twin_step = first_reaching(twin.steps, smooth_twin, goal)
    return SpeedUp(
        goal, float(twin.steps[-1]) if twin_step is None else twin_step, first_reaching(clone.steps, smooth_clone, goal)
    )


def smooth(values: Sequence[float]) -> tuple[float, ...]:
    """The mean of each value and its neighbours; the ends stay. On a curve that flattens out it errs upwards, so late."""
    middle = (math.fsum(values[i - 1 : i + 2]) / 3 for i in range(1, len(values) - 1))
    return (*values[:1], *middle, *values[max(len(values) - 1, 1) :])


def first_reaching(steps: Sequence[int], losses: Sequence[float], goal: float) -> float | None:
    """The step at which straight lines through the losses first come down to `goal`; None if they never do."""
    if losses[0] <= goal:
        return float(steps[0])
    for i in range(1, len(losses)):
        if losses[i] <= goal:
            return steps[i - 1] + (steps[i] - steps[i - 1]) * (losses[i - 1] - goal) / (losses[i - 1] - losses[i])
    return None
