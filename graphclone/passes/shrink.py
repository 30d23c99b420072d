"""Width: which units of each factor the child keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.errors import FrozenError, SizeError
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.scores.scores import Scores


@dataclass(frozen=True)
class Shrink:
    """Keep the units with the highest scores, in the parent's order; without scores, units at even distances.

    `width`: factor name or pattern → number of units, or a fraction of the parent's. All places that share a factor keep the same
    units (weight subcloning, arXiv 2312.09299, §3.2).

    **Raises** `UnknownNameError`, `FrozenError`, `SizeError`.
    """

    width: Mapping[str, int | float]
    scores: Scores = field(default_factory=Scores)

    def __call__(self, plan: Plan, layout: Layout) -> Plan:
        keep, sources = dict(plan.keep), {piece.source for piece in plan.tensors.values()}
        for pattern, wanted in self.width.items():
            if not isinstance(wanted, (int, float)) or isinstance(wanted, bool) or not math.isfinite(wanted):
                raise SizeError(
                    f"'{pattern}' cannot have {wanted!r} units", attempt="a whole number, or a share such as 0.5 of the parent's"
                )
            for factor in layout.match(pattern):
                size = round(wanted * factor.size) if isinstance(wanted, float) else wanted
                if size != factor.size and any(name in sources for name, _ in factor.slots):
                    self._check(factor, size)
                    keep[factor.name] = self.best(factor, size)
                    if factor.kind == "output":
                        told = f"'{factor.name}' is an output of the model: of its {factor.size} positions the child has {size}"
                        plan = plan.remark(f"{told}, by score or distance, whatever they stand for")
        _check_least(keep, layout)
        return replace(plan, keep=keep)

    def best(self, factor: Factor, size: int) -> tuple[int, ...]:
        values = self.scores.units.get(factor.name)
        if values is None:
            return tuple(index * factor.size // size for index in range(size))
        if len(values) != factor.size or not all(map(math.isfinite, values)):
            raise SizeError(
                f"the scores of '{factor.name}' are no ranking of its {factor.size} units",
                because=f"there are {len(values)} of them" if len(values) != factor.size else "some are infinite",
                attempt="scores of this parent",
            )
        return tuple(sorted(sorted(range(factor.size), key=lambda unit: -values[unit])[:size]))

    def _check(self, factor: Factor, size: int) -> None:
        if factor.frozen is not None:
            raise FrozenError(
                f"cannot shrink '{factor.name}' ({factor.size}) to {size}: it is frozen",
                because=str(factor.frozen),
                attempt="leaving this factor out; `graphclone inspect PARENT --why "
                f"{factor.name}` lists every place",
            )
        if not 0 < size <= factor.size:
            raise SizeError(
                f"'{factor.name}' has {factor.size} units in the parent; a child cannot keep {size} of them",
                attempt=f"from 1 to {factor.size} as a whole number, or a share above 0 and up to 1.0",
            )


def _check_least(keep: Mapping[str, tuple[int, ...]], layout: Layout) -> None:
    chosen = {layout[name]: kept for name, kept in keep.items()}
    for axis, count, reason in layout.least:
        if (size := algebra.size(axis, chosen)) < count <= axis.size:
            names = ", ".join(f"'{factor.name}'" for factor in algebra.factors(axis) if factor in chosen)
            raise SizeError(f"{names} cannot have {size} units: the child needs at least {count} of them", because=str(reason))
