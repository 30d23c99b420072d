"""Repeated blocks, found in the graph: the shortest pattern of steps that repeats on a stream. Module paths only give their names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx

from graphclone.capture import Trace
from graphclone.rules import identity, mixing
from graphclone.streams import Flow, Signature, Step, shape_of, sinks, streams

Pattern = tuple[Signature, ...]


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
    """Blocks that follow each other on one stream; `pattern` is what they have in common."""

    name: str
    blocks: tuple[Block, ...]
    pattern: Pattern = field(repr=False)

    def __len__(self) -> int:
        return len(self.blocks)

    def __str__(self) -> str:
        kinds = "".join("abcdefghijklmnopqrstuvwxyz"[block.kind % 26] for block in self.blocks)
        return f"{self.name}: {len(self)} blocks" + (f", kinds {kinds}" if len(set(kinds)) > 1 else "")


def find_blocks(trace: Trace, like: Sequence[Stack] = ()) -> tuple[Stack, ...]:
    """The stacks of a trace, in graph order. `like`: look for the patterns of these stacks, even where they do not repeat."""
    flow = Flow.of(trace)
    known = {signature for stack in like for signature in stack.pattern}
    for ends in sinks(trace.graph):
        chains = list(streams(flow, ends, known))
        patterns = list(dict.fromkeys(stack.pattern for stack in like)) or _patterns(chains)
        found = [run for steps in chains for run in _runs(steps, patterns)]
        if found:
            found.sort(key=lambda run: flow.order[run[0][0].exit])
            return tuple(_stack(trace, flow, run) for run in found)
    return ()


def _patterns(chains: list[list[Step]]) -> list[Pattern]:
    """The shortest patterns of steps that repeat on a stream, those that cover most of it first."""
    found: dict[Pattern, int] = {}
    for steps in chains:
        numbers: dict[object, int] = {}
        kinds = [numbers.setdefault((step.signature, shape_of(step.entry)), len(numbers)) for step in steps]
        for period in range(1, len(steps) // 2 + 1):
            longest = 0
            for start, length in _equal_runs(kinds, period):
                run = steps[start : start + length]
                first = tuple(step.signature for step in run[:period])
                mixes = any(mixing(node.target) for step in run[:period] for node in step.region)
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
    return [str(s.target) for step in steps for node in step.region for s in node.all_input_nodes if s.op == "get_attr"]


def _runs(steps: list[Step], patterns: list[Pattern]) -> Iterator[list[list[Step]]]:
    """Stretches of a stream that are one pattern again and again, without a change of the stream's shape."""
    run: list[list[Step]] = []
    start, ran = 0, None
    while start < len(steps):
        for pattern in patterns:
            chunk = steps[start : start + len(pattern)]
            if tuple(step.signature for step in chunk) == pattern and (last := chunk[-1].shaped(shape_of(chunk[0].entry))):
                chunk[-1] = last
                if run and (ran is not pattern or run[-1][-1].exit is not chunk[0].entry):
                    yield [*run]
                    run = []
                run.append(chunk)
                ran = pattern
                start += len(pattern)
                break
        else:
            if run:
                yield run
            run = []
            start += 1
    if run:
        yield run


def _stack(trace: Trace, flow: Flow, run: list[list[Step]]) -> Stack:
    kinds: dict[object, int] = {}
    blocks = []
    for index, steps in enumerate(run):
        nodes = flow.owned(itertools.chain.from_iterable(step.region for step in steps), steps[0].entry)
        uses = tuple((node, position, name) for node in nodes for position, name, _ in flow.uses.get(node, ()))
        inner = set(nodes)
        outside = {s for node in nodes for s in flow.inputs[node] if s not in inner and s is not steps[0].entry}
        key = (
            tuple(node.target for node in nodes if node.op == "call_function" and not identity(node.target)),
            tuple(trace.state[name].shape for *_, name in uses),
            tuple(sorted(flow.order[s] for s in outside if s.op != "get_attr")),
        )
        name = _common(str(node.target) for node in nodes if node.op == "get_attr") or f"block.{index}"
        blocks.append(Block(name, kinds.setdefault(key, len(kinds)), steps[0].entry, steps[-1].exit, tuple(nodes), uses))
    names = [block.name for block in blocks]
    if len(set(names)) < len(names):  # blocks that share their parameters
        blocks = [Block(f"{b.name}.{i}", b.kind, b.entry, b.exit, b.nodes, b.uses) for i, b in enumerate(blocks)]
    pattern = tuple(step.signature for step in run[0])
    return Stack(_common(block.name for block in blocks) or "blocks", tuple(blocks), pattern)


def _common(names: Iterable[str]) -> str:
    """The dotted prefix that names have in common, less the last component of a single one."""
    split = [name.split(".") for name in names]
    if len(split) == 1:
        return ".".join(split[0][:-1])
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))
    return ".".join(parts[0] for parts in shared)
