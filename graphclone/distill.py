"""Which hidden states of parent and child belong together: a clone's units are some of its parent's (or of its axes), so no projection
is to be learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphclone.errors import PlanError
from graphclone.plan import Plan


@dataclass(frozen=True)
class Pair:
    """A block of the child and the block of the parent that it comes from.

    - `stack`: the stack of both; `child`, `parent`: their positions in it;
    - `units`: int64 [d′]: for each unit of the child's stream, which of the parent's d it is;
    - `axes`: float32 [d, d′] instead, where the child's stream is rotated.
    """

    stack: str
    child: int
    parent: int
    units: Tensor
    axes: Tensor | None = None

    def taught(self, state: Tensor) -> Tensor:
        """What the child's hidden state [..., d′] is to be, from the parent's [..., d]."""
        return state[..., self.units] if self.axes is None else state @ self.axes.to(state)


def distill_pairs(plan: Plan, axes: Mapping[str, Tensor] | None = None) -> list[Pair]:
    """For every block of the child, the parent's block and units whose hidden state it may be taught, stack by stack in order.

    **Arguments**: `axes`, of the streams that the plan has rotated: `Report.axes` of `subclone`, or `axes.safetensors` beside the plan.

    **Raises** `PlanError` where a stack has no residual stream that the plan names, or one that is rotated and has no axes.
    """
    return list(_pairs(plan, axes or {}))


def _pairs(plan: Plan, axes: Mapping[str, Tensor]) -> Iterator[Pair]:
    if not plan.stacks:
        raise PlanError(
            "there are no blocks to pair", because="no part of the parent repeats", attempt="a loss on the outputs alone"
        )
    for stack, blocks in plan.stacks.items():
        stream = next((name for name in (f"{stack}.residual", "residual") if name in plan.sizes), None)
        if stream is None:
            raise PlanError(
                f"nothing is known of the stream of '{stack}'",
                because="the plan names no residual factor of this stack",
                attempt="a loss on the outputs alone",
            )
        if stream in plan.rotated and stream not in axes:
            raise PlanError(
                f"the stream of '{stack}' is rotated: the child's units are none of the parent's",
                attempt="axes=report.axes, or axes=safetensors.torch.load_file('axes.safetensors') of the child's folder",
            )
        units = torch.tensor(plan.keep.get(stream, tuple(range(plan.sizes[stream]))), dtype=torch.long)
        yield from (Pair(stack, child, parent, units, axes.get(stream)) for child, parent in enumerate(blocks))
