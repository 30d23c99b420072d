"""The sizes that a plan gives its child: parameters by shape, and their names where the parent's own class numbers the blocks."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    names = dict(_renamed(plan, layout))
    places: dict[str, str] = {}
    for stack in layout.blocks:
        places |= _places(stack, plan.stacks.get(stack.name, tuple(range(len(stack)))))
    found = {names.get(name) or _under(places, name): shape for name, shape in shapes.items()}
    aliases = {alias: name for alias, name in plan.aliases.items() if name in shapes}
    return found | {names.get(alias) or _under(places, alias): shapes[name] for alias, name in aliases.items()}


def kept_layers(plan: Plan, layout: Layout) -> list[tuple[int, Sequence[int]]]:
    """For each numbered list of modules that loses or repeats some: how many the parent has, and which the child has, in order."""
    found: list[tuple[int, Sequence[int]]] = []
    for each in _lists(plan, layout):
        places = {number: place for place, number in enumerate(each.numbers)}
        kept = [places[number] for number, *_ in each.kept]
        if kept and kept != list(range(len(places))):
            found.append((len(places), kept))
    return found


@dataclass(frozen=True)
class _List:
    """A numbered list of modules: the parent's numbers, and the child's modules in order: the number in the parent, the block that has it,
    if one does, and how often that has come before. `apart`: a block has none, one or several of them, and no two blocks share one."""

    path: str
    numbers: Sequence[int]
    kept: Sequence[tuple[int, Block | None, int]]
    apart: bool


def _lists(plan: Plan, layout: Layout) -> Iterator[_List]:
    blocks_of = [[numbered(name for *_, name in block.uses) for block in stack.blocks] for stack in layout.blocks]
    for path, names in numbered(layout.parameters).items():
        numbers = set(map(int, names))
        inside = [[set(map(int, found.get(path, ()))) for found in blocks] for blocks in blocks_of]
        held = [number for blocks in inside for block in blocks for number in block]
        order: list[tuple[int, int, int, Block | None]] = [(number, 0, number, None) for number in numbers - set(held)]
        for stack, blocks in zip(layout.blocks, inside, strict=True):
            chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
            for place, index in enumerate(chosen):
                turn = chosen[:place].count(index)
                order += [(min(blocks[index]), turn, number, stack.blocks[index]) for number in blocks[index]]
        kept = [(number, block, turn) for _, turn, number, block in sorted(order, key=lambda each: each[:3])]
        several = sum(bool(block) for blocks in inside for block in blocks) > 1
        yield _List(path, sorted(numbers), kept, several and len(held) == len(set(held)))


def _renamed(plan: Plan, layout: Layout) -> Iterator[tuple[str, str]]:
    """The tensors of the child's blocks, and of what stands between them in the same lists: name in a rewritten graph, name by number."""
    parameters = [*layout.parameters, *plan.aliases]
    for each in _lists(plan, layout):
        if not each.apart:
            continue
        inside = defaultdict[str, list[str]](list)
        for name in parameters:
            if name.startswith(f"{each.path}."):
                number, _, rest = name[len(each.path) + 1 :].partition(".")
                inside[number].append(rest)
        numbers = itertools.chain(each.numbers, itertools.count(each.numbers[-1] + 1))  # a deeper child has further ones
        for (old, block, turn), new in zip(each.kept, numbers, strict=False):
            for rest in inside[str(old)]:
                name = f"{each.path}.{old}.{rest}"
                yield block.again(name, turn + 1) if block is not None else name, f"{each.path}.{new}.{rest}"


def _places(stack: Stack, chosen: tuple[int, ...]) -> dict[str, str]:
    """Each of the child's blocks where a name holds its number otherwise (`layer_3`): by its name in a rewritten graph → by its number."""
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
