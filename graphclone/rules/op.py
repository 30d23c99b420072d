"""What a rule sees, the registry of rules, and `apply`: the one function that runs them.

A rule states mathematics only: which axes of the operands are the same, and what the axes of the result are made of. Arguments by
schema name, defaults, negative dims, reasons with their source line, and the closed world are handled here, once.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx

from graphclone import axes as algebra
from graphclone.axes import Axis, find
from graphclone.capture import source_line
from graphclone.dynamic import compound, settled
from graphclone.errors import SizeError

Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Typed:
    """The type of a tensor: the axis of each dim and, where its integers are positions on an axis, that axis (`domain`)."""

    axes: Axes
    domain: Axis | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is frozen; the node's source line is looked up when it is printed."""

    why: str
    node: fx.Node | None = None

    def __str__(self) -> str:
        if self.node is None:
            return self.why
        where = source_line(self.node.stack_trace)
        return f"{self.why}: {name_of(self.node.target)}" + (f" at {where}" if where else "")


@dataclass(frozen=True, slots=True)
class Contraction:
    """An axis that an op sums over; `operands` are the (node, dim) pairs that carry it; `averaged`: the op itself allows for its size."""

    node: fx.Node
    axis: Axis
    operands: tuple[tuple[fx.Node, int], ...]
    averaged: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules found out: a type per node, and what analysis needs besides.

    `sizes[node][argument, position]` is the axis whose size an integer argument states (position None: a plain integer); `open`
    are the axes of the inputs whose sizes may vary, and `follows` those whose sizes the graph computes from them; `least`, axes of which
    so many positions have to stay; `weights` are the names of the parameters; `generic` remembers what `ties` found out; `elsewhere`: the
    sizes are not the example's, and then what values decide, or what torch does not check (`s` of an attention's keys and values), may
    not fit.
    """

    types: dict[fx.Node, Any] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    normalised: list[Axis] = field(default_factory=list)
    sizes: dict[fx.Node, dict[tuple[str, int | None], Axis]] = field(default_factory=dict)
    open: list[Axis] = field(default_factory=list)
    follows: list[tuple[Axis, fx.Node]] = field(default_factory=list)
    least: list[tuple[Axis, int, Reason]] = field(default_factory=list)
    weights: frozenset[str] = frozenset()
    generic: dict[fx.Node, bool] = field(default_factory=dict)
    elsewhere: bool = False


class Opaque(Exception):
    """Raised by a rule for a call that it cannot describe, with the reason: then every axis is frozen."""


Rule = Callable[["Op"], Any]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}
_ELEMENTWISE: set[Rule] = set()
_MIXING: set[Rule] = set()
_IDENTITY: set[Rule] = set()


def rule(*names: str, elementwise: bool = False, mixing: bool = False, identity: bool = False) -> Callable[[R], R]:
    """Register a rule. A name is an ATen op (`"cat"`, all overloads), one overload (`"max.dim"`), or `"mylib::op"`; a string may
    hold several.

    `elementwise`: it treats every position alike and moves none; `identity`: not even the values change, casts apart; `mixing`: it
    sums over an axis that two operands share.
    """

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(" ".join(names).split(), function))
        _forget()
        if elementwise:
            _ELEMENTWISE.add(function)
        if mixing:
            _MIXING.add(function)
        if identity:
            _IDENTITY.add(function)
        return function

    return register


def name_of(target: Any) -> str:
    """`aten.linear` for an op, the function's name for anything else."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.replace("::", ".")
    return getattr(target, "__name__", str(target))


