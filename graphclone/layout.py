"""Trace → Layout: for every axis of every tensor, what it is built of; who must move together, and why not."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from graphclone import axes as algebra
from graphclone.axes import Axis, Concat, Factor, Product, find
from graphclone.blocks import Stack, find_blocks
from graphclone.capture import Trace, at_other_sizes
from graphclone.decompose import decompose
from graphclone.dynamic import settled
from graphclone.errors import GraphcloneError, UnknownNameError
from graphclone.rules import Contraction, Facts, Reason, Typed, apply, identity, name_of, rule_for, shape_of


@dataclass(frozen=True)
class Layout:
    """What `analyze` found out about a trace.

    **Attributes**

    - `trace`: the graph that was analysed (ops without a rule are written out in simpler ones where that helps).
    - `factors`: every factor that runs through the model's state or touches its inputs and outputs.
    - `blocks`: the stacks of repeated blocks.
    - `types`: node → the type of its value (a list of types where it has several).
    - `contractions`, `normalised`, `sizes`, `least`: see `graphclone.rules.Facts`.
    """

    trace: Trace
    factors: tuple[Factor, ...]
    blocks: tuple[Stack, ...]
    types: Mapping[fx.Node, Any] = field(repr=False)
    contractions: tuple[Contraction, ...] = field(repr=False)
    normalised: frozenset[Factor] = field(repr=False)
    sizes: Mapping[fx.Node, Mapping[tuple[str, int | None], Axis]] = field(repr=False)
    least: tuple[tuple[Axis, int, Reason], ...] = field(repr=False)
    parameters: Mapping[str, fx.Node] = field(repr=False)

    def __getitem__(self, name: str) -> Factor:
        """The factor of that name, or whose name ends so. **Raises** `UnknownNameError`."""
        found = [each for each in self.factors if each.name == name] or [
            each for each in self.factors if each.name.endswith(f".{name}")
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownNameError(
                f"'{name}' could be any of {len(found)} factors", because=_some(found), attempt="a longer name"
            )
        raise self._unknown(name)

    def __iter__(self) -> Iterator[str]:
        """The names of all factors."""
        return (each.name for each in self.factors)

    def match(self, pattern: str) -> tuple[Factor, ...]:
        """The factor of that name, or those whose names match a pattern (`*.mlp.hidden`) or end so.

        **Raises** `UnknownNameError` if there are none.
        """
        found = tuple(f for f in self.factors if f.name == pattern) or tuple(
            f for f in self.factors if fnmatch.fnmatchcase(f.name, pattern) or fnmatch.fnmatchcase(f.name, f"*.{pattern}")
        )
        if not found:
            raise self._unknown(pattern)
        return found

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The terms of a parameter, buffer or constant. **Raises** `UnknownNameError`."""
        name = self.trace.aliases.get(name, name)
        if name not in self.parameters:
            close = difflib.get_close_matches(name, self.parameters, 3)
            raise UnknownNameError(f"the graph reads no parameter '{name}'", attempt=" or ".join(close))
        axes: tuple[Axis, ...] = self.types[self.parameters[name]].axes
        return axes

    def _unknown(self, name: str) -> UnknownNameError:
        names = [factor.name for factor in self.factors if factor.slots]
        free = {factor.name.rsplit(".", 1)[-1] for factor in self.factors if factor.slots and factor.frozen is None}
        close = difflib.get_close_matches(name, names, 3) or sorted(free)
        return UnknownNameError(f"no factor is called '{name}'", attempt=" or ".join(close))

    def __str__(self) -> str:
        free = sum(1 for factor in self.factors if factor.slots and factor.frozen is None)
        return f"Layout({self.trace}, {free} free factors, {'; '.join(map(str, self.blocks)) or 'no repeated blocks'})"


def _some(found: list[Factor]) -> str:
    return ", ".join(factor.name for factor in found[:4]) + (", …" if len(found) > 4 else "")


