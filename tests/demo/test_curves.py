"""How much sooner one curve comes to where another ends: the figure that the demo is told by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphclone.demo.curves import Curve, Score, SpeedUp, first_reaching, smooth, speed_up

losses = st.lists(st.floats(0.01, 10), min_size=1, max_size=12)


def curve(*values: float, every: int = 10) -> Curve:
    return Curve(tuple(range(0, every * len(values), every)), tuple(Score(value, 0.5) for value in values))


def test_a_curve_that_falls_four_times_as_fast_gets_there_in_four_times_fewer_steps() -> None:
    twin = curve(*(5 - 0.01 * step for step in range(0, 401, 10)))
    clone = curve(*(5 - 0.04 * step for step in range(0, 101, 10)), *[1.0] * 30)
    # the clone bends at its goal, where smoothing makes it late; never early
    assert speed_up(clone, twin).times == pytest.approx(4, abs=0.5)
    assert speed_up(clone, twin).clone_step >= 100  # type: ignore[operator]


def test_a_straight_line_is_read_between_two_evaluations() -> None:
    assert first_reaching([0, 10, 20], [3.0, 2.0, 1.0], 1.25) == pytest.approx(17.5)


def test_reaching_is_the_first_time_even_if_the_loss_rises_again() -> None:
    assert first_reaching([0, 10, 20, 30], [3.0, 1.0, 2.0, 0.5], 1.0) == 10


def test_a_goal_that_is_never_reached_has_no_step() -> None:
    assert first_reaching([0, 10], [3.0, 2.0], 1.0) is None


def test_a_curve_that_starts_at_the_goal_has_reached_it_at_its_first_step() -> None:
    assert first_reaching([0, 10], [1.0, 2.0], 1.0) == 0
    assert first_reaching([5], [1.0], 1.0) == 5


@given(losses)
def test_smoothing_keeps_both_ends_the_length_and_the_bounds(values: list[float]) -> None:
    smoothed = smooth(values)
    assert len(smoothed) == len(values)
    assert (smoothed[0], smoothed[-1]) == (values[0], values[-1])
    assert min(values) - 1e-9 <= min(smoothed)
    assert max(smoothed) <= max(values) + 1e-9


def test_smoothing_leaves_a_straight_line_as_it_is() -> None:
    assert smooth([4.0, 3.0, 2.0, 1.0]) == pytest.approx((4.0, 3.0, 2.0, 1.0))


def test_smoothing_is_late_on_a_curve_that_flattens_out() -> None:
    values = [2.0**-i for i in range(9)]
    assert all(after >= before for before, after in zip(values, smooth(values), strict=True))


def test_one_lucky_evaluation_of_the_clone_does_not_count_in_full() -> None:
    twin = curve(5.0, 4.0, 3.0, 2.0, 2.0, 2.0)
    lucky = speed_up(curve(5.0, 2.0, 5.0, 4.0, 3.0, 2.0), twin)
    assert lucky.clone_step is not None
    assert lucky.clone_step > 10


@given(losses)
def test_a_curve_is_no_faster_than_itself(values: list[float]) -> None:
    found = speed_up(curve(*values), curve(*values))
    assert found.times in (1.0, None)
    assert found.clone_step == found.twin_step


def test_a_twin_that_was_at_its_final_loss_earlier_gets_the_credit_for_it() -> None:
    twin = curve(5.0, 4.0, 1.0, 1.0, 1.0, 1.0)
    assert speed_up(twin, twin).twin_step < 50


def test_a_clone_that_never_gets_there_is_told_as_such() -> None:
    found = speed_up(curve(5.0, 4.0, 3.0), curve(5.0, 4.0, 2.0))
    assert found.times is None
    assert str(found) == "the clone never reached the twin's final loss (2.000)"


def test_a_clone_that_is_there_before_training_has_no_number_of_times() -> None:
    found = speed_up(curve(1.0, 1.0), curve(5.0, 2.0))
    assert found.times is None
    assert str(found) == "the clone was at the twin's final loss (2.000) before its first step"


def test_the_sentence_says_how_many_times_fewer_steps_and_both_steps() -> None:
    assert (
        str(SpeedUp(1.75, 400, 100)) == "the clone reached the twin's final loss in 4.0× fewer steps (1.750: 100 steps, not 400)"
    )
