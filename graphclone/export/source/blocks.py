"""Which parts of a child's graph become modules: its repeated blocks, where each of them can be run in one go."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import fx

from graphclone.execute.graph import Member
from graphclone.export.source.body import Item, Loop, Section
from graphclone.inplace import mutates
from graphclone.written import is_write


def sections(graph: fx.Graph, names: Sequence[str]) -> list[Section]:
    """The blocks of a graph, in order; `names`: of the child's tensors. A stack whose blocks have no modules of their own, or cannot be
    run one by one, has none."""
    members: dict[str, dict[tuple[int, int], list[fx.Node]]] = defaultdict(lambda: defaultdict(list))
    for node in graph.nodes:
        member: Member | None = node.meta.get("member")
        if member is not None and node.op == "call_function":
            members[member.stack][member.index, member.turn].append(node)
    found: list[Section] = []
    for blocks in members.values():
        stack = _shortened([_section(nodes, names) for _, nodes in sorted(blocks.items())], names)
        paths = [each.path for each in stack]
        apart = len(set(paths)) == len(paths) and not any(a != b and f"{a}.".startswith(f"{b}.") for a in paths for b in paths)
        if all(paths) and apart and ordered(graph, [*found, *stack]) is not None:
            found += stack
    return found


def _section(nodes: list[fx.Node], names: Sequence[str]) -> Section:
    member: Member = nodes[0].meta["member"]
    prefix = f"{member.path}."
    own = any(name.startswith(prefix) for name in names)
    inside = set(nodes)
    given = dict.fromkeys(
        each
        for node in nodes
        for each in node.all_input_nodes
        if each not in inside and not (each.op == "get_attr" and each.meta["tensor"].startswith(prefix))
    )
    entry = next((each for each in given if member.stack in each.meta.get("enters", ())), None)
    exits = [node for node in nodes if node.meta["member"].exit]
    read = [node for node in nodes if node not in exits and any(user not in inside for user in node.users)]
    inputs = tuple(dict.fromkeys([*([entry] if entry is not None else []), *given]))
    return Section(member.path if own else "", inputs, tuple(nodes), (*exits, *read), entry)


def _shortened(stack: list[Section], names: Sequence[str]) -> list[Section]:
    """The sections, called by the part of their paths that tells them apart: `block.0`, where `block.0.layer` is all that it holds."""
    short = [each.path.rpartition(".") for each in stack]
    outer = [f"{head}." for head, *_ in short]
    alike = len({last for *_, last in short}) == 1 and len(set(outer)) == len(stack) > 1 and all(head for head, *_ in short)
    if not alike or any(
        n.startswith(o) and not n.startswith(f"{s.path}.") for s, o in zip(stack, outer, strict=True) for n in names
    ):
        return stack
    return _shortened([replace(each, path=head) for each, (head, *_) in zip(stack, short, strict=True)], names)


def ordered(graph: fx.Graph, found: Sequence[Section]) -> list[fx.Node | Section] | None:
    """The nodes of a graph with each section in one piece, every value before it is read; None if there is no such order, or only one
    in which random numbers are drawn or buffers written in another order."""
    owner: dict[fx.Node, fx.Node | Section] = {node: section for section in found for node in section.nodes}
    items: dict[fx.Node | Section, int] = {}
    for position, node in enumerate(graph.nodes):
        if node.op == "call_function":
            items.setdefault(owner.get(node, node), position)
    waits: dict[fx.Node | Section, set[fx.Node | Section]] = {}
    follow: dict[fx.Node | Section, list[fx.Node | Section]] = defaultdict(list)
    for item in items:
        given = item.inputs if isinstance(item, Section) else item.all_input_nodes
        waits[item] = {owner.get(each, each) for each in given if each.op == "call_function"}
        for each in waits[item]:
            follow[each].append(item)
    ready = [(position, number, item) for number, (item, position) in enumerate(items.items()) if not waits[item]]
    numbers = itertools.count(len(items))
    heapq.heapify(ready)
    result: list[fx.Node | Section] = []
    while ready:
        _, _, item = heapq.heappop(ready)
        result.append(item)
        for each in follow[item]:
            waits[each].discard(item)
            if not waits[each]:
                heapq.heappush(ready, (items[each], next(numbers), each))
    flat = [node for item in result for node in (item.nodes if isinstance(item, Section) else (item,))]
    before = [node for node in graph.nodes if node.op == "call_function"]
    same = flat == before if any(map(_writes, before)) else _effects(flat) == _effects(before)
    return result if len(result) == len(items) and same else None


def _writes(node: fx.Node) -> bool:
    """Whether it writes into a value on the way: whoever reads that must come neither earlier nor later."""
    return mutates(node) and not is_write(node)


def _effects(nodes: Sequence[fx.Node]) -> dict[object, list[fx.Node]]:
    """What has to be done in this order: random draws, and what reads or writes a buffer that is written."""
    found: dict[object, list[fx.Node]] = defaultdict(list)
    written = {node.args[0].target for node in nodes if is_write(node)}  # type: ignore[union-attr]
    for node in nodes:
        if node.target is torch.ops.aten.batch_norm.default and node.args[5]:
            written |= {each.target for each in node.args[3:5] if isinstance(each, fx.Node)}
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
            found["random"].append(node)
        for each in node.all_input_nodes:
            if each.op == "get_attr" and each.target in written:
                found[each.target].append(node)
    return found


def looped(items: Iterable[fx.Node | Section], names: Sequence[str]) -> Iterator[Item]:
    """The items, with sections that follow each other in one loop where the container holds just these, in this order."""
    for is_section, run in itertools.groupby(items, lambda item: isinstance(item, Section)):
        chain: list[Section] = []
        for item in run if is_section else ():
            assert isinstance(item, Section)
            if chain and not _follows(chain[-1], item):
                yield from _loops(chain, names)
                chain = []
            chain.append(item)
        yield from _loops(chain, names) if is_section else run


def _follows(first: Section, then: Section) -> bool:
    if len(first.outputs) != 1 or len(then.outputs) != 1 or then.entry is not first.outputs[0]:
        return False
    inside = set(then.nodes)
    return all(user in inside for user in then.entry.users) and first.inputs[1:] == then.inputs[1:]


def _loops(chain: list[Section], names: Sequence[str]) -> Iterator[Item]:
    container = chain[0].path.rpartition(".")[0] if chain else ""
    depth = len(container.split(".")) if container else 0
    held = dict.fromkeys(".".join(name.split(".")[: depth + 1]) for name in names if name.startswith(f"{container}."))
    if len(chain) > 1 and container and list(held) == [section.path for section in chain]:
        yield Loop(container, tuple(chain))
    else:
        yield from chain
