"""Which of the parent's blocks a destination is made of."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import fx

from graphclone.blocks import Block, Stack, numbered
from graphclone.errors import DestinationError
from graphclone.layout import Layout
from graphclone.passes import middle
from graphclone.passes.drop_blocks import alike, check_worth, dearest
from graphclone.rules import identity, name_of
from graphclone.scores.scores import Scores

Chosen = Mapping[str, tuple[int, ...]]  # for each stack, the parent's block of each block of the child
_MOST = 24  # ways to choose blocks that are tried


def by_blocks(parent: Layout, child: Layout, scores: Scores | None = None) -> Chosen:
    """The blocks of the destination's own stacks, each beside one of its kind in the parent.

    **Raises** `DestinationError` where the destination has other stacks, or blocks of other kinds.
    """
    if len(parent.blocks) != len(child.blocks):
        raise DestinationError(
            f"the destination has {len(child.blocks)} stacks of blocks, the parent {len(parent.blocks)}",
            because=f"parent: {listed(parent.blocks)}; destination: {listed(child.blocks)} (only blocks like the parent's count)",
            attempt="a destination of the parent's own class, smaller in its sizes only",
        )
    stacks = {}
    for ours, theirs in zip(parent.blocks, child.blocks, strict=True):
        if ours.pattern != theirs.pattern:
            raise DestinationError(
                f"the blocks of the destination's '{theirs.name}' are not like those of the parent's '{ours.name}'"
            )
        stacks[ours.name] = tuple(_chosen(ours, theirs, scores.blocks.get(ours.name) if scores else None))
        for block, index in zip(theirs.blocks, stacks[ours.name], strict=True):
            _same_ops(ours.blocks[index], block)
    return stacks


def _chosen(ours: Stack, theirs: Stack, worth: Sequence[float] | None) -> Sequence[int]:
    """The blocks that are worth most, or by default all but the middle ones; each of its kind."""
    kinds, needed = ([block.kind for block in stack.blocks] for stack in (ours, theirs))
    if worth is not None and len(theirs) < len(ours):
        check_worth(ours, worth)
        return dearest(kinds, needed if len(set(kinds)) > 1 else [kinds[0]] * len(theirs), worth)
    wanted = middle(len(ours), len(theirs))
    return alike(kinds, needed, wanted) if len(set(kinds)) > 1 else wanted


def _same_ops(ours: Block, theirs: Block) -> None:
    """**Raises** `DestinationError` if two blocks do not compute with the same ops, whatever their sizes; casts and dropout apart."""
    a, b = (Counter(name_of(node.target) for node in _downstream(block) if not identity(node.target)) for block in (ours, theirs))
    if a != b:
        raise DestinationError(
            f"the destination's '{theirs.name}' is another kind of block than the parent's '{ours.name}'",
            because=f"they differ in {', '.join([*(a - b), *(b - a)][:4])}",
            attempt="the parent's own activation, norms and attention in the destination",
        )


def _downstream(block: Block) -> list[fx.Node]:
    """What a block makes of its entry. (What it makes of anything else, such as a mask, it may share with others, or not.)"""
    reached = {block.entry: None}
    for node in block.nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached[node] = None
    return list(reached)[1:]


def listed(stacks: Iterable[Stack]) -> str:
    return "; ".join(map(str, stacks)) or "none"


def by_names(parent: Layout, names: Iterable[str]) -> Iterator[Chosen]:
    """As many blocks of each stack as the destination has numbered modules of their names; a guess, which the graphs have to confirm.

    **Arguments**: `names`, the destination's tensors, as the parent would call them.
    """
    there = numbered(names)
    counted = (_counts(prefix, stacks, parent, there) for prefix, stacks in _by_prefix(parent.blocks).items())
    tried: list[Chosen] = []
    for ways in itertools.islice(itertools.product(*counted), _MOST):
        counts = {name: count for way in ways for name, count in way.items()}
        for choose in (_middle, _kinds_in_order, _first):
            try:
                chosen = {stack.name: tuple(choose(stack, counts[stack.name])) for stack in parent.blocks}
            except DestinationError:
                continue
            if chosen not in tried:
                tried.append(chosen)
                yield chosen


def _by_prefix(stacks: Iterable[Stack]) -> dict[str, list[Stack]]:
    """Stacks by the numbered list of modules that their blocks are in; a stack that is in none is alone."""
    found: dict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        places = {block.name.rpartition(".")[0] for block in stack.blocks if block.name.rpartition(".")[2].isdecimal()}
        found[places.pop() if len(places) == 1 else stack.name].append(stack)
    return found


def _counts(prefix: str, stacks: Sequence[Stack], parent: Layout, there: Mapping[str, set[str]]) -> list[dict[str, int]]:
    """How many blocks the stacks of one list of modules may have; the likeliest first."""
    old, new = len(numbered(parent.parameters).get(prefix, ())), len(there.get(prefix, ()))
    whole = {stack.name: len(stack) for stack in stacks}
    if not old or not new or old == new:
        return [whole]
    same = {stack.name: sum(block.name.rpartition(".")[2] in there[prefix] for block in stack.blocks) for stack in stacks}
    share = {stack.name: max(len(stack) * new // old, 1) for stack in stacks}
    rest = {stacks[0].name: len(stacks[0]) + new - old}
    ways = [rest, same, share] if len(stacks) == 1 else [same, share]
    return [way for way in ways if all(count > 0 for count in way.values())] or [whole]


def _middle(stack: Stack, count: int) -> Sequence[int]:
    return middle(len(stack), count)


def _kinds_in_order(stack: Stack, count: int) -> Sequence[int]:
    """Kinds follow one another in the destination as they do in the parent.

    **Raises** `DestinationError` if no blocks are left of the last of them."""
    kinds = [block.kind for block in stack.blocks]
    return alike(kinds, kinds[:count], middle(len(stack), count)) if count <= len(stack) else middle(len(stack), count)


def _first(stack: Stack, count: int) -> Sequence[int]:
    return range(count) if count <= len(stack) else middle(len(stack), count)
