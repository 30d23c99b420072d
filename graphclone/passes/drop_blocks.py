"""Depth: which blocks of the parent the child is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.blocks import Stack, left_out, read_elsewhere
from graphclone.errors import DestinationError, SizeError, UnknownNameError
from graphclone.layout import Layout
from graphclone.plan import Piece, Plan
from graphclone.rules import Typed
from graphclone.scores.scores import Scores
from graphclone.stacked import unstacked

Choice = Callable[[int, int], Sequence[int]]


def middle(parent: int, child: int) -> list[int]:
    """Keep the first and the last blocks, drop the middle ones (weight subcloning, arXiv 2312.09299, §3.1: blocks in the middle change
    the stream least). A deeper child repeats each block as evenly as can be."""
    if child <= parent:
        first = math.ceil(child / 2)
        return [*range(first), *range(parent - (child - first), parent)]
    return even(parent, child)


def even(parent: int, child: int) -> list[int]:
    """Blocks at even distances, the first one among them."""
    return [index * parent // child for index in range(child)]


def first(parent: int, child: int) -> list[int]:
    """The first blocks (weight selection, "Initializing Models with Larger Ones", arXiv 2311.18823, §3)."""
    return list(range(child)) if child <= parent else even(parent, child)


def alike(parent: Sequence[int], child: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The blocks nearest to the wanted ones, in order, whose kinds are the child's; kinds are numbered as they come.

    **Raises** `DestinationError` if there is no such choice.
    """
    return _cheapest(parent, child, lambda position, index: abs(index - wanted[position]))


def dearest(kinds: Sequence[int], child: Sequence[int], worth: Sequence[float]) -> list[int]:
    """The blocks, in order, whose kinds are the child's and which are worth most together.

    **Raises** `DestinationError` if there is no such choice.
    """
    return _cheapest(kinds, child, lambda _, index: -worth[index])


def _cheapest(parent: Sequence[int], child: Sequence[int], cost: Callable[[int, int], float]) -> list[int]:
    """By dynamic programming over the child's positions."""
    step = 1 if len(child) <= len(parent) else 0  # a deeper child may repeat
    best: dict[int, tuple[float, list[int]]] = {-step: (0.0, [])}
    for position, kind in enumerate(child):
        reached: dict[int, tuple[float, list[int]]] = {}
        for index in (i for i, each in enumerate(parent) if each == kind):
            before = [(spent, chosen) for last, (spent, chosen) in best.items() if last + step <= index]
            if before:
                spent, chosen = min(before)
                reached[index] = (spent + cost(position, index), [*chosen, index])
        best = reached
    if not best:
        raise DestinationError(
            f"the destination's blocks cannot come from the parent's: their kinds are {list(child)}, the parent's {list(parent)}",
            because="a block may only come from a block of the same kind (ops, shapes, and what it reads from outside)",
            attempt="a depth that keeps the parent's pattern of kinds",
        )
    return min(best.values())[1]


@dataclass(frozen=True)
class DropBlocks:
    """Keep `depth` blocks of each stack (of the stacks named, if it is a mapping); a fraction is a share of the parent's.

    Those of the highest scores stay; in a stack without scores, or with more blocks than the parent's, `choose(parent's depth, child's
    depth)` gives the indices of the blocks, in order: `middle`, `even` or `first`.
    """

    depth: int | float | Mapping[str, int | float]
    choose: Choice = middle
    scores: Scores = field(default_factory=Scores)

    def __call__(self, plan: Plan, layout: Layout) -> Plan:
        if not layout.blocks and self.depth != {}:
            raise SizeError(
                "no repeated blocks were found, whose number could be changed",
                because="blocks are parts of the graph that compute alike and follow each other on one stream: each is given one value and "
                "hands one on. A single block cannot be told from the rest, nor can blocks that hand on several values (two streams that "
                "read each other), or all of whose results are read again at the end",
            )
        stacks = {}
        for stack in layout.blocks:
            depth = self._depth(stack, layout)
            if depth == len(stack):
                continue
            chosen = tuple(self._chosen(stack, depth))
            if not isinstance(self.depth, Mapping) and (why := _parted(layout, stack, chosen)):  # nobody has named it
                plan = plan.remark(f"'{stack.name}' stays as it is: {why}")
                continue
            stacks[stack.name] = chosen
            if why := read_elsewhere(stack, chosen):
                raise SizeError(
                    f"'{stack.name}' cannot have {depth} blocks ({len(stack)} in the parent)",
                    because=f"{why}, and the child would not have that block, or several times",
                    attempt="a model that does not return states, attentions or losses of its blocks, or only other widths",
                )
        return unstacked(restacked(plan, layout, stacks), layout)

    def _chosen(self, stack: Stack, depth: int) -> Sequence[int]:
        worth = self.scores.blocks.get(stack.name)
        if worth is None or depth > len(stack):
            return self.choose(len(stack), depth)
        check_worth(stack, worth)
        return sorted(sorted(range(len(stack)), key=lambda index: -worth[index])[:depth])

    def _depth(self, stack: Stack, layout: Layout) -> int:
        depth = self.depth
        if isinstance(depth, Mapping):
            unknown = set(depth) - {each.name for each in layout.blocks}
            if unknown:
                raise UnknownNameError(f"no stack is called '{unknown.pop()}'", attempt=" or ".join(s.name for s in layout.blocks))
            depth = depth.get(stack.name, len(stack))
        if not isinstance(depth, (int, float)) or isinstance(depth, bool) or not math.isfinite(depth):
            raise SizeError(f"'{stack.name}' cannot have {depth!r} blocks", attempt="a whole number, or a share such as 0.5")
        blocks = max(round(depth * len(stack)), depth > 0) if isinstance(depth, float) else depth  # a share is of some blocks, not of none
        if blocks < 1:
            raise SizeError(f"'{stack.name}' cannot have {blocks} blocks", attempt="at least one")
        return blocks