@functools.cache
def rule_for(target: Any) -> Rule | None:
    """The rule of an op: by overload, by name, or by torch's own tag for elementwise ops."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, name = target._schema.name.split("::")
    name = name if namespace == "aten" else f"{namespace}::{name}"
    found = RULES.get(f"{name}.{target._overloadname}") or RULES.get(name)
    return found or (RULES["pointwise"] if torch.Tag.pointwise in target.tags else None)


@functools.cache
def elementwise(target: Any) -> bool:
    """Whether an op treats every position alike and moves none."""
    return rule_for(target) in _ELEMENTWISE


@functools.cache
def identity(target: Any) -> bool:
    """Whether an op gives its first tensor as it is, casts apart."""
    return rule_for(target) in _IDENTITY


@functools.cache
def mixing(target: Any) -> bool:
    """Whether an op sums over an axis that two operands share: linear maps and attention."""
    return rule_for(target) in _MIXING


def _forget() -> None:
    """A rule that comes later counts as well."""
    for cached in (rule_for, elementwise, identity, mixing):
        cached.cache_clear()


@functools.cache
def _schema(target: torch._ops.OpOverload) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value) for a in target._schema.arguments)


def as_int(value: Any) -> int:
    """An integer as traced: a symbolic size counts as its value in the example inputs."""
    if isinstance(value, fx.Node):
        value = value.meta["val"]
    if isinstance(value, torch.SymInt):
        value = value.node.maybe_as_int() if value.node.hint is None else value.node.hint
    if value is None:
        raise Opaque("one of its numbers depends on values")
    return int(value)


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(size if type(size) is int else as_int(size) for size in value.shape)


class Op:
    """One call, as a rule sees it."""

    __slots__ = ("_indices", "_read", "args", "facts", "node")

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        self.node, self.facts = node, facts
        schema = _schema(cast(torch._ops.OpOverload, node.target))
        self.args: dict[str, Any] = dict(schema)
        for (name, _), value in zip(schema, node.args, strict=False):
            self.args[name] = value
        for name, value in node.kwargs.items():  # a schema may call its first argument `self` or `input`: names are torch's
            self.args[name] = value
        self._read: set[str] = set()
        self._indices: set[str] = set()

    # -- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, *names: str) -> Any:
        """The first of these arguments that the op has (overloads differ in names)."""
        return next((self.args[name] for name in names if name in self.args), None)

    @property
    def first(self) -> str:
        """The name of the first tensor argument."""
        return next(name for name, value in self.args.items() if isinstance(value, fx.Node) and value in self.facts.types)

    def type(self, name: str) -> Typed:
        return cast(Typed, self.facts.types[self.args[name]])

    def has(self, name: str) -> bool:
        """Whether a tensor was given for this argument."""
        return isinstance(self.args.get(name), fx.Node)

    def axes(self, name: str) -> Axes:
        """The axes of one tensor argument."""
        return tuple(map(find, self.type(name).axes))

    def lists(self, name: str) -> list[Axes]:
        """The axes of each tensor of a tensor-list argument."""
        return [tuple(map(find, self.facts.types[each].axes)) for each in self.args[name]]

    def dim(self, name: str, rank: int) -> int:
        return as_int(self.args[name]) % rank if rank else 0

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """A list of dims; None or an empty list means all of them."""
        value = self.args.get(name)
        if value is None or value == []:
            return tuple(range(rank))
        return tuple(as_int(each) % rank for each in (value if isinstance(value, (list, tuple)) else [value]) if rank)

    def shape(self, result: int | None = None) -> tuple[int, ...]:
        """The traced shape of the result (of one of several results)."""
        value = self.node.meta["val"]
        return shape_of(value if result is None else value[result])

    # -- stating ---------------------------------------------------------------------------------------------------

    def unify(self, a: Axis, b: Axis) -> Axis:
        """Say that two axes are the same; a dim of one position broadcasts."""
        if a.size == 1 or a is b:
            return b
        if b.size != 1:
            algebra.unify(a, b, Reason("digits that have no common refinement meet here", self.node))
            return find(a)
        return a

    def broadcast(self, *operands: Axes) -> Axes:
        """Operands aligned at their last dims."""
        rank = max((len(axes) for axes in operands), default=0)
        result = [algebra.UNIT] * rank if rank else []
        merged: list[Axis] = list(result)
        for axes in operands:
            for index, axis in enumerate(axes, rank - len(axes)):
                merged[index] = self.unify(merged[index], axis)
        return tuple(merged)

    def freeze(self, axis: Axis, why: str) -> Axis:
        algebra.freeze(axis, Reason(why, self.node))
        return find(axis)

    def positional(self, size: int, why: str = "its positions are not alike") -> Axis:
        """A new frozen axis."""
        return algebra.factor(size, frozen=Reason(why, self.node))

    def contract(self, axis: Axis, *operands: tuple[str | fx.Node, int], averaged: bool = False) -> None:
        """Say that an axis is summed over, and which dims of which operands carry it."""
        places = tuple((self.args[each] if isinstance(each, str) else each, dim) for each, dim in operands)
        self.facts.contractions.append(Contraction(self.node, axis, places, averaged))

    def normalise(self, *axes: Axis) -> None:
        """Say that results depend on the axis as a whole (a norm, a softmax, a mean): dropping is not the same as zeroing."""
        self.facts.normalised.extend(axis for axis in axes if axis.size > 1)

    def at_least(self, axis: Axis, count: Any) -> None:
        """Say that the op needs so many positions of the axis."""
        if isinstance(count, fx.Node):  # more of them for larger inputs
            self.facts.follows.append((axis, self.node))
        count = as_int(count)
        self.facts.least.append((axis, count, Reason(f"{count} of its positions are chosen", self.node)))

    def index(self, name: str, axis: Axis) -> None:
        """Say that the integers of an argument are positions on `axis`."""
        self._indices.add(name)
        domain = self.type(name).domain
        if domain is not None and domain.size == axis.size:
            self.unify(axis, domain)
            return
        self.freeze(axis, f"indexed by integers of unknown meaning ({name})")
        if domain is not None:
            self.freeze(domain, "its positions index an axis of another size")

    def shape_only(self, *names: str) -> None:
        """Say that an argument is read for its shape only."""
        self._read.update(names)

    def reads(self, *names: str) -> None:
        """Say that the rule has dealt with every axis and index of these arguments."""
        self._read.update(names)

    def sizes(self, name: str, axes: Axis | Sequence[Axis], first: int = 0) -> None:
        """Say that an integer argument (or a list, from position `first`) states the size of an axis. What the graph computes from open
        sizes states it for good: a child computes it as before."""
        if self.args.get(name) is None:
            return
        places: Iterable[tuple[int | None, Axis]] = [(None, cast(Axis, axes))]
        if isinstance(axes, (list, tuple)):
            places = enumerate(axes, first)
        for place, axis in places:
            if isinstance(self.args[name] if place is None else self.args[name][place], fx.Node):
                self.facts.follows.append((axis, self.node))
            else:
                self.facts.sizes.setdefault(self.node, {})[name, place] = axis

    # -- the closed world ------------------------------------------------------------------------------------------

    def close(self, results: Iterable[Typed]) -> None:
        """Freeze every input factor that is neither carried to a result nor contracted, and every index domain that is lost."""
        if elementwise(self.node.target) and not any(self._has_domain(each) for each in self.node.all_input_nodes):
            return  # whatever it is given, it carries
        typed = [
            (name, known)
            for name, value in self.args.items()
            if name not in self._read
            for each in (value if isinstance(value, (list, tuple)) else (value,))
            if isinstance(each, fx.Node) and isinstance(known := self.facts.types.get(each), Typed)
        ]
        if not typed:
            return
        results = list(results)
        kept = [axis for result in results for axis in result.axes]
        for contraction in reversed(self.facts.contractions):
            if contraction.node is not self.node:
                break
            kept.append(contraction.axis)
        self._freeze_lost(
            (axis for _, each in typed for axis in each.axes), kept, "neither carried to the result nor summed over"
        )
        domains = (each.domain for name, each in typed if each.domain is not None and name not in self._indices)
        carried = [result.domain for result in results if result.domain is not None]
        self._freeze_lost(domains, carried, "its positions are used as numbers")

    def follow(self, results: Sequence[Typed]) -> None:
        """Note what has a size that the graph computes: a child computes it as its parent does."""
        stated = self.get("shape", "size") or ()
        stated = stated if isinstance(stated, (list, tuple)) else ()
        for typed in results:
            for axis, size in zip(typed.axes, stated, strict=False):
                if isinstance(size, fx.Node):
                    if settled(size.meta.get("open")):
                        self.freeze(axis, "a size that is computed from values")
                    else:
                        self.facts.follows.append((axis, self.node))
        value = self.node.meta.get("open")
        if value is None or not any(compound(each.meta.get("open")) for each in self.node.all_input_nodes):
            return
        for typed, each in zip(results, value if isinstance(value, (tuple, list)) else (value,), strict=True):
            if len(stated) != len(typed.axes):
                computed = (axis for axis, size in zip(typed.axes, each.shape, strict=True) if compound(size))
                self.facts.follows.extend((axis, self.node) for axis in computed)

    def _freeze_lost(self, axes: Iterable[Axis], kept: Sequence[Axis], why: str) -> None:
        lost = [axis for axis in map(find, axes) if axis.size > 1 and axis not in kept]
        if lost := lost and [axis for axis in lost if axis not in [find(each) for each in kept]]:
            carried = {factor for axis in kept for factor in algebra.factors(axis)}
            for factor in itertools.chain.from_iterable(map(algebra.factors, lost)):
                if (factor.frozen is None or factor.order) and factor not in carried:
                    algebra.freeze(factor, Reason(why, self.node))

    def _has_domain(self, node: fx.Node) -> bool:
        typed = self.facts.types.get(node)
        return isinstance(typed, Typed) and typed.domain is not None


def apply(node: fx.Node, facts: Facts) -> None:
    """Give a type to one call. An op with no rule that does not merely move elements freezes every axis that it touches."""
    if node.target is operator.getitem and isinstance(facts.types.get(cast(fx.Node, node.args[0])), list):
        facts.types[node] = facts.types[cast(fx.Node, node.args[0])][cast(int, node.args[1])]
        return
    if not isinstance(node.target, torch._ops.OpOverload):
        _opaque(node, facts, "opaque")
        return
    if node.target is torch.ops.aten.sym_size.int:
        return  # an open size: whoever is given it is looked after by `Op.follow`
    try:
        facts.types[node] = _typed(node, facts)
    except Opaque as reason:
        _opaque(node, facts, f"opaque, {reason}")
    except SizeError:
        if not facts.elsewhere:
            raise
        _opaque(node, facts, "sizes do not fit here when the inputs have another size")


def _typed(node: fx.Node, facts: Facts) -> Any:
    """What the rule of an op says of its result, or of each of its results."""
    op, found, value = Op(node, facts), rule_for(node.target) or RULES["otherwise"], node.meta.get("val")
    if not isinstance(value, (Tensor, tuple, list)):
        raise Opaque("its result is no tensor")
    many = not isinstance(value, Tensor)
    given: Any = found(op)
    results = [each if isinstance(each, Typed) else Typed(tuple(each)) for each in (given if many else [given])]
    op.close(results)
    op.follow(results)
    for typed, each in zip(results, value if many else [value], strict=True):
        if tuple(axis.size for axis in typed.axes) != shape_of(each):
            raise SizeError(f"rule of {name_of(node.target)} gives {typed.axes} for a result of shape {shape_of(each)}")
    return results if many else results[0]


def _opaque(node: fx.Node, facts: Facts, why: str) -> None:
    reason = Reason(why, node)
    for source in node.all_input_nodes:
        known = facts.types.get(source)
        for typed in known if isinstance(known, list) else [known]:
            if isinstance(typed, Typed):
                for axis in (*typed.axes, *((typed.domain,) if typed.domain is not None else ())):
                    algebra.freeze(axis, reason)

    def fresh(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Typed(tuple(algebra.factor(size, frozen=reason) for size in shape_of(value)))
        return [fresh(each) for each in value] if isinstance(value, (tuple, list)) else None

    facts.types[node] = fresh(node.meta.get("val"))
