"""Which runs there are: the rate and the decay are tuned for each arm on the first seed, the others repeat the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.convergence.races import Variant
from benchmarks.convergence.runs import Run, best

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Grid:
    """`budgets`, in steps, each with a schedule of its own. `tuned_at`: at which of them the rate is tuned; others have the rate of the
    nearest of these that is no shorter. The decay is tuned at the longest.

    `longer`: a budget beyond, in steps, for few arms: its rate is the best of half, once and twice that of the longest.
    """

    budgets: tuple[int, ...]
    tuned_at: tuple[int, ...]
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    longer: int = 1600

    def next(self, results: Results, variant: Variant, arm: str) -> list[Run]:
        """The runs of an arm that can be done now and have not been: some wait for the rate that others find."""
        return [run for run in self._known(results, variant, arm) if run.key not in results]

    def next_longer(self, results: Results, variant: Variant, arm: str) -> list[Run]:
        """The same of the longer budget, which waits for the rate of the longest."""
        tuned = self.tuned(results, variant, arm, self.longer)
        known = [*self._longer(results, variant, arm), *(replace(tuned, seed=seed) for seed in self.seeds if tuned)]
        return [run for run in known if run.key not in results]

    def _known(self, results: Results, variant: Variant, arm: str) -> Iterator[Run]:
        first = self.seeds[0]
        for steps in self.tuned_at:
            yield from self._rates(variant, arm, steps)
        longest = self._settled(results, self._rates(variant, arm, self.tuned_at[-1]))
        if longest is None:
            return
        yield from (replace(longest, decay=decay) for decay in self.decays)
        for steps in self.budgets:
            tuned = self.tuned(results, variant, arm, steps)
            if tuned is not None:
                yield from (replace(tuned, seed=seed) for seed in (first, *self.seeds[1:]))

    def tuned(self, results: Results, variant: Variant, arm: str, steps: int) -> Run | None:
        """The run of the first seed with the best rate and decay, once these are known."""
        if steps == self.longer:
            runs = self._longer(results, variant, arm)
            return self._settled(results, runs) if runs else None
        at = min((each for each in self.tuned_at if each >= steps), default=self.tuned_at[-1])
        rate = self._settled(results, self._rates(variant, arm, at))
        longest = self._settled(results, self._rates(variant, arm, self.tuned_at[-1]))
        decay = longest and self._settled(results, [replace(longest, decay=each) for each in self.decays])
        return replace(rate, decay=decay.decay, steps=steps) if rate and decay else None

    def _rates(self, variant: Variant, arm: str, steps: int) -> list[Run]:
        return [Run(variant, arm, steps, rate, self.decays[0], self.seeds[0]) for rate in self.rates]

    def _longer(self, results: Results, variant: Variant, arm: str) -> list[Run]:
        longest = self.tuned(results, variant, arm, self.budgets[-1])
        return [replace(longest, steps=self.longer, lr=longest.lr * by) for by in (0.5, 1, 2)] if longest else []

    @staticmethod
    def _settled(results: Results, runs: Sequence[Run]) -> Run | None:
        return best(results, runs) if all(run.key in results for run in runs) else None

    def curves(self, results: Results, variant: Variant, arm: str, steps: int) -> list[Mapping[str, Any]]:
        """The tuned runs of one budget, one for each seed that has been done."""
        run = self.tuned(results, variant, arm, steps)
        found = [results.get(replace(run, seed=seed).key) for seed in self.seeds] if run else []
        return [each for each in found if each is not None and "loss" in each]


GRIDS = {
    "text": Grid((12, 25, 50, 100, 200, 400), (50, 400), (7e-4, 1.4e-3, 2.8e-3, 5.6e-3, 1.12e-2), (0.1, 0.01), (0, 1, 2)),
    "vision": Grid((12, 25, 50, 100, 200, 400), (50, 400), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), (0.1, 0.01), (0, 1, 2)),
    "minilm": Grid((25, 100, 400), (100, 400), (2.5e-4, 5e-4, 1e-3, 2e-3), (0.1, 0.01), (0, 1, 2)),  # its steps are dear
}
RATES = {  # of other sizes, scales and parents
    "text": (2.8e-3, 5.6e-3, 1.12e-2),
    "vision": (2e-3, 4e-3, 8e-3),
    "minilm": (2.5e-4, 5e-4, 1e-3),
}
RATES_OF_LARGE = {  # of children no smaller than their parent: one that is hardly changed wants low ones
    "text": (3.5e-4, 1.4e-3, 5.6e-3),
    "vision": (2.5e-4, 1e-3, 4e-3),
}


def grid_for(variant: Variant, short: bool = False) -> Grid:
    """A task's own; a cheaper one for its other sizes, scales and parents. `short`: all of it in a few steps, for tests."""
    grid = GRIDS[variant.task]
    if not variant.plain:
        table = RATES_OF_LARGE if variant.size in ("same", "deeper") else RATES
        rates = tuple(rate / (variant.scale or 1) for rate in table[variant.task])
        grid = replace(grid, budgets=(25, 100, 400), tuned_at=(100, 400), rates=rates, decays=grid.decays[:1])
    return Grid((2, 4), (4,), grid.rates[:2], grid.decays, grid.seeds[:2], longer=6) if short else grid
