"""Which hidden states of parent and child belong together: a clone's units are some of its parent's, so no projection is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphclone.errors import PlanError
from graphclone.plan import Plan


@dataclass(frozen=True)
class Pair:
    """A block of the child and the block of the parent that it comes from.

    - `stack`: the stack of both; `child`, `parent`: their positions in it;
    - `units`: int64 [d′]: for each unit of the child's stream, which of the parent's d it is. `parent_state[..., units]` has the shape of
      the child's hidden state.
    """

    stack: str
    child: int
    parent: int
    units: Tensor


def distill_pairs(plan: Plan) -> list[Pair]:
    """For every block of the child, the parent's block and units whose hidden state it may be taught, stack by stack in order.

    **Raises** `PlanError` where a stack has no residual stream that the plan names.
    """
    return list(_pairs(plan))


def _pairs(plan: Plan) -> Iterator[Pair]:
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
        units = torch.tensor(plan.keep.get(stream, tuple(range(plan.sizes[stream]))), dtype=torch.long)
        yield from (Pair(stack, child, parent, units) for child, parent in enumerate(blocks))
