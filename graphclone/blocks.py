"""Repeated blocks, found in the graph: single-entry, single-exit segments of a residual stream that look alike.

Every value has an immediate post-dominator: the first value that all of its paths to the output run through. Following these from
an embedding gives the values of the stream, one behind the other, whatever the blocks do in between; what a block reads from
elsewhere (masks, rotary tables, encoder states) is not on the way. Each step along the stream is described by the parameters that
it uses and how; the shortest pattern of steps that repeats is the block. Module paths only give blocks their printed names.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from graphclone.capture import Trace
from graphclone.rules import elementwise, identity, mixing

Signature = tuple[tuple[str, int, int], ...]  # (op, which input, rank) of each use of a parameter
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


@dataclass(frozen=True)
class _Step:
    """A part of the stream, from one value that all paths share to the next one that comes after a parameter.

    `tail` is what follows at its end without parameters (a cast, a view): the step may be said to end before any of it.
    """

    entry: fx.Node
    exit: fx.Node
    region: tuple[fx.Node, ...]
    signature: Signature
    tail: tuple[fx.Node, ...] = ()

    def shaped(self, shape: tuple[int, ...]) -> _Step | None:
        """This step, ending at the last value that has a shape."""
        for spare in range(len(self.tail) + 1):
            exit = self.region[len(self.region) - 1 - spare]
            if _shape(exit) == shape:
                return replace(
                    self, exit=exit, region=self.region[: len(self.region) - spare], tail=self.tail[: len(self.tail) - spare]
                )
        return None


def find_blocks(trace: Trace, like: Sequence[Stack] = ()) -> tuple[Stack, ...]:
    """The stacks of a trace, in graph order. `like`: look for the patterns of these stacks, even where they do not repeat."""
    order = {node: index for index, node in enumerate(trace.graph.nodes)}
    for sinks in _sinks(trace.graph):
        streams = list(_streams(trace, order, sinks, {signature for stack in like for signature in stack.pattern}))
        patterns = list(dict.fromkeys(stack.pattern for stack in like)) or _patterns(streams)
        found = [run for steps in streams for run in _runs(steps, patterns)]
        if found:
            found.sort(key=lambda run: order[run[0][0].exit])
            return tuple(_stack(trace, order, run) for run in found)
    return ()


def _sinks(graph: fx.Graph) -> Iterator[list[fx.Node]]:
    """The outputs that every stream value has to reach: all of them; failing that (states are returned too), one at a time."""
    output = next(reversed(graph.nodes))
    yield [output]
    if len(output.all_input_nodes) > 1:
        yield from ([node] for node in output.all_input_nodes)


def _post_dominators(order: dict[fx.Node, int], sinks: Iterable[fx.Node]) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, int]]:
    """Immediate post-dominator of every node that reaches a sink, and its depth below the sink, in one backward sweep."""
    above: dict[fx.Node, fx.Node] = {}
    depth = dict.fromkeys(sinks, 0)
    for node in reversed(order):
        meeting = None
        if node in depth:
            continue
        for user in node.users:
            if user not in depth:
                continue
            if meeting is None:
                meeting = user
                continue
            while meeting is not user:  # climb the deeper one
                if depth[meeting] >= depth[user]:
                    meeting = above[meeting]
                else:
                    user = above[user]
        if meeting is not None:
            above[node], depth[node] = meeting, depth[meeting] + 1
    return above, depth


def _streams(trace: Trace, order: dict[fx.Node, int], sinks: list[fx.Node], known: set[Signature]) -> Iterator[list[_Step]]:
    """The post-dominator tree taken apart into chains, the deepest first: each value is followed by at most one before it.

    The inside of a step that repeats starts no chain of its own; that of another may hold a whole stack (a second stream, which
    reads what came out of the first).
    """
    above, depth = _post_dominators(order, sinks)
    children: dict[fx.Node, list[fx.Node]] = collections.defaultdict(list)
    for node in reversed(above):
        children[above[node]].append(node)
    favourite = {node: _previous(order, node, below) for node, below in children.items()}
    starts = [node for node in sorted(above, key=lambda node: -depth[node]) if node not in favourite and _may_start(node)]
    chains = [
        steps for steps in (_chain(trace, order, above, favourite, start) for start in starts) if len(steps) > (0 if known else 1)
    ]
    inside: set[fx.Node] = set()
    for steps in chains:
        counts = collections.Counter(step.signature for step in steps)
        repeated = [step for step in steps if counts[step.signature] > 1 or step.signature in known]
        inside.update(node for step in repeated for node in step.region if node is not step.exit)
    for steps in chains:
        if steps[0].entry not in inside and steps[0].exit not in inside:
            yield steps


def _may_start(node: fx.Node) -> bool:
    """Whether a stream may begin here: at any value, and at a parameter that is the first operand of an op (a class token)."""
    return node.op != "get_attr" or any(user.all_input_nodes[0] is node and not mixing(user.target) for user in node.users)


def _chain(
    trace: Trace, order: dict[fx.Node, int], above: dict[fx.Node, fx.Node], favourite: dict[fx.Node, fx.Node], start: fx.Node
) -> list[_Step]:
    """The steps from one leaf of the tree up to where another chain goes on."""
    steps: list[_Step] = []
    entry, region, node = start, [], start
    while node in above and favourite[above[node]] is node:
        between, node = _between(above, node, above[node]), above[node]
        region += [*between, node]
        if node.op != "call_function":
            break
        if signature := _signature(trace, _owned(order, region, entry)):
            steps.append(_Step(entry, node, tuple(region), signature))
            entry, region = node, []
        elif steps and region == [node] and math.prod(_shape(node)) == math.prod(_shape(entry)):
            last = steps[-1]
            steps[-1] = replace(last, exit=node, region=(*last.region, node), tail=(*last.tail, node))
            entry, region = node, []
    return steps


def _previous(order: dict[fx.Node, int], node: fx.Node, below: list[fx.Node]) -> fx.Node:
    """Which of the values that a node post-dominates is the stream before it: the first that reaches it, in the same shape,
    through elementwise ops only (the skip connection); else one of its own inputs."""
    if len(below) == 1:
        return below[0]
    direct, todo = set(node.all_input_nodes), [node]
    reached = set(direct)
    while todo and len(reached) < 64:
        current = todo.pop()
        if current is node or elementwise(current.target):
            reached.update(current.all_input_nodes)
            todo += [each for each in current.all_input_nodes if order[each] > order[below[0]]]

    def preference(each: fx.Node) -> tuple[bool, bool, bool, int]:
        skips = each in reached and _shape(each) == _shape(node)
        return each.op == "get_attr", not skips, not skips and each not in direct, order[each]

    return min(below, key=preference)


def _between(above: Mapping[fx.Node, fx.Node], entry: fx.Node, exit: fx.Node) -> list[fx.Node]:
    """What lies on the paths from a value to its post-dominator (`above`: what reaches the sink at all)."""
    seen: dict[fx.Node, None] = {}
    todo = [user for user in entry.users if user is not exit]
    while todo:
        node = todo.pop()
        if node not in seen and node in above:
            seen[node] = None
            todo.extend(user for user in node.users if user is not exit)
    return list(seen)


def _owned(order: dict[fx.Node, int], region: Iterable[fx.Node], entry: fx.Node) -> list[fx.Node]:
    """The region and all that feeds nothing else (its parameters, and what is made of them), in graph order."""
    owned = dict.fromkeys(region)
    todo = list(owned)
    while todo:
        for source in todo.pop().all_input_nodes:
            if (
                source not in owned
                and source is not entry
                and source.op in ("call_function", "get_attr")
                and all(user in owned for user in source.users)
            ):
                owned[source] = None
                todo.append(source)
    return sorted(owned, key=order.__getitem__)


def _uses(trace: Trace, nodes: Iterable[fx.Node]) -> list[tuple[fx.Node, int, str]]:
    return [
        (node, position, str(source.target))
        for node in nodes
        for position, source in enumerate(node.all_input_nodes)
        if source.op == "get_attr" and source.target in trace.parameters
    ]


def _signature(trace: Trace, nodes: list[fx.Node]) -> Signature:
    """How parameters are used, in order, and which ops mix positions without any."""
    uses = {node: (position, trace.state[name].dim()) for node, position, name in _uses(trace, nodes)}
    if not uses:
        return ()
    return tuple((str(node.target), *uses.get(node, (-1, 0))) for node in nodes if node in uses or mixing(node.target))


def _patterns(streams: list[list[_Step]]) -> list[Pattern]:
    """The shortest patterns of steps that repeat on a stream, those that cover most of it first."""
    found: dict[Pattern, int] = {}
    for steps in streams:
        numbers: dict[object, int] = {}
        kinds = [numbers.setdefault((step.signature, _shape(step.entry)), len(numbers)) for step in steps]
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


def _phase(steps: list[_Step], period: int) -> Pattern:
    """Where a block begins in a periodic run: where most blocks fit, then where its parameters have most of a name in common."""

    def merit(start: int) -> tuple[int, int]:
        count = (len(steps) - start) // period
        chunks = [steps[start + i * period : start + (i + 1) * period] for i in range(count)]
        return count, sum(len(_common(_names(chunk))) for chunk in chunks)

    start = max(range(min(period, len(steps) - period + 1)), key=merit)
    return tuple(step.signature for step in steps[start : start + period])


def _names(steps: Iterable[_Step]) -> list[str]:
    return [str(s.target) for step in steps for node in step.region for s in node.all_input_nodes if s.op == "get_attr"]


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(getattr(value, "shape", (0,)))


def _runs(steps: list[_Step], patterns: list[Pattern]) -> Iterator[list[list[_Step]]]:
    """Stretches of a stream that are one pattern again and again, without a change of the stream's shape."""
    run: list[list[_Step]] = []
    start, ran = 0, None
    while start < len(steps):
        for pattern in patterns:
            chunk = steps[start : start + len(pattern)]
            if tuple(step.signature for step in chunk) == pattern and (last := chunk[-1].shaped(_shape(chunk[0].entry))):
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


def _stack(trace: Trace, order: dict[fx.Node, int], run: list[list[_Step]]) -> Stack:
    kinds: dict[object, int] = {}
    blocks = []
    for index, steps in enumerate(run):
        nodes = _owned(order, itertools.chain.from_iterable(step.region for step in steps), steps[0].entry)
        uses = tuple(_uses(trace, nodes))
        inner = set(nodes)
        outside = {s for node in nodes for s in node.all_input_nodes if s not in inner and s is not steps[0].entry}
        key = (
            tuple(str(node.target) for node in nodes if node.op == "call_function" and not identity(node.target)),
            tuple(trace.state[name].shape for *_, name in uses),
            tuple(sorted(order[s] for s in outside if s.op != "get_attr")),
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
