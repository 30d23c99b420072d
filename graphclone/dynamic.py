"""Open sizes: the dims of the inputs that a trace leaves open, and what its values are at other sizes.

A trace with open dims is analysed at its example sizes, and once more at others: what holds at one of them only, because two
numbers happen to meet there, is frozen.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from graphclone.errors import SizeError

Dynamic = bool | Mapping[str, Any] | Sequence[Sequence[int]]
Sizes = Mapping[Any, int]


@dataclass(frozen=True)
class Open:
    """What torch.export left open.

    **Attributes**: `names` and `shapes`, of the inputs as flat leaves (a shape holds expressions; it is None for what is no tensor);
    `sizes`, what each symbol is in the trace's values; `other`, a second such choice; `guards`, what was found true of the symbols
    while tracing: where one of them fails, the model computes by another program; `ranges`, symbol → least and largest size.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[Any, ...] | None, ...]
    sizes: Sizes
    other: Sizes
    guards: tuple[Any, ...]
    ranges: Mapping[Any, Any]

    @property
    def single(self) -> set[Any]:
        """The sizes of which no second one is known, at which a structure that they have by chance would show."""
        return {symbol for symbol, size in self.sizes.items() if self.other[symbol] == size}

    @property
    def dims(self) -> list[list[int]]:
        """The open dims of each leaf: what `capture(dynamic=…)` takes, as data."""
        return [[dim for dim, size in enumerate(shape or ()) if not isinstance(size, int)] for shape in self.shapes]

    def without(self, closed: Collection[Any]) -> list[list[int]]:
        """The open dims that none of these sizes has a part in."""
        shapes = zip(self.dims, self.shapes, strict=True)
        return [[dim for dim in dims if shape and shape[dim].free_symbols.isdisjoint(closed)] for dims, shape in shapes]

    @classmethod
    def nothing(cls, names: Sequence[str], shapes: Sequence[tuple[int, ...] | None]) -> Open:
        """What a graph of fixed sizes leaves open."""
        return cls(tuple(names), tuple(shapes), {}, {}, (), {})

    def check(self, leaves: Sequence[Any]) -> None:
        """**Raises** `SizeError` if inputs have a size that the graph was not traced for."""
        sizes: dict[Any, Any] = {}
        because = (
            f"the graph was captured with open sizes at {self}" if self.sizes else "it was captured for inputs of these sizes"
        )
        attempt = "" if self.sizes else "capture(…, dynamic=True), which leaves sizes open"
        for name, shape, leaf in zip(self.names, self.shapes, leaves, strict=False):
            if shape is None or not isinstance(leaf, Tensor):
                continue
            if leaf.dim() != len(shape):
                raise SizeError(f"'{name}' has {leaf.dim()} dims, and has to have {len(shape)}", because=because, attempt=attempt)
            for dim, (size, found) in enumerate(zip(shape, leaf.shape, strict=True)):
                expected = size if isinstance(size, int) else sizes.setdefault(size, found) if size.is_Symbol else found
                if expected != found:
                    raise SizeError(
                        f"dim {dim} of '{name}' is {found}, and has to be {expected}", because=because, attempt=attempt
                    )
        for guard, holds in self._conditions(sizes):
            if not holds:
                where = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
                raise SizeError(f"the graph was not captured for these sizes: {where}", because=f"it needs {guard}; {self}")

    def _conditions(self, sizes: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
        for symbol, size in sizes.items():
            least, largest = self.ranges.get(symbol, (0, None))
            if least > 2:  # torch takes every open size to be at least 2, and says itself that 1 is fine
                yield f"{symbol} >= {least}", size >= least
            if largest is not None:
                yield f"{symbol} <= {largest}", size <= largest
        for guard in self.guards:
            if all(symbol in sizes for symbol in guard.free_symbols):
                yield str(guard), _at(guard, sizes)

    def allows(self, sizes: Sizes) -> bool:
        return all(holds for _, holds in self._conditions(sizes))

    def fixed(self) -> str:
        """The dims of inputs that stay as in the example, in words: `pixel_values[1] = 3`."""
        return ", ".join(f"{name}[{dim}] = {size}" for name, dim, size in self._each() if isinstance(size, int))

    def varies(self) -> str:
        """The open dims, in words: `input_ids[0], input_ids[1] ≤ 37`."""
        return ", ".join(f"{name}[{dim}]{self._limit(size)}" for name, dim, size in self._each() if not isinstance(size, int))

    def _limit(self, size: Any) -> str:
        largest = self.ranges.get(size, (0, None))[1]
        return f" ≤ {largest}" if largest is not None else ""

    def _each(self) -> Iterable[tuple[str, int, Any]]:
        for name, shape in zip(self.names, self.shapes, strict=True):
            yield from ((name, dim, size) for dim, size in enumerate(shape or ()))

    def shown(self) -> str:
        """The shapes of the inputs at the trace's sizes."""
        shapes = ["×".join(str(_at(size, self.sizes)) for size in shape) for shape in self.shapes if shape]
        return ", ".join(shapes)

    def __str__(self) -> str:
        shapes = zip(self.names, self.shapes, strict=True)
        return ", ".join(f"{name}[{', '.join(map(str, shape))}]" for name, shape in shapes if shape is not None)


def shapes_for(dynamic: Dynamic, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What torch.export takes as `dynamic_shapes`. True: every dim of every tensor, as far as the model allows."""
    if not dynamic or isinstance(dynamic, Mapping):
        return dynamic or None
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    dims = [range(leaf.dim()) if isinstance(leaf, Tensor) else () for leaf in leaves] if dynamic is True else dynamic
    shapes = [
        dict.fromkeys(open_, Dim.AUTO) if isinstance(leaf, Tensor) else None for leaf, open_ in zip(leaves, dims, strict=True)
    ]
    positional, named = pytree.tree_unflatten(shapes, spec)
    return inspect.signature(module.forward).bind(*positional, **named).arguments


def settle(graph: fx.Graph, program: ExportedProgram) -> Open | None:
    """Give every value of a graph its sizes in the example inputs, and say which of them are open (None: none is)."""
    found = left_open({node.name: node.meta.get("val") for node in graph.nodes if node.op == "placeholder"}, program)
    sizes: set[fx.Node] = set()  # computed from sizes alone: the values of a tensor decide nothing in them
    for node in list(graph.nodes):
        computed = node.op == "call_function" and isinstance(node.meta.get("val"), (SymInt, SymFloat))
        if computed and (node.target is torch.ops.aten.sym_size.int or sizes.issuperset(node.all_input_nodes)):
            sizes.add(node)
            _write_out(node)
    for node in graph.nodes if found else ():
        if is_open(node.meta.get("val")):
            node.meta["open"] = node.meta["val"]
            node.meta["val"] = at_sizes(node.meta["val"], found.sizes)  # type: ignore[union-attr]
    return found


def _write_out(node: fx.Node) -> None:
    """A size that was computed while it might have been open, and is not: a number, as in a graph that was never open. A child, which has
    fewer heads, would compute it as its parent does."""
    expression = node.meta["val"].node.expr
    if expression.is_number:
        number = int(expression) if isinstance(node.meta["val"], SymInt) else float(expression)
        for user in list(node.users):
            args, kwargs = fx.map_arg((user.args, user.kwargs), lambda each: number if each is node else each)
            user.args, user.kwargs = args, kwargs
        node.graph.erase_node(node)


def left_open(inputs: Mapping[str, Any], program: ExportedProgram) -> Open | None:
    """Which sizes of its inputs (name → value in the program's graph) a program leaves open (None: none of them)."""
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and is_open(value)]
    if not tensors:
        return None
    shapes = tuple(tuple(map(_expression, val.shape)) if isinstance(val, Tensor) else None for val in inputs.values())
    environment = tensors[0].fake_mode.shape_env  # type: ignore[attr-defined]
    known = getattr(environment, "backed_var_to_val", None) or environment.var_to_val  # torch < 2.10 has another name for it
    symbols = {symbol for shape in shapes for size in shape or () if not isinstance(size, int) for symbol in size.free_symbols}
    sizes = {symbol: int(known[symbol]) for symbol in sorted(symbols, key=str)}
    guards = dict.fromkeys(environment.replace(guard.expr) for guard in environment.guards)
    ranges = {
        symbol: (int(found.lower), int(found.upper) if found.upper.is_Integer else None)
        for symbol, found in program.range_constraints.items()
        if symbol in symbols  # of a number that values decide, torch may know only nonsense
    }
    plain = tuple(guard for guard in guards if guard.free_symbols and guard.free_symbols <= symbols)
    found = Open(tuple(inputs), shapes, sizes, sizes, plain, ranges)
    return replace(found, other=_second(found))


def _second(found: Open) -> Sizes:
    """Other sizes that are allowed, as many of them as can be; what was equal stays equal."""
    sizes = dict(found.sizes)
    for old in sorted(set(sizes.values())):
        for new in _others(old):
            trial = {symbol: new if found.sizes[symbol] == old else size for symbol, size in sizes.items()}
            if new > 1 and new not in sizes.values() and found.allows(trial):
                sizes = trial
                break
    return sizes


def _others(size: int) -> Iterable[int]:
    """Sizes to try instead of one: near ones, and those that have something in common with it."""
    yield from (*_primes_above(size), *range(size + 1, size + 9), 2 * size, 3 * size, size - 1)
    yield from (size * part // whole for whole in range(2, 13) for part in range(2 * whole, 0, -1))
    yield from range(size - 2, max(1, size - 65), -1)


def _primes_above(size: int) -> list[int]:
    """The second and the first prime above a size: lengths that meet nothing else by chance."""
    first, second, *_ = (n for n in range(size + 1, 4 * size + 8) if all(n % d for d in range(2, int(n**0.5) + 1)))
    return [second, first]


def at_sizes(value: Any, sizes: Sizes) -> Any:
    """A value with open sizes, at these sizes. (One that depends on data stays as it is.)"""
    if isinstance(value, (tuple, list)):
        return type(value)(at_sizes(each, sizes) for each in value)
    if isinstance(value, (SymInt, SymFloat, SymBool)):
        known = value.node.expr.free_symbols <= set(sizes)
        return _at(value.node.expr, sizes) if known else value
    if isinstance(value, Tensor) and is_open(value):
        shape = [at_sizes(size, sizes) for size in value.shape]
        if all(isinstance(size, int) for size in shape):
            with value.fake_mode:  # type: ignore[attr-defined]
                return torch.empty(shape, dtype=value.dtype, device=value.device)
    return value


def is_open(value: Any) -> bool:
    """Whether a value has an open size, or is one."""
    if isinstance(value, (tuple, list)):
        return any(map(is_open, value))
    if isinstance(value, Tensor):
        return any(isinstance(size, SymInt) for size in value.shape)
    return isinstance(value, (SymInt, SymFloat, SymBool))


def _expression(size: Any) -> Any:
    expression = size.node.expr if isinstance(size, SymInt) else size
    return int(expression) if isinstance(expression, int) or expression.is_number else expression


def decided_sizes(nodes: Iterable[fx.Node]) -> dict[Any, int]:
    """What the values of the example inputs made of the sizes that values decide: symbol → size. (Of the open ones too.)"""
    found: dict[Any, int] = {}
    for node in nodes:
        symbolic, known = node.meta.get("open"), node.meta.get("val")
        pairs = [(symbolic, known)]
        if isinstance(symbolic, Tensor) and isinstance(known, Tensor):
            pairs = list(zip(symbolic.shape, known.shape, strict=True))
        for size, number in pairs:
            if isinstance(size, SymInt) and type(number) is int and size.node.expr.is_Symbol:
                found.setdefault(size.node.expr, number)
    return found


def compound(value: Any) -> bool:
    """Whether a size is computed from open sizes, rather than one of them."""
    return isinstance(value, SymInt) and not value.node.expr.is_Symbol and not value.node.expr.is_number


def settled(value: Any) -> bool:
    """Whether a size that the graph computes is one number, whatever the inputs' sizes are."""
    return not isinstance(value, SymInt) or bool(value.node.expr.is_number)


def resized(found: Open, inputs: Any) -> Any:
    """Inputs at the sizes of a trace: the given ones, repeated or cut in each open dim, so that all values stay valid."""
    leaves, spec = pytree.tree_flatten(inputs)
    made = []
    for leaf, shape in zip(leaves, found.shapes, strict=True):
        for dim, size in enumerate(shape or ()):
            wanted = _at(size, found.sizes)
            if leaf.shape[dim] != wanted:
                leaf = leaf.index_select(dim, torch.arange(wanted, device=leaf.device) % leaf.shape[dim])
        made.append(leaf)
    return pytree.tree_unflatten(made, spec)


def _at(expression: Any, sizes: Mapping[Any, Any]) -> Any:
    """What an expression is when its symbols have these values, plain or themselves open."""
    return expression if isinstance(expression, int) else sympy_interp(PythonReferenceAnalysis, dict(sizes), expression)
