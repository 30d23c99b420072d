"""Which hidden states of parent and child belong together: a clone's units are some of its parent's (or of its axes), so no projection
is to be learned."""

from __future__ import annotations

import re
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

    A stream that nothing can take units of has all of its parent's. **Raises** `PlanError` where the parent has no blocks, or a stream is
    rotated and has no axes.
    """
    return list(_pairs(plan, axes or {}))


def _pairs(plan: Plan, axes: Mapping[str, Tensor]) -> Iterator[Pair]:
    if not plan.streams:
        raise PlanError(
            "there are no blocks to pair",
            because="no part of the parent repeats, or an older graphclone wrote the plan",
            attempt="a loss on the outputs alone",
        )
    selection = plan.selection()
    for stack, stream in plan.streams.items():
        _, kept = selection(stream)
        rotated = [name for name in plan.rotated if name in re.split(r"[\s()\[\]+]+", stream)]
        if rotated and (rotated != [stream] or stream not in axes):
            raise PlanError(
                f"the stream of '{stack}' is rotated: the child's units are none of the parent's",
                because="" if rotated == [stream] else f"'{rotated[0]}' is a part of it only: {stream}",
                attempt="axes=report.axes, or axes=safetensors.torch.load_file('axes.safetensors') of the child's folder",
            )
        units = torch.tensor(list(kept), dtype=torch.long)
        yield from (Pair(stack, child, parent, units, axes.get(stream)) for child, parent in enumerate(plan.stacks[stack]))
