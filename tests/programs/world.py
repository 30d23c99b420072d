"""What a program has while it is being drawn: its values, its parameters, its inputs, and the calls that were recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tests.rules.refuter import _Recorder

T = TypeVar("T")
MOST_ELEMENTS = 3000
MOST_DIMS = 5


class Unfit(Exception):
    """Raised by a move that cannot be made from here."""


Move = Callable[["World", Tensor], "Tensor | Sequence[Tensor]"]


@dataclass(frozen=True)
class Entry:
    """A move, how often it is tried, and what it is tried on: `float` or `integer` values, or `any`."""

    move: Move
    weight: float
    takes: str


MOVES: list[Entry] = []


def move(weight: float = 1.0, takes: str = "float") -> Callable[[Move], Move]:
    """Register a move: from a value (and whatever else the world has) to new ones."""

    def register(function: Move) -> Move:
        MOVES.append(Entry(function, weight, takes))
        return function

    return register


class World:
    """Values are float64, so that a wrong equivalence stands out from rounding; sizes are a few small numbers, products and sums."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.numbers = np.random.default_rng(rng.getrandbits(32))
        self.recorder = _Recorder()
        self.values: list[Tensor] = []
        self.given: dict[str, Tensor] = {}
        self.bounds: dict[int, int] = {}
        primes = rng.sample((2, 3, 4, 5, 7), 3)
        self.sizes = (*primes, primes[0] * primes[1], primes[0] + primes[2], 2 * primes[1])

    def fits(self, *sizes: int) -> None:
        """**Raises** `Unfit` if a value of these sizes would be large."""
        if math.prod(sizes) > MOST_ELEMENTS:
            raise Unfit

    # -- choosing ------------------------------------------------------------------------------------------------------

    def size(self) -> int:
        return self.rng.choice(self.sizes)

    def coin(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def pick(self, options: Sequence[T]) -> T:
        """One of these. **Raises** `Unfit` if there are none."""
        if not options:
            raise Unfit
        return self.rng.choice(list(options))

    def dim(self, x: Tensor, least: int = 1) -> int:
        """A dim of at least so many positions."""
        return self.pick([dim for dim, size in enumerate(x.shape) if size >= least])

    def dims(self, x: Tensor) -> list[int]:
        """Some of its dims, in order."""
        return sorted(self.rng.sample(range(x.dim()), self.rng.randint(1, x.dim()))) if x.dim() else self.pick([])

    def value(self, takes: str = "float") -> Tensor:
        """One of the values so far, more often a late one."""
        fit = [each for each in self.values if takes == "any" or (takes == "float") == each.is_floating_point()]
        if takes == "integer":
            fit = [each for each in fit if each.dtype == torch.int64]
        return fit[-1] if fit and self.coin() else self.pick(fit)

    def like(self, *sizes: int | None) -> Tensor:
        """Another float value of this shape (None: any size), or a new parameter of it."""
        fit = [
            each
            for each in self.values
            if each.is_floating_point()
            and each.dim() == len(sizes)
            and all(a in (None, b) for a, b in zip(sizes, each.shape, strict=True))
        ]
        return self.rng.choice(fit) if fit and self.coin(0.6) else self.parameter(*(size or self.size() for size in sizes))

    # -- what is given -------------------------------------------------------------------------------------------------

    def _give(self, kind: str, values: Any) -> Tensor:
        """**Raises** `Unfit` if it would be large."""
        tensor = torch.from_numpy(np.asarray(values))
        self.fits(*tensor.shape)
        self.given[f"{kind}{sum(name.startswith(kind) for name in self.given)}"] = tensor
        self.recorder.nodes.pop(id(tensor), None)  # from_numpy "lifts" what it makes, and that was recorded
        self.recorder.node(tensor)
        return tensor

    def parameter(self, *shape: int) -> Tensor:
        return self._give("w", self.numbers.normal(size=shape))

    def input(self, *shape: int) -> Tensor:
        return self._give("x", self.numbers.normal(size=shape))

    def integers(self, bound: int, *shape: int) -> Tensor:
        """Integers below a bound, of unknown meaning: an input, or a constant of the model."""
        made = self._give(self.rng.choice("xb"), self.numbers.integers(bound, size=shape))
        self.bounds[id(made)] = bound
        return made

    def constant(self, *shape: int) -> Tensor:
        return self._give("b", self.numbers.normal(size=shape))

    def positive(self, *shape: int) -> Tensor:
        return self._give("b", self.numbers.uniform(0.5, 1.5, size=shape))

    def bound(self, x: Tensor) -> int:
        """What the integers of a value are below: as its maker said, or as they are now."""
        return self.bounds.get(id(x)) or int(x.max()) + 1 if x.numel() else 1

    def bounded(self, x: Tensor, bound: int) -> Tensor:
        if bound > 100:
            raise Unfit
        self.bounds[id(x)] = bound
        return x

    def joined(self, parts: Sequence[Tensor], made: Tensor) -> Tensor:
        """What holds the integers of several."""
        return self.bounded(made, max(map(self.bound, parts))) if made.dtype == torch.int64 else made

    def bequeath(self, x: Tensor, made: Tensor) -> None:
        """What was made of integers has their bound, unless the move knew better."""
        if x.dtype == made.dtype == torch.int64 and id(made) not in self.bounds and made.numel():
            self.bounds[id(made)] = max(self.bound(x), int(made.max()) + 1)

    def recording(self) -> AbstractContextManager[object]:
        return self.recorder
