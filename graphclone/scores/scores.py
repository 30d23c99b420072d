"""Scores, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphclone.errors import WeightsError


@dataclass(frozen=True)
class Scores:
    """The importance of each unit of a factor, and of each block of a stack (any scale; more is kept first).

    - `units`: factor name → one number per unit. What is missing is kept at even distances.
    - `blocks`: stack name → one number per block. Of what is missing the middle blocks are dropped.

    **Raises** `WeightsError` where a score is no number.
    """

    units: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    blocks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (*self.units.items(), *self.blocks.items()):
            if any(value != value for value in values):
                raise WeightsError(f"the scores of '{name}' are not all numbers: NaN among them has no place in a ranking")

    def __or__(self, other: Scores) -> Scores:
        """Both; the other's where both say something."""
        return Scores({**self.units, **other.units}, {**self.blocks, **other.blocks})
