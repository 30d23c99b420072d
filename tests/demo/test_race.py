"""A race is fair: the same batches in the same order, the same schedule, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from graphclone.demo.curves import Score
from graphclone.demo.race import Watch, evaluate, race
from graphclone.demo.task import Batch
from graphclone.training import warm_up_then_cosine


class Guess(nn.Module):
    """A linear classifier that remembers what it was shown in training."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(5, 3)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> SimpleNamespace:
        if self.training:
            self.shown.append(x)
        return SimpleNamespace(logits=self.linear(x))


def batches(seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(7, 5, generator=generator)
        yield Batch({"x": x}, x[:, :3].argmax(1))


def test_all_are_trained_on_the_same_batches_in_the_same_order() -> None:
    models = {"a": Guess(0), "b": Guess(1)}
    race(models, batches(0), [next(batches(9))], lr=0.1, steps=6, every=3)
    assert len(models["a"].shown) == 6
    assert all(torch.equal(x, y) for x, y in zip(models["a"].shown, models["b"].shown, strict=True))


def test_twins_with_the_same_start_end_alike_and_learn() -> None:
    curves = race({"a": Guess(0), "b": Guess(0)}, batches(0), [next(batches(9))], lr=0.1, steps=40, every=10)
    assert curves["a"] == curves["b"]
    assert curves["a"].end.loss < curves["a"].losses[0]


def test_evaluations_are_before_the_first_step_at_every_mark_and_after_the_last() -> None:
    curve = race({"a": Guess(0)}, batches(0), [next(batches(9))], lr=0.1, steps=7, every=3)["a"]
    assert curve.steps == (0, 3, 6, 7)
    assert curve.scores[0] == evaluate(Guess(0), [next(batches(9))])


def test_a_watch_hears_of_every_step_and_every_score() -> None:
    heard: list[tuple[str, int]] = []

    class Ear(Watch):
        def step(self, name: str, step: int, loss: float) -> None:
            heard.append(("step", step))

        def score(self, name: str, step: int, score: Score) -> None:
            heard.append(("score", step))

    race({"a": Guess(0)}, batches(0), [next(batches(9))], lr=0.1, steps=2, every=2, watch=Ear())
    assert heard == [("score", 0), ("step", 1), ("step", 2), ("score", 2)]


def test_a_score_is_a_mean_over_targets_not_over_batches() -> None:
    large, small = next(batches(1)), next(batches(2))
    small = Batch({"x": small.inputs["x"][:2]}, small.targets[:2])
    model = Guess(0)
    one, two, both = (evaluate(model, each) for each in ([large], [small], [large, small]))
    assert both.loss == pytest.approx((7 * one.loss + 2 * two.loss) / 9)
    assert both.right == pytest.approx((7 * one.right + 2 * two.right) / 9)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_fiftieth() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    schedule, rates = warm_up_then_cosine(optimizer, 100, warm_up=10), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.005)
    assert rates.index(max(rates)) == 10
    assert max(rates) == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
