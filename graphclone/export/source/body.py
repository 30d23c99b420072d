"""A graph, or a part of one, as the statements of a function."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from graphclone.capture import source_line
from graphclone.export.source.expressions import call, value
from graphclone.export.source.names import Locals, base, path


@dataclass(frozen=True)
class Section:
    """Nodes that become a function of their own: what they are given (the stream's entry first), and what of theirs is read elsewhere."""

    path: str
    inputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    entry: fx.Node | None = None


@dataclass(frozen=True)
class Loop:
    """Sections that follow each other, each given what the one before it returns, and all of them the same beside it."""

    container: str
    sections: tuple[Section, ...]


Item = fx.Node | Section | Loop


@dataclass(frozen=True)
class Function:
    """The arguments and the statements of a function."""

    arguments: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Written(Function):
    """A function without its end; `returned`: the texts of what it returns."""

    returned: tuple[str, ...]


@dataclass(frozen=True)
class Tensors:
    """What a module holds: attribute of the graph → the name below the module; `real`: the dtype of most of it, and a tensor of that."""

    names: Mapping[str, str]
    real: torch.dtype | None = None
    like: str = ""
    first: str = ""


def tensors(names: Mapping[str, str], state: Mapping[str, Tensor], real: torch.dtype | None) -> Tensors:
    """`state`: attribute → tensor; `real`: the dtype of most parameters of the child."""
    like = next((names[each] for each in names if state[each].dtype == real), "")
    return Tensors(names, real if like else None, like, next(iter(names.values()), ""))


def majority(state: Iterable[Tensor]) -> torch.dtype | None:
    """The floating dtype of most numbers among some tensors."""
    counts: dict[torch.dtype, int] = {}
    for tensor in state:
        if tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=counts.__getitem__) if counts else None


@dataclass
class _Text:
    """A function while it is written. `dying`: the values that an item is the last to read."""

    held: Tensors
    locals: Locals
    method: Callable[[str], str]
    dying: Mapping[Item, Sequence[fx.Node]]
    anchor: str
    arguments: Sequence[str]
    lines: list[str] = field(default_factory=list)
    header: dict[str, str] = field(default_factory=dict)
    where: str | None = None

    def read(self, given: Any) -> str:
        if isinstance(given, torch.device):
            return self._device(given)
        if isinstance(given, torch.dtype):
            return self._dtype(given)
        if given in self.locals:
            return self.locals[given]
        if given.op == "get_attr":
            return path("self", self.held.names[str(given.target)])
        return call(given, self.read)  # a part of a tuple

    def _device(self, given: torch.device) -> str:
        """What is made on the way is made where the weights are."""
        if not self.anchor:
            return f"torch.device({str(given)!r})"
        return self._named("device", f"{self.anchor}.device")

    def _dtype(self, given: torch.dtype) -> str:
        """A cast to the child's own dtype goes along when the child is cast to a wider one."""
        if given != self.held.real:
            return str(given)
        return self._named("dtype", f"torch.promote_types({given}, {path('self', self.held.like)}.dtype)")

    def _named(self, name: str, found: str) -> str:
        """A variable that is set at the beginning; an argument may have its name already."""
        name = f"own_{name}" if name in self.arguments else name
        self.header[name] = found
        return name

    def write(self, item: Item) -> None:
        if isinstance(item, Section):
            self._call(item)
        elif isinstance(item, Loop):
            self._loop(item)
        elif item.op == "call_function" and not is_part(item):
            self._statement(item)

    def _statement(self, node: fx.Node) -> None:
        text = call(node, self.read)
        self._release(node)
        if node.users:
            text = f"{self.locals.take(node, base(node.name))} = {text}"
        where = source_line(node.meta.get("stack_trace"))
        if where and where != self.where:
            text, self.where = f"{text}  # {where}", where
        self.lines.append(text)

    def _call(self, section: Section) -> None:
        given = ", ".join(self.read(each) for each in section.inputs)
        self._release(section)
        names = [self.locals.take(each, "x" if each is section.outputs[0] else base(each.name)) for each in section.outputs]
        self.lines.append(f"{', '.join(names)} = {path('self', section.path)}{self.method(section.path)}({given})")

    def _loop(self, loop: Loop) -> None:
        first, last = loop.sections[0], loop.sections[-1]
        entry, *given = (self.read(each) for each in first.inputs)
        dying = self.dying.get(loop, ())
        if first.entry in dying:
            self.locals.free(first.inputs[0])
        name = self.locals.take(last.outputs[0], "x")  # the other inputs live on until the loop has ended
        self.lines += [f"{name} = {entry}"] if entry != name else []
        self.lines.append(f"for block in {path('self', loop.container)}.children():")
        self.lines.append(f"    {name} = block{self.method(first.path)}({', '.join([name, *given])})")
        self._release(loop)

    def _release(self, item: Item) -> None:
        for node in self.dying.get(item, ()):
            self.locals.free(node)


def write(
    section: Section,
    items: Sequence[Item],
    arguments: Sequence[str],
    held: Tensors,
    method: Callable[[str], str] = lambda path: "",
    opening: Sequence[tuple[fx.Node, str]] = (),
) -> Written:
    """A section as a function. `items`: its nodes, with those of inner sections in one; `arguments`: the names of its inputs; `method`:
    what is called of the module at a path; `opening`: values that are a part of an argument, and where they are in it."""
    known = Locals(
        {"self", "block", "dtype", "own_device", "own_dtype", *arguments, *(where.partition("[")[0] for _, where in opening)}
    )
    for node, name in zip(section.inputs, arguments, strict=True):
        known.give(node, name)
    lines = [f"{known.take(node, base(node.name))} = {where}" for node, where in opening if node.users]
    tensor = next((known[node] for node in known if isinstance(node.meta.get("val"), Tensor)), "")
    anchor = path("self", held.first) if held.first else tensor
    text = _Text(held, known, method, _dying(section, items), anchor, arguments, lines)
    for item in items:
        text.write(item)
    returned = tuple(value(each, text.read) for each in section.outputs)
    header = (f"{name} = {found}" for name, found in text.header.items())
    return Written(tuple(arguments), (*header, *text.lines), returned)


def is_part(node: fx.Node) -> bool:
    """Whether it is a part of a tuple, which has no statement of its own."""
    return node.target is operator.getitem and isinstance(node.args[1], (int, str))


def _dying(section: Section, items: Sequence[Item]) -> dict[Item, list[fx.Node]]:
    """The values that each item is the last to read."""
    last: dict[fx.Node, Item] = {}
    for item in items:
        for node in _reads(item):
            last.update(dict.fromkeys(_behind(node), item))
    kept = {each for node in section.outputs if isinstance(node, fx.Node) for each in _behind(node)}
    found: dict[Item, list[fx.Node]] = {}
    for node, item in last.items():
        if node not in kept:
            found.setdefault(item, []).append(node)
    return found


def _reads(item: Item) -> Iterator[fx.Node]:
    if isinstance(item, fx.Node):
        yield from () if is_part(item) else item.all_input_nodes
    elif isinstance(item, Section):
        yield from item.inputs
    else:
        yield from itertools.chain.from_iterable(each.inputs for each in item.sections)


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    """A value, and what it is a part of: one of them is a variable."""
    yield node
    while is_part(node):
        node = node.all_input_nodes[0]
        yield node
