"""What the demo prints: about a dozen rows, from the first step to the last."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphclone.demo.tables import _spread


@given(st.integers(1, 500), st.integers(2, 20))
def test_the_rows_of_a_table_are_few_and_hold_both_ends(count: int, most: int) -> None:
    rows = _spread(count, most)
    assert rows[0] == 0
    assert rows[-1] == count - 1
    assert len(rows) <= most
    assert all(before < after for before, after in pairwise(rows))


def test_rows_lie_at_round_steps_where_there_are_any() -> None:
    assert _spread(41, 13) == [*range(0, 41, 4)]
