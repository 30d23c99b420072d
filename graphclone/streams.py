"""The streams of a graph: chains of values that all paths to the output run through.

Every value has an immediate post-dominator: the first value that all of its paths to the output run through. Following these from
an embedding gives the values of the stream, one behind the other, whatever happens in between; what is read from elsewhere (masks,
rotary tables, encoder states) is not on the way. Each step along the stream is described by the parameters that it uses and how.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import torch
from torch import fx

from graphclone.capture import Trace
from graphclone.rules import elementwise, mixing

Signature = tuple[tuple[object, int, int], ...]  # (op, which input, rank) of each use of a parameter


@dataclass(frozen=True)
class Flow:
    """The edges of a graph, read once: where a node stands, its inputs, and which of these are parameters (position, name, rank)."""

    order: dict[fx.Node, int]
    inputs: Mapping[fx.Node, list[fx.Node]]
    uses: Mapping[fx.Node, list[tuple[int, str, int]]]

    @classmethod
    def of(cls, trace: Trace) -> Flow:
        inputs = {node: [each for each in node.all_input_nodes if not is_number(each)] for node in trace.graph.nodes}
        uses: dict[fx.Node, list[tuple[int, str, int]]] = collections.defaultdict(list)
        for node in trace.graph.nodes:
            if node.op == "get_attr" and node.target in trace.parameters:
                name = str(node.target)
                for user in node.users:
                    uses[user].append((inputs[user].index(node), name, trace.state[name].dim()))
        return cls(
            {node: index for index, node in enumerate(inputs)}, inputs, {node: sorted(each) for node, each in uses.items()}
        )

    def owned(self, region: Iterable[fx.Node], entry: fx.Node) -> list[fx.Node]:
        """The region and all that feeds nothing else (its parameters, and what is made of them), in graph order."""
        owned = dict.fromkeys(region)
        todo = list(owned)
        while todo:
            for source in self.inputs[todo.pop()]:
                if (
                    source not in owned
                    and source is not entry
                    and source.op in ("call_function", "get_attr")
                    and all(user in owned for user in source.users)
                ):
                    owned[source] = None
                    todo.append(source)
        return sorted(owned, key=self.order.__getitem__)

    def signature(self, nodes: list[fx.Node]) -> Signature:
        """How parameters are used, in order, and which ops mix positions without any."""
        if not any(node in self.uses for node in nodes):
            return ()
        signed: list[tuple[object, int, int]] = []
        for node in nodes:
            if node in self.uses:
                signed += ((node.target, position, rank) for position, _, rank in self.uses[node])
            elif mixing(node.target):
                signed.append((node.target, -1, 0))
        return tuple(signed)


@dataclass(frozen=True)
class Step:
    """A part of a stream: from one value that all paths share to the next. Without parameters it has no `signature`, and may belong
    to what comes before it or to what comes after."""

    entry: fx.Node
    nodes: tuple[fx.Node, ...]
    signature: Signature = ()

    @property
    def exit(self) -> fx.Node:
        return self.nodes[-1]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(getattr(value, "shape", (0,)))


def is_number(node: fx.Node) -> bool:
    """Whether a value is an open size, or computed from such: what is read for its shape only is on no stream."""
    return isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat))


def sinks(graph: fx.Graph) -> Iterator[list[fx.Node]]:
    """The outputs that stream values have to reach: all of them, or (losses, states, early exits are returned too) a single one.
    An output that another one is made of holds no more of a stream than that other."""
    output = next(reversed(graph.nodes))
    results = output.all_input_nodes
    yield [output]
    if len(results) > 1:
        inner: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if any(user in inner or user in results for user in node.users):
                inner.add(node)
        yield from ([node] for node in results if node not in inner)


def streams(flow: Flow, sinks: list[fx.Node], known: Set[Signature]) -> Iterator[list[Step]]:
    """The post-dominator tree taken apart into chains, the deepest first: each value is followed by at most one before it.

    The inside of a step that repeats starts no chain of its own; that of another may hold a whole stack (a second stream, which
    reads what came out of the first). A step may be alone if its signature is `known`.
    """
    above, depth = _post_dominators(flow, sinks)
    below: dict[fx.Node, list[fx.Node]] = collections.defaultdict(list)
    for node in reversed(above):
        below[above[node]].append(node)
    before = {node: _previous(flow, node, values) for node, values in below.items()}
    starts = [node for node in sorted(above, key=lambda node: -depth[node]) if node not in before and _may_start(flow, node)]
    chains = [_chain(flow, above, before, start) for start in starts]
    chains = [steps for steps in chains if sum(1 for step in steps if step.signature) > (0 if known else 1)]
    inside: set[fx.Node] = set()
    for steps in chains:
        counts = collections.Counter(step.signature for step in steps if step.signature)
        repeated = [step for step in steps if counts[step.signature] > 1 or step.signature in known]
        inside.update(node for step in repeated for node in step.nodes[:-1])
    for steps in chains:
        if steps[0].entry not in inside and steps[0].exit not in inside:
            yield steps


def _post_dominators(flow: Flow, sinks: Iterable[fx.Node]) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, int]]:
    """Immediate post-dominator of every node that reaches a sink, and its depth below the sink, in one backward sweep."""
    above: dict[fx.Node, fx.Node] = {}
    depth = dict.fromkeys(sinks, 0)
    for node in reversed(flow.order):
        meeting = None
        if node in depth or is_number(node):
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


def _may_start(flow: Flow, node: fx.Node) -> bool:
    """Whether a stream may begin here: at any value, and at a parameter that is the first operand of an op (a class token)."""
    return node.op != "get_attr" or any(flow.inputs[user][0] is node and not mixing(user.target) for user in node.users)


def _chain(flow: Flow, above: Mapping[fx.Node, fx.Node], before: Mapping[fx.Node, fx.Node], start: fx.Node) -> list[Step]:
    """The steps from one leaf of the tree up to where another chain goes on."""
    steps: list[Step] = []
    node, entry, since = start, start, 0  # the signature of a step counts what comes before it from `entry`, steps[since:]
    while node in above and before[above[node]] is node:
        if above[node].op != "call_function":
            break
        step = Step(node, (*_between(above, node, above[node]), above[node]))
        node = step.exit
        steps.append(step)
        region = [each for step in steps[since:] for each in step.nodes]
        if signature := flow.signature(flow.owned(region, entry)):
            first = next(
                i for i, each in enumerate(steps[since:], since) if each is step or any(mixing(n.target) for n in each.nodes)
            )
            merged = tuple(each for step in steps[first:] for each in step.nodes)
            steps[first:] = [Step(steps[first].entry, merged, signature)]
        elif len(region) > 1 or not since or math.prod(shape_of(node)) != math.prod(shape_of(entry)):
            continue
        entry, since = node, len(steps)
    return steps


def _previous(flow: Flow, node: fx.Node, below: list[fx.Node]) -> fx.Node:
    """Which of the values that a node post-dominates is the stream before it: the first that reaches it, in the same shape,
    through elementwise ops only (the skip connection); else one of its own inputs."""
    values = [each for each in below if each.op != "get_attr"]
    if len(values) < 2:
        return (values or below)[0]
    direct, todo = set(flow.inputs[node]), [node]
    reached = set(direct)
    while todo and len(reached) < 64:
        current = todo.pop()
        if current is node or elementwise(current.target):
            reached.update(flow.inputs[current])
            todo += [each for each in flow.inputs[current] if flow.order[each] > flow.order[values[0]]]

    def preference(each: fx.Node) -> tuple[bool, bool, int]:
        skips = each in reached and shape_of(each) == shape_of(node)
        return not skips, not skips and each not in direct, flow.order[each]

    return min(values, key=preference)


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
