"""Importance of blocks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from graphclone.blocks import Stack
from graphclone.calibration import Calibration, Visit, along, between, finite
from graphclone.errors import SizeError, UnknownNameError, WeightsError
from graphclone.layout import Layout
from graphclone.scores.scores import Scores


def block_influence(calibration: Calibration) -> Scores:
    """1 - cos(input, output) of each block, averaged over tokens (ShortGPT, arXiv 2403.03853, §3.1): a block that leaves the direction of
    the stream as it is can go."""
    found = Influence()
    calibration.each(found.look)
    return found.scores()


def _kept(stack: Stack, depth: int | Mapping[str, int]) -> int:
    """How many blocks of a stack stay. **Raises** `SizeError`."""
    kept = depth.get(stack.name, len(stack)) if isinstance(depth, Mapping) else depth
    if not isinstance(kept, int) or kept < 1:
        raise SizeError(f"'{stack.name}' cannot have {kept!r} blocks", attempt="a whole number, at least one")
    return min(kept, len(stack))


class Influence:
    """Looks on while batches are run."""

    def __init__(self) -> None:
        self._said: dict[str, list[list[float]]] = defaultdict(list)

    def look(self, layout: Layout) -> Visit:
        return _between(layout, self._judge)

    def _judge(self, stack: Stack, seen: Mapping[fx.Node, Tensor]) -> None:
        self._said[stack.name].append([float(1 - _cosine(seen[block.entry], seen[block.exit]).mean()) for block in stack.blocks])

    def scores(self) -> Scores:
        return Scores(blocks={name: tuple(torch.tensor(each).mean(0).tolist()) for name, each in self._said.items()})


def angular(calibration: Calibration, depth: int | Mapping[str, int]) -> Scores:
    """Of all runs of neighbouring blocks that are as long as must go, the one with the least angle between what enters and what leaves
    it, arccos(cos) / π ("The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887, §3.2). Those scores are 0, others 1:
    they are of this `depth`, and say nothing of another."""
    said: dict[str, list[Tensor]] = defaultdict(list)

    def judge(stack: Stack, seen: Mapping[fx.Node, Tensor]) -> None:
        run = len(stack) - kept[stack.name]
        starts = range(kept[stack.name] + 1) if run else ()
        angles = [
            (_cosine(seen[stack.blocks[i].entry], seen[stack.blocks[i + run - 1].exit]).clamp(-1, 1).arccos() / math.pi).mean()
            for i in starts
        ]
        said[stack.name].append(torch.tensor(angles))

    stacks = calibration.parts[0][0].blocks
    if unknown := set(depth if isinstance(depth, Mapping) else ()) - {stack.name for stack in stacks}:
        raise UnknownNameError(f"no stack is called '{unknown.pop()}'", attempt=" or ".join(stack.name for stack in stacks))
    kept = {stack.name: _kept(stack, depth) for stack in stacks}
    calibration.each(lambda layout: _between(layout, judge))
    scores = {}
    for stack in stacks:
        if stack.name in said:
            angles = torch.stack(said[stack.name]).mean(0)
            first = int(angles.argmin()) if len(angles) else len(stack)
            gone = range(first, first + len(stack) - kept[stack.name])
            scores[stack.name] = tuple(float(index not in gone) for index in range(len(stack)))
    return Scores(blocks=scores)


def greedy(stack: Stack, loss: Callable[[tuple[int, ...]], float], down_to: int = 1) -> Scores:
    """Blocks in the order in which they can go: of those left, the one without which the loss is least goes next, all others tried anew
    after each (no gradient, one evaluation per try).

    **Arguments**: `loss(kept)`, the loss of the parent with these blocks of the stack only.

    **Raises** `WeightsError` for a loss that is NaN.
    """
    kept = tuple(range(len(stack)))
    worth = dict.fromkeys(kept, float(len(stack)))
    while len(kept) > down_to:
        tries = {index: loss(tuple(each for each in kept if each != index)) for index in kept}
        if any(map(math.isnan, tries.values())):
            raise WeightsError(
                f"without some block of '{stack.name}' the loss is no number", attempt="other weights, or other data"
            )
        gone = min(tries, key=lambda index: (tries[index], -index))
        worth[gone] = float(len(stack) - len(kept))
        kept = tuple(each for each in kept if each != gone)
    return Scores(blocks={stack.name: tuple(worth[index] for index in range(len(stack)))})


def _between(layout: Layout, judge: Callable[[Stack, Mapping[fx.Node, Tensor]], None]) -> Visit:
    """Once a batch has run, every stack with what went in and out of its blocks."""
    ends, seen = between(layout), dict[fx.Node, Tensor]()

    def visit(node: fx.Node, value: Any, _: Mapping[fx.Node, Any]) -> None:
        if node in ends:
            finite(node, value)
            seen[node] = value.detach().movedim(_units(layout, node), -1)
        elif node.op == "output":
            for stack in _comparable(layout, seen):
                judge(stack, seen)

    return visit


def _comparable(layout: Layout, seen: Mapping[fx.Node, Tensor]) -> Iterator[Stack]:
    for stack in layout.blocks:
        if len({seen[end].shape for block in stack.blocks for end in (block.entry, block.exit)}) == 1:
            yield stack


def _units(layout: Layout, node: fx.Node) -> int:
    """The dim of the stream's units; the last one where it has none of its own."""
    found = (along(layout, node, factor) for factor in layout.factors if factor.kind == "residual")
    return next((dim for dim in found if dim is not None), -1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a.double(), b.double(), dim=-1)
