"""What a Plan says: what becomes smaller, and which of the parent's it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from graphclone.blocks import Stack
from graphclone.layout import Layout
from graphclone.plan import Plan
from graphclone.report.alike import alike
from graphclone.report.layout import in_order
from graphclone.report.sheet import Sheet


def plan_table(plan: Plan, layout: Layout) -> Sheet:
    """What becomes smaller: blocks of each stack and units of each factor, and which of the parent's they are."""
    table = Sheet("", "parent → child", "", "which of the parent's")
    for stack in layout.blocks:
        chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
        if chosen != tuple(range(len(stack))):
            table.add_row(stack.name, f"{len(stack)} → {len(chosen)} blocks", "", _positions(chosen))
    for row in alike(layout, in_order(factor for factor in layout.factors if factor.name in plan.keep)):
        kept = plan.keep[row.members[0].name]
        same = all(plan.keep[factor.name] == kept for factor in row.members)
        which = _positions(kept) if same else "its own in each block"
        if row.members[0].name in plan.rotated:
            which = "its first principal axes"
        table.add_row(row.name, f"{row.members[0].size} → {len(kept)}", row.times, which)
    if not table.row_count:
        table.add_row("nothing", "all as in the parent", "", "")
    return table


def _positions(kept: Sequence[int], most: int = 9) -> str:
    """`0–3, 12, 13` of positions in order; cut off where there are many."""
    runs: list[list[int]] = []
    for position in kept:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    texts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts[:most]) + (f", … {kept[-1]}" if len(texts) > most else "")


def plan_notes(plan: Plan) -> Iterator[str]:
    """What else there is to say of a plan: scaled tensors, ties, remarks."""
    scales = [piece.scale for piece in plan.tensors.values() if piece.scale != 1]
    if scales:
        low, high = min(scales), max(scales)
        span = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        yield f"{len(scales)} weights are multiplied by sqrt(d / d′) = {span}, since they sum fewer inputs"
    if plan.fitted:
        yield f"{len(plan.fitted)} tensors are computed from data (rotated, or fitted in closed form) rather than selected"
    yield from plan.remarks


def origin_table(filled: Mapping[str, str], plan: Plan, layout: Layout) -> Sheet:
    """Which block of the child came from which of the parent's, and how many tensors beside them."""
    table = Sheet("child", "from the parent's", ">tensors")
    counts = Counter(filled.values())
    inside: set[str] = set()
    for stack in layout.blocks:
        chosen = plan.stacks.get(stack.name, tuple(range(len(stack))))
        owned = _owned(stack)
        inside.update(*owned)
        for first, last in _runs(chosen):
            indices = chosen[first : last + 1]
            count = sum(counts[name] // chosen.count(index) for index in indices for name in owned[index])
            if count:  # blocks that share all of theirs have none of their own
                table.add_row(f"{stack.name} {_span(first, last)}", f"{stack.name} {_span(indices[0], indices[-1])}", str(count))
    outside = [name for name in counts if name not in inside]
    if outside:
        names = ", ".join(outside[:3]) + (" …" if len(outside) > 3 else "")
        table.add_row("the rest", names, str(sum(counts[name] for name in outside)))
    return table


def _owned(stack: Stack) -> list[set[str]]:
    """For each block, the tensors that no other block of the stack reads."""
    read = [{name for *_, name in block.uses} for block in stack.blocks]
    readers = Counter(name for names in read for name in names)
    return [{name for name in names if readers[name] == 1} for names in read]


def _runs(chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last index of each stretch of blocks that follow one another in the parent too, or are one block again and again."""
    start = 0
    for index in range(1, len(chosen) + 1):
        step = chosen[start + 1] - chosen[start] if index > start + 1 else None  # None: any of the two may come
        if index == len(chosen) or chosen[index] - chosen[index - 1] not in ((0, 1) if step is None else (step,)):
            yield start, index - 1
            start = index


def _span(first: object, last: object) -> str:
    return str(first) if first == last else f"{first}–{last}"
