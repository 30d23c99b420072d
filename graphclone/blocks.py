"""Repeated blocks, found in the graph: the shortest pattern of steps that repeats on a stream. Module paths only give their names."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, fx

from graphclone.capture import Trace
from graphclone.rules import identity, mixing, name_of
from graphclone.streams import Flow, Signature, Step, shape_of, sinks, streams
from graphclone.written import is_write

Pattern = tuple[Signature, ...]
Ops = tuple[object, ...]


@dataclass(frozen=True)
class Block:
    """One block: `entry` → `exit`, both values of the stream; `nodes`, everything that only this block needs.

    `kind` numbers blocks of one stack that are alike in ops, parameter shapes and what they read from outside. `uses` are the
    uses of parameters in graph order: (node, position among its inputs, parameter name).
    """

    name: str
    kind: int
    entry: fx.Node = field(repr=False)
    exit: fx.Node = field(repr=False)
    nodes: tuple[fx.Node, ...] = field(repr=False)
    uses: tuple[tuple[fx.Node, int, str], ...] = field(repr=False)

    def again(self, name: str, turn: int) -> str:
        """What a tensor of this block is called the second, third … time that a child has the block."""
        if turn == 1:
            return name
        return f"{self.name}_{turn}{name[len(self.name) :]}" if name.startswith(f"{self.name}.") else f"{name}_{turn}"


@dataclass(frozen=True)
class Stack:
    """Blocks that follow each other on one stream; `pattern` is what they have in common, `edges` the ops without parameters that
    each begins and ends with."""

    name: str
    blocks: tuple[Block, ...]
    pattern: Pattern = field(repr=False)
    edges: tuple[Ops, Ops] = field(repr=False)

    def __len__(self) -> int:
        return len(self.blocks)

    def __str__(self) -> str:
        kinds = "".join("abcdefghijklmnopqrstuvwxyz"[block.kind % 26] for block in self.blocks)
        return f"{self.name}: {len(self)} blocks" + (f", kinds {kinds}" if len(set(kinds)) > 1 else "")


def read_elsewhere(stack: Stack, chosen: Sequence[int]) -> str:
    """Where a value of a block that a child has not exactly once is read outside the stream: what would be read there? Empty if nowhere."""
    for index, block in enumerate(stack.blocks):
        if chosen.count(index) == 1:
            continue
        inside = {*block.nodes, *(stack.blocks[index + 1].nodes if index + 1 < len(stack) else ())}
        for node in block.nodes:
            if node is stack.blocks[-1].exit:
                continue
            for user in node.users:
                if user not in (inside if node is block.exit else set(block.nodes)):
                    who = "an output of the model" if user.op == "output" else f"{name_of(user.target)} ({user.name})"
                    return f"{who} reads '{node.name}' of the block '{block.name}'"
    return ""


def numbered(names: Iterable[str]) -> dict[str, set[str]]:
    """The numbers that parts of names are, by what comes before them."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        for index, part in enumerate(parts):
            if part.isdecimal():
                found[".".join(parts[:index])].add(part)
    return found


def left_out(stack: Stack, stacks: Iterable[Stack], parameters: Iterable[str]) -> list[str]:
    """The numbered modules beside those of a stack that are in no block of any."""
    if not _numbers_in([stack], stack.name):
        return []
    return sorted(f"{stack.name}.{each}" for each in numbered(parameters)[stack.name] - _numbers_in(stacks, stack.name))


def _numbers_in(stacks: Iterable[Stack], path: str) -> set[str]:
    return numbered(name for stack in stacks for block in stack.blocks for *_, name in block.uses).get(path, set())


def find_blocks(trace: Trace, like: Sequence[Stack] = ()) -> tuple[Stack, ...]:
    """The stacks of a trace, in graph order. `like`: look for the patterns of these stacks, even where they do not repeat."""
    flow = Flow.of(trace)
    known = {signature for stack in like for signature in stack.pattern}
    wanted = [stack.pattern for stack in like]
    edges = {stack.pattern: stack.edges for stack in like}
    best: list[Run] = []
    for ends in sinks(trace.graph):
        chains = list(streams(flow, ends, known))
        patterns = list(dict.fromkeys(wanted)) or _patterns(chains)
        found = [run for steps in chains for run in _runs(steps, patterns, edges) if _closed(run)]
        found.sort(key=lambda run: flow.order[run.blocks[0][0].entry])
        if _covers(found, wanted) > _covers(best, wanted):
            best = found
    return tuple(_distinct(_stack(trace, flow, run) for run in best))


def _distinct(stacks: Iterable[Stack]) -> Iterator[Stack]:
    """The stacks, no two of them of one name."""
    found = list(stacks)
    free = {stack.name for stack in found}  # the first of a name has it
    taken: set[str] = set()
    for stack in found:
        numbered = (f"{stack.name}.{number}" for number in itertools.count(2))
        name = stack.name if stack.name not in taken else next(each for each in numbered if each not in taken | free)
        taken.add(name)
        yield replace(stack, name=name)