def check_worth(stack: Stack, worth: Sequence[float]) -> None:
    """**Raises** `SizeError` for scores of other blocks."""
    if len(worth) != len(stack):
        raise SizeError(
            f"the scores of '{stack.name}' are no ranking of its {len(stack)} blocks", because=f"there are {len(worth)} of them"
        )


def _parted(layout: Layout, stack: Stack, chosen: Sequence[int]) -> str:
    """Why blocks that follow one another in a child do not in their units: the layers of a small network look alike where its input is as
    wide as its hidden layer by accident. Empty if they do."""
    blocks = stack.blocks
    ends = [blocks[0].entry, *(blocks[index].exit for index in chosen)]
    begins = [*(blocks[index].entry for index in chosen), blocks[-1].exit]
    for before, after in zip(ends, begins, strict=True):
        units, others = _units(layout, before), _units(layout, after)
        if before is not after and units != others:
            return f"its blocks are not all on one stream ({_told(units)} and {_told(others)} would meet)"
    return ""


def _units(layout: Layout, node: fx.Node) -> list[list[Factor]]:
    """For each dim of a value, the free factors that it shares with parameters."""
    typed = layout.types.get(node)
    axes = typed.axes if isinstance(typed, Typed) else ()
    return [[factor for factor in algebra.factors(axis) if factor.frozen is None and factor.slots] for axis in axes]


def _told(units: Sequence[Sequence[Factor]]) -> str:
    return ", ".join(repr(factor.name) for dim in units for factor in dim) or "nothing free"


def restacked(plan: Plan, layout: Layout, stacks: Mapping[str, tuple[int, ...]]) -> Plan:
    """The plan with other blocks: tensors of dropped blocks go, those of a block that comes again get names of their own."""
    gone: set[str] = set()
    kept: set[str] = set()
    more: dict[str, Piece] = {}
    for stack in layout.blocks:
        chosen = stacks.get(stack.name, tuple(range(len(stack))))
        if why := _parted(layout, stack, chosen):
            raise SizeError(f"'{stack.name}' cannot be made of its blocks {list(chosen)}", because=why, attempt="its own depth")
        if chosen != tuple(range(len(stack))) and (others := left_out(stack, layout.blocks, layout.trace.parameters)):
            told = f"{', '.join(others)} {'computes' if len(others) == 1 else 'compute'} otherwise than the blocks of '{stack.name}'"
            plan = plan.remark(f"{told}: the child has {'it' if len(others) == 1 else 'each of them'}")
        for index, block in enumerate(stack.blocks):
            names = [str(node.target) for node in block.nodes if node.op == "get_attr"]
            (kept if index in chosen else gone).update(names)
            for again in range(1, chosen.count(index)):
                more.update({block.again(name, again + 1): plan.tensors[name] for name in names})
    tensors = {name: piece for name, piece in plan.tensors.items() if name not in gone - kept} | more
    aliases = {alias: name for alias, name in plan.aliases.items() if name in tensors}
    return replace(plan, stacks={**plan.stacks, **stacks}, tensors=tensors, aliases=aliases)