def analyze(trace: Trace, like: Sequence[Stack] = ()) -> Layout:
    """Run the rules over a trace, once, from its inputs to its outputs. Needs no weights.

    **Arguments**: `like`, stacks of another layout whose blocks are to be found here, even where they do not repeat.
    """
    if not isinstance(trace, Trace):
        raise GraphcloneError(f"cannot analyse a {type(trace).__name__}", attempt="gc.analyze(gc.capture(model, args, kwargs))")
    trace = decompose(trace, lambda target: rule_for(target) is not None)
    facts = infer(trace)
    if trace.open is not None:
        _confirm(trace, facts, infer(at_other_sizes(trace), elsewhere=True))
        _follow(facts)
    types = {node: _settled(typed) for node, typed in facts.types.items()}
    parameters = {str(node.target): node for node in trace.graph.nodes if node.op == "get_attr"}
    contractions = tuple(replace(c, axis=find(c.axis)) for c in facts.contractions if c.axis.size > 1)
    normalised = frozenset(itertools.chain.from_iterable(algebra.factors(axis) for axis in facts.normalised))
    sizes = {node: {key: find(axis) for key, axis in stated.items()} for node, stated in facts.sizes.items()}
    least = tuple((find(axis), count, reason) for axis, count, reason in facts.least)
    stacks = find_blocks(trace, like)
    factors = _describe(trace, types, contractions, stacks)
    return Layout(trace, factors, stacks, types, contractions, normalised, sizes, least, parameters)


def infer(trace: Trace, elsewhere: bool = False) -> Facts:
    """The facts of a trace, its axes not yet resolved."""
    facts = Facts(weights=trace.parameters, elsewhere=elsewhere)
    for node in trace.graph.nodes:
        if node.op == "call_function":
            apply(node, facts)
        elif node.op in ("placeholder", "get_attr") and hasattr(node.meta.get("val"), "shape"):
            facts.types[node] = Typed(tuple(algebra.factor(size) for size in shape_of(node.meta["val"])))
            if node.op == "placeholder":
                open_ = getattr(node.meta.get("open"), "shape", ())
                facts.open.extend(a for a, size in zip(facts.types[node].axes, open_, strict=False) if not settled(size))
        elif node.op == "output":
            for typed in map(facts.types.get, node.all_input_nodes):
                if isinstance(typed, Typed):
                    _returned(typed)
    return facts


def _returned(typed: Typed) -> None:
    """Whoever gets an output may read its integers as positions, and its order."""
    if typed.domain is not None:
        algebra.freeze(typed.domain, Reason("its positions are an output"))
    for factor in itertools.chain.from_iterable(map(algebra.factors, typed.axes)):
        if factor.order:
            algebra.freeze(factor, Reason("an output is sorted by it"))


def _confirm(trace: Trace, facts: Facts, others: Facts) -> None:
    """Freeze what has one structure at the example sizes and another one at others: two numbers met there by chance."""
    met: dict[Factor, Factor] = {}
    by: dict[Factor, Factor] = {}

    def compare(ours: Axis, theirs: Axis, node: fx.Node) -> None:
        a, b = find(ours), find(theirs)
        if type(a) is Factor and type(b) is Factor and a.size == b.size:
            if met.setdefault(a, b) is not b or by.setdefault(b, a) is not a:
                for each in (a, by.get(b, a)):
                    algebra.freeze(each, Reason("it belongs elsewhere when the inputs have another size", node))
            elif b.frozen is not None:
                algebra.freeze(a, b.frozen)
        elif type(a) is type(b) and type(a) is not Factor and len(a.parts) == len(b.parts):  # type: ignore[union-attr]
            for part, other in zip(a.parts, b.parts, strict=True):  # type: ignore[union-attr]
                compare(part, other, node)
        else:
            algebra.freeze(a, Reason("it is made of other parts when the inputs have another size", node))

    for node, (twin, typed) in zip(facts.types, others.types.items(), strict=True):
        if node.op in ("get_attr", "placeholder"):
            for ours, theirs in zip(facts.types[node].axes, typed.axes, strict=True):
                if not _among(ours, facts.open):
                    compare(ours, theirs, node)
        for key, axis in facts.sizes.get(node, {}).items():
            if (stated := others.sizes.get(twin, {}).get(key)) is not None:
                compare(axis, stated, node)
            else:
                algebra.freeze(axis, Reason("nothing is known of it when the inputs have another size", node))


def _follow(facts: Facts) -> None:
    """Freeze what parameters, and inputs in dims that are not open, have of a size that the graph computes from open ones, or of one of
    these: a child computes it as before."""
    given = (axis for node, typed in facts.types.items() if node.op in ("get_attr", "placeholder") for axis in typed.axes)
    inside = set(_factors(axis for axis in given if not _among(axis, facts.open)))
    for axis in facts.open:
        for factor in inside.intersection(algebra.factors(axis)):
            algebra.freeze(factor, Reason("an open size of an input has it as a part"))
    for axis, node in facts.follows:
        for factor in inside.intersection(algebra.factors(axis)):
            algebra.freeze(factor, Reason("a size that is computed from open sizes", node))


def _among(axis: Axis, axes: Iterable[Axis]) -> bool:
    """Whether it is one of these; another of the same parts is not."""
    return any(axis is each for each in axes)


