"""The sizes that a plan gives its child: parameters by shape, and their names where the parent's own class numbers the blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from graphclone import axes as algebra
from graphclone.blocks import Block, Stack, numbered
from graphclone.layout import Layout
from graphclone.plan import Plan

Shape = tuple[int, ...]


def parameter_shapes(plan: Plan, layout: Layout) -> dict[str, Shape]:
    """The shapes of the child's parameters, ties once, under the names that they have in a rewritten graph."""
    keep = {layout[name]: kept for name, kept in plan.keep.items()}
    return {
        name: tuple(
            len(piece.take[dim]) if dim in piece.take else algebra.size(axis, keep)
            for dim, axis in enumerate(layout.axes(piece.source))
        )
        for name, piece in plan.tensors.items()
        if piece.source in layout.trace.parameters
    }


def parameters(plan: Plan, layout: Layout) -> int:
    """How many elements they have together."""
    return sum(map(math.prod, parameter_shapes(plan, layout).values()))


def renumbered(plan: Plan, layout: Layout) -> dict[str, Shape]:
    """The shapes of the child's parameters, ties included, under the names that a smaller instance of the parent's class would give them:
    its blocks are numbered from the first on, whichever of the parent's they are."""
    shapes = parameter_shapes(plan, layout)
    places: dict[str, str] = {}
    for stack in layout.blocks:
        places |= _places(stack, plan.stacks.get(stack.name, tuple(range(len(stack)))))
    found = {_under(places, name): shape for name, shape in shapes.items()}
    return found | {_under(places, alias): shapes[name] for alias, name in plan.aliases.items() if name in shapes}


def kept_layers(plan: Plan, layout: Layout) -> list[tuple[int, Sequence[int]]]:
    """For each numbered list of modules that loses or repeats some: how many the parent has, and which the child has, in order."""
    found: list[tuple[int, Sequence[int]]] = []
    for path, numbers in numbered(layout.parameters).items():
        places = {int(number): place for place, number in enumerate(sorted(numbers, key=int))}
        inside = [(stack, [_of(block, path) for block in stack.blocks]) for stack in layout.blocks]
        loose = places.keys() - {number for _, blocks in inside for block in blocks for number in block}
        order = [(number, 0, number) for number in loose]
        for stack, blocks in inside:
            chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
            turns = [(index, chosen[:place].count(index)) for place, index in enumerate(chosen)]
            order += [(min(blocks[index]), turn, number) for index, turn in turns for number in blocks[index]]
        kept = [places[number] for *_, number in sorted(order)]
        if kept and kept != list(range(len(places))):
            found.append((len(places), kept))
    return found


def _of(block: Block, path: str) -> set[int]:
    """The numbers of a list's modules that a block is made of."""
    return {int(number) for number in numbered(name for *_, name in block.uses).get(path, ())}


def _places(stack: Stack, chosen: tuple[int, ...]) -> dict[str, str]:
    """Each of the child's blocks, by its name in a rewritten graph → by its number."""
    found = {}
    for place, (block, name) in enumerate(zip(chosen, _numbered(stack), strict=False)):
        inside = stack.blocks[block].again(f"{stack.blocks[block].name}.", chosen[:place].count(block) + 1)
        found[inside.removesuffix(".")] = name
    return found


def _numbered(stack: Stack) -> Iterator[str]:
    """The blocks' names, and for a deeper child those that would come next."""
    yield from (block.name for block in stack.blocks)
    last = stack.blocks[-1].name
    if number := re.search(r"\d+(?=\D*$)", last):
        for following in range(int(number[0]) + 1, int(number[0]) + 1000):
            yield f"{last[: number.start()]}{following}{last[number.end() :]}"


def _under(places: dict[str, str], name: str) -> str:
    block = next((block for block in places if name.startswith(f"{block}.")), None)
    return name if block is None else f"{places[block]}{name[len(block) :]}"