@dataclass(frozen=True)
class Run:
    """Stretches of a stream that are one pattern again and again."""

    pattern: Pattern
    blocks: tuple[tuple[Step, ...], ...]
    edges: tuple[Ops, Ops]


def _closed(run: Run) -> bool:
    """Whether each block gives what it takes: one tensor of one shape."""
    ends = [(steps[0].entry, steps[-1].exit) for steps in run.blocks]
    return all(isinstance(entry.meta.get("val"), Tensor) and shape_of(entry) == shape_of(exit) for entry, exit in ends)


def _covers(runs: list[Run], wanted: list[Pattern]) -> tuple[bool, int]:
    """How good a choice of runs is: the stacks that are wanted, then as many blocks as can be."""
    return bool(wanted) and [run.pattern for run in runs] == wanted, sum(len(run.blocks) for run in runs)


def _patterns(chains: list[list[Step]]) -> list[Pattern]:
    """The shortest patterns of steps that repeat on a stream, those that cover most of it first."""
    found: dict[Pattern, int] = {}
    for chain in chains:
        steps = [step for step in chain if step.signature]
        numbers: dict[object, int] = {}
        kinds = [numbers.setdefault((step.signature, shape_of(step.entry)), len(numbers)) for step in steps]
        for period in range(1, len(steps) // 2 + 1):
            longest = 0
            for start, length in _equal_runs(kinds, period):
                run = steps[start : start + length]
                first = tuple(step.signature for step in run[:period])
                mixes = any(mixing(node.target) for step in run[:period] for node in step.nodes)
                if mixes and not any(_repeats(first, shorter) for shorter in found):
                    found[_phase(run, period)] = length
                longest = max(longest, length)
            if 2 * longest > len(steps):
                break  # longer periods are multiples of this one
    return sorted(found, key=lambda pattern: -found[pattern])


def _equal_runs(kinds: list[int], period: int) -> Iterator[tuple[int, int]]:
    """Stretches (start, length) that repeat with a period, at least twice."""
    start = 0
    for same, group in itertools.groupby(kinds[i] == kinds[i + period] for i in range(len(kinds) - period)):
        length = len(list(group))
        if same and length >= period:
            yield start, length + period
        start += length


def _repeats(pattern: Pattern, shorter: Pattern) -> bool:
    """Whether one pattern is several times another, in any phase."""
    times, rest = divmod(len(pattern), len(shorter))
    return not rest and any((shorter[i:] + shorter[:i]) * times == pattern for i in range(len(shorter)))


def _phase(steps: list[Step], period: int) -> Pattern:
    """Where a block begins in a periodic run: where most blocks fit, then where its parameters have most of a name in common."""

    def merit(start: int) -> tuple[int, int]:
        count = (len(steps) - start) // period
        chunks = [steps[start + i * period : start + (i + 1) * period] for i in range(count)]
        return count, sum(len(_common(_names(chunk))) for chunk in chunks)

    start = max(range(min(period, len(steps) - period + 1)), key=merit)
    return tuple(step.signature for step in steps[start : start + period])


def _names(steps: Iterable[Step]) -> list[str]:
    return [str(s.target) for step in steps for node in step.nodes for s in node.all_input_nodes if s.op == "get_attr"]


def _runs(steps: list[Step], patterns: list[Pattern], edges: Mapping[Pattern, tuple[Ops, Ops]]) -> Iterator[Run]:
    """Stretches of a stream that are one pattern again and again, without a change of the stream's shape."""
    cores = [index for index, step in enumerate(steps) if step.signature]
    run: list[range] = []
    ran: Pattern = ()
    shapes: set[tuple[int, ...]] = set()
    start = 0
    while start < len(cores):
        for pattern in patterns:
            chunk = cores[start : start + len(pattern)]
            if tuple(steps[index].signature for index in chunk) == pattern and (found := _shapes(steps, chunk[0], chunk[-1] + 1)):
                if run and (ran is not pattern or not shapes & found):
                    yield _cut(steps, run, ran, shapes, edges.get(ran))
                    run = []
                shapes = shapes & found if run else found
                run.append(range(chunk[0], chunk[-1] + 1))
                ran = pattern
                start += len(pattern)
                break
        else:
            if run:
                yield _cut(steps, run, ran, shapes, edges.get(ran))
            run = []
            start += 1
    if run:
        yield _cut(steps, run, ran, shapes, edges.get(ran))


def _gap(steps: list[Step], start: int, stop: int) -> range:
    """The places around steps[start:stop] that no parameter divides: a block may begin or end at each of them."""
    while start > 0 and not steps[start - 1].signature:
        start -= 1
    while stop < len(steps) and not steps[stop].signature:
        stop += 1
    return range(start, stop + 1)


def _shape(steps: list[Step], place: int) -> tuple[int, ...]:
    return shape_of(steps[place].entry if place < len(steps) else steps[-1].exit)


def _shapes(steps: list[Step], start: int, stop: int) -> set[tuple[int, ...]]:
    """The shapes that the stream can have at both ends of a block."""
    before, after = _gap(steps, start, start), _gap(steps, stop, stop)
    return {_shape(steps, place) for place in before} & {_shape(steps, place) for place in after}


def _cut(
    steps: list[Step], run: list[range], pattern: Pattern, shapes: set[tuple[int, ...]], edges: tuple[Ops, Ops] | None
) -> Run:
    """Where each block begins and ends, among the steps without parameters around it: so that all blocks begin alike and end alike,
    and what stands only before the first or after the last (a norm, an activation) is no part of them."""
    first, *rest = [_gap(steps, run[0].start, run[0].start), *(_gap(steps, core.stop, core.stop) for core in run)]
    spare: list[list[Ops]] = [[tuple(node.target for node in steps[place].nodes) for place in gap[:-1]] for gap in (first, *rest)]
    before, *after = spare
    choices = [edges] if edges else _choices(after[:-1])
    best, most = None, -1
    for pre, post in choices:
        start = first[-1] - _same(before[::-1], pre[::-1])
        ends = [gap[0] + _same(ops, post) for gap, ops in zip(rest, after, strict=True)]
        fits = (first[-1] - start == len(pre)) + (ends[-1] - rest[-1][0] == len(post))
        if fits > most and len({_shape(steps, place) for place in (start, *ends)}) == 1:
            best, most = ([start, *ends], (pre, post)), fits
    if best is None:
        shape = next(shape for place in rest[-1] if (shape := _shape(steps, place)) in shapes)
        start = next(place for place in reversed(first) if _shape(steps, place) == shape)
        best = [start, *(next(place for place in gap if _shape(steps, place) == shape) for gap in rest)], ((), ())
    places, edges = best
    return Run(pattern, tuple(tuple(steps[a:b]) for a, b in itertools.pairwise(places)), edges)


def _choices(between: list[list[Ops]]) -> list[tuple[Ops, Ops]]:
    """The ways to divide what stands between blocks into what a block begins with and what one ends with."""
    if not between:
        return []
    shared = _same(*between)
    alike = all(len(ops) == shared for ops in between)
    return [(tuple(between[0][n:] if alike else ()), tuple(between[0][:n])) for n in range(shared + 1)]


def _same(*sides: Sequence[object]) -> int:
    """How many of their first members some sequences have in common."""
    return sum(1 for _ in itertools.takewhile(lambda each: len(set(each)) == 1, zip(*sides, strict=False)))


def _stack(trace: Trace, flow: Flow, run: Run) -> Stack:
    kinds: dict[object, int] = {}
    blocks = []
    for index, steps in enumerate(run.blocks):
        entry, exit = steps[0].entry, steps[-1].exit
        nodes = flow.owned(itertools.chain.from_iterable(step.nodes for step in steps), entry)
        uses = tuple((node, position, name) for node in nodes for position, name, _ in flow.uses.get(node, ()))
        inner = set(nodes)
        outside = {s for node in nodes for s in flow.inputs[node] if s not in inner and s is not entry}
        key = (
            tuple(node.target for node in nodes if node.op == "call_function" and not identity(node.target)),
            tuple(trace.state[name].shape for *_, name in uses),
            tuple(sorted(flow.order[s] for s in outside if s.op != "get_attr")),
        )
        read = (
            str(node.target) for node in nodes if node.op == "get_attr"
        )  # tables too, which all blocks share but a single one
        name = _common(name for *_, name in uses) or _common(read) or f"block.{index}"
        if writes := [node for node in flow.order if is_write(node) and str(node.args[0].target).startswith(f"{name}.")]:  # type: ignore[union-attr]
            nodes = flow.owned([*nodes, *writes], entry)
        blocks.append(Block(name, kinds.setdefault(key, len(kinds)), entry, exit, tuple(nodes), uses))
    names = [block.name for block in blocks]
    if len(set(names)) < len(names):
        # blocks that share their parameters, or of several numbered parts each, whose numbers are taken
        used = [name for block in blocks for *_, name in block.uses]
        taken = any(name.startswith(f"{b.name}.{i}.") for i, b in enumerate(blocks) for name in used)
        before = "block_" if taken else ""
        blocks = [Block(f"{b.name}.{before}{i}", b.kind, b.entry, b.exit, b.nodes, b.uses) for i, b in enumerate(blocks)]
    return Stack(_common(block.name for block in blocks) or "blocks", tuple(blocks), run.pattern, run.edges)


def _common(names: Iterable[str]) -> str:
    """The dotted prefix that names have in common, less the last component of a single one."""
    split = [name.split(".") for name in names]
    if len(split) == 1:
        return ".".join(split[0][:-1])
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))
    return ".".join(parts[0] for parts in shared)