def _factors(axes: Iterable[Axis]) -> Iterator[Factor]:
    return itertools.chain.from_iterable(map(algebra.factors, axes))


def _settled(typed: Any) -> Any:
    if isinstance(typed, Typed):
        return Typed(tuple(map(find, typed.axes)), typed.domain and find(typed.domain))
    return [_settled(each) for each in typed] if isinstance(typed, list) else None


def origin(node: fx.Node) -> str | None:
    """The parameter that a node is a view of, if it is one."""
    while node.op == "call_function" and (identity(node.target) or _rearranges(node)):
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else None


def _weight(operand: tuple[fx.Node, int]) -> bool:
    """Whether an operand of a contraction is a parameter: a view of it, or the parts of it that were chosen (an expert's)."""
    node, _ = operand
    while node.op == "call_function" and (identity(node.target) or _rearranges(node) or _chosen(node)):
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _chosen(node: fx.Node) -> bool:
    return name_of(node.target) in ("aten.index", "aten.index_select")


def readers(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Where a parameter is used: (op, operand), the operand being the parameter or a view of it."""
    for user in node.users:
        if user.op == "call_function" and (identity(user.target) or _rearranges(user)):
            yield from readers(user)
        elif user.op != "output":
            yield user, node


def _rearranges(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    found = rule_for(node.target)
    return found is not None and found.__module__ == "graphclone.rules.shape" and len(node.all_input_nodes) == 1


# -- names and kinds -------------------------------------------------------------------------------------------------


def _describe(
    trace: Trace, types: Mapping[fx.Node, Any], contractions: Iterable[Contraction], stacks: Iterable[Stack]
) -> tuple[Factor, ...]:
    """Give every factor its slots, whether it is part of the interface, a kind and a name. The kinds are:

    - `residual`: on a stream between blocks, and contracted with parameters;
    - `head_dim`, `heads`, `kv_groups`: digits of a product on a parameter, from the innermost one outwards; or what the products of two
      activations sum over (`head_dim`) and run in parallel over (`heads`);
    - `experts`: what the positions that an op has chosen by value (`topk`, `argmax`) stand on; `expert_groups`: what these are in;
    - `output`, `input`: on a result of the model, or on what it is given; `hidden`: any other that parameters contract; `fixed`: any
      other that is frozen;
    - `inner`: the rest of what has slots;
    - `activation`: on no parameter.
    """
    slots: dict[Factor, dict[tuple[str, int], None]] = defaultdict(dict)
    digits: dict[Factor, str] = {}
    interface: dict[Factor, str] = {}
    given, results = set[Factor](), set[Factor]()
    output = next(reversed(trace.graph.nodes))
    for node in trace.graph.nodes:
        if node.op == "get_attr" and node in types:
            for dim, axis in enumerate(types[node].axes):
                for factor in algebra.factors(axis):
                    slots[factor][str(node.target), dim] = None
                digits.update(_digits(axis) if node.target in trace.parameters else ())
        if node in types and (node.op == "placeholder" or output in node.users):
            for dim, axis in enumerate(types[node].axes if isinstance(types[node], Typed) else ()):
                for factor in algebra.factors(axis):
                    interface.setdefault(factor, f"{node.name if node.op == 'placeholder' else 'output'}.{dim}")
                    (given if node.op == "placeholder" else results).add(factor)
    for factor in {**slots, **interface}:
        factor.slots = tuple(slots.get(factor, ()))
        factor.interface = "input" if factor in given else "output" if factor in results else ""
    for factor, kind in _attention(types, contractions):
        digits.setdefault(factor, kind)
    contracted = {f for c in contractions if any(map(_weight, c.operands)) for f in algebra.factors(c.axis)}
    streams, domains = _streams(types, stacks), list(_domains(types))
    kinds = {**_experts(domains), **digits, **_grouped_experts(domains)}
    for factor in {**slots, **interface}:
        if not factor.slots:
            factor.kind, factor.name = "activation", interface[factor]
        elif factor in streams and factor in contracted:
            factor.kind = "residual"
        elif factor in kinds:
            factor.kind = kinds[factor]
        else:
            inside = "hidden" if factor in contracted else "fixed" if factor.frozen else "inner"
            factor.kind = "output" if factor in results else "input" if factor.interface else inside
    named = list({**slots, **interface})
    _name(named, streams, _owners(stacks))
    return tuple(named)


def _owners(stacks: Iterable[Stack]) -> dict[str, str]:
    """Parameter → the one block that uses it."""
    users: dict[str, set[str]] = defaultdict(set)
    for block in itertools.chain.from_iterable(stack.blocks for stack in stacks):
        for *_, name in block.uses:
            users[name].add(block.name)
    return {name: next(iter(blocks)) for name, blocks in users.items() if len(blocks) == 1}


def _attention(types: Mapping[fx.Node, Any], contractions: Iterable[Contraction]) -> Iterator[tuple[Factor, str]]:
    """What the product of two activations sums over, where it runs in parallel over factors that parameters have too."""
    for contraction in contractions:
        operands = [node for node, _ in contraction.operands]
        if len(operands) == 2 and not any(origin(node) for node in operands):
            first, second = ({f for axis in types[node].axes for f in algebra.factors(axis)} for node in operands)
            summed = set(algebra.factors(contraction.axis))
            if heads := [factor for factor in (first & second) - summed if factor.slots and not _sequential(factor)]:
                yield from ((factor, "heads") for factor in heads)
                yield from ((factor, "head_dim") for factor in summed if not _sequential(factor))


def _domains(types: Mapping[fx.Node, Any]) -> Iterator[Axis]:
    """What integers are positions on, other than an axis's own count (`arange`)."""
    for typed in types.values():
        for each in typed if isinstance(typed, list) else [typed]:
            if each is not None and each.domain is not None and each.axes != (each.domain,):
                yield algebra.find(each.domain)


def _experts(domains: Iterable[Axis]) -> dict[Factor, str]:
    factors = (factor for domain in domains for factor in algebra.factors(domain))
    return {factor: "experts" for factor in factors if factor.frozen is None and factor.slots}


def _grouped_experts(domains: Iterable[Axis]) -> dict[Factor, str]:
    """Of what is chosen in groups: the groups, and the members of each."""
    found: dict[Factor, str] = {}
    for domain in domains:
        if (
            type(domain) is Product
            and domain.parts
            and all(factor.frozen is None and factor.slots for factor in algebra.factors(domain))
        ):
            *outer, last = domain.parts
            found.update({factor: "expert_groups" for part in outer for factor in algebra.factors(part)})
            found.update(dict.fromkeys(algebra.factors(last), "experts"))
    return found


def _sequential(factor: Factor) -> bool:
    """Beside heads that can be dropped, what is frozen or runs along an input is the sequence."""
    return factor.frozen is not None or bool(factor.interface)


def _digits(axis: Axis) -> Iterator[tuple[Factor, str]]:
    """Products inside an axis: `(kv_groups heads head_dim)`, `(heads head_dim)`."""
    if type(axis) is Product and any(factor.frozen is None for factor in algebra.factors(axis)):
        *outer, last = axis.parts
        for part, kind in zip(outer, ["kv_groups", *["heads"] * len(outer)] if len(outer) > 1 else ["heads"], strict=False):
            yield from ((factor, kind) for factor in algebra.factors(part))
        yield from ((factor, "head_dim") for factor in algebra.factors(last))
    elif type(axis) is Concat:
        for part in axis.parts:
            yield from _digits(part)


def _streams(types: Mapping[fx.Node, Any], stacks: Iterable[Stack]) -> dict[Factor, str]:
    """The factors of the values between blocks → the stack where they are met first."""
    streams: dict[Factor, str] = {}
    for stack in stacks:
        entry = types[stack.blocks[0].entry]
        for axis in entry.axes if isinstance(entry, Typed) else ():  # a block may begin with several values at once
            for factor in algebra.factors(axis):
                streams.setdefault(factor, stack.name)
    return streams


def _name(factors: Sequence[Factor], streams: Mapping[Factor, str], owners: Mapping[str, str]) -> None:
    """A name is the module path that a factor's slots have in common (or the block that owns them), and its kind: no two alike, and
    without characters that the notation uses."""
    taken = {factor.name for factor in factors if not factor.slots}
    factors = [factor for factor in factors if factor.slots]
    residual = [factor for factor in factors if factor.kind == "residual"]
    count: dict[str, int] = {}
    for factor in factors:
        if factor.kind == "residual":
            path = streams[factor] if len(residual) > 1 else ""
        else:
            paths = [name.split(".")[:-1] for name, _ in factor.slots]
            shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
            blocks = {owners.get(name, "") for name, _ in factor.slots}
            path = ".".join(parts[0] for parts in shared) or (blocks.pop() if len(blocks) == 1 else "")
        name = re.sub(r"[\s()\[\]+]", "_", f"{path}.{factor.kind}" if path else factor.kind)
        factor.name = ""
        while not factor.name or factor.name in taken:
            count[name] = count.get(name, 0) + 1
            factor.name = name if count[name] == 1 else f"{name}.{count[name]}"
        taken.add(factor.name)
