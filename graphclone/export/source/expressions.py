"""Calls and values of a graph as Python text."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import fx

from graphclone.errors import OutputError
from graphclone.export import grouped

Read = Callable[[Any], str]  # a node, a device or a dtype → what the text calls it

_INFIX = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/", operator.mod: "%",
    operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">",
    operator.ge: ">=", operator.is_: "is", operator.and_: "and", operator.or_: "or",
}  # fmt: skip
_LIBRARIES = ("aten", "prims")  # what torch itself holds
_MODULES: tuple[tuple[str, ModuleType], ...] = (("", builtins), ("math.", math), ("operator.", operator), ("torch.", torch))


def call(node: fx.Node, read: Read) -> str:
    """The call of a node. **Raises** `OutputError` for a function that torch alone does not have."""
    target: Any = node.target
    args = [value(each, read) for each in node.args]
    if target in _INFIX:
        return f"{args[0]} {_INFIX[target]} {args[1]}"
    if target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    if target is torch.ops.aten.sym_size.int:
        return f"{args[0]}.shape[{args[1]}]"
    if found := grouped.parts(node):
        return f"grouped_mm({', '.join(value(each, read) for each in found)})"
    named = [f"{name}={value(each, read)}" for name, each in node.kwargs.items() if not _is_default(target, name, each)]
    return f"{function(target)}({', '.join([*args, *named])})"


def function(target: Any) -> str:
    """How a function is called. **Raises** `OutputError`."""
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in _LIBRARIES:
            raise OutputError(
                f"cannot write '{target}' as Python",
                because=f"it is an op of the library '{target.namespace}', and a child has to load with torch alone",
                attempt="the parent without this op; or --pt2, where the library is there when the child is loaded",
            )
        library = "aten" if target.namespace == "aten" else f"torch.ops.{target.namespace}"
        packet = target.overloadpacket
        alone = all(each == "default" or each.endswith("out") for each in packet.overloads())
        return f"{library}.{packet.__name__}" + ("" if alone else f".{target._overloadname}")
    name = getattr(target, "__name__", "")
    for prefix, module in _MODULES:
        if name and getattr(module, name, None) is target:
            return f"{prefix}{name}"
    raise OutputError(
        f"cannot write the call of '{torch.typename(target)}' as Python",
        because="it is no op of torch, and no function of Python's own",
        attempt="--pt2 alone",
    )


def _is_default(target: Any, name: str, given: Any) -> bool:
    """Whether an argument says no more than leaving it out does."""
    if not isinstance(target, torch._ops.OpOverload) or isinstance(given, fx.Node):
        return False
    if name == "pin_memory":
        return not given
    found = [each for each in target._schema.arguments if each.name == name and each.has_default_value()]
    return bool(found) and type(given) is type(found[0].default_value) and given == found[0].default_value


def value(given: Any, read: Read) -> str:
    """A value among a call's arguments. **Raises** `OutputError` for what no text stands for."""
    if isinstance(given, (fx.Node, torch.device, torch.dtype)):
        return read(given)
    if isinstance(given, tuple):
        return f"({''.join(f'{value(each, read)}, ' for each in given).removesuffix(' ')})" if given else "()"
    if isinstance(given, (list, torch.Size)):
        return f"[{', '.join(value(each, read) for each in given)}]"
    if isinstance(given, dict):
        return f"{{{', '.join(f'{key!r}: {value(each, read)}' for key, each in given.items())}}}"
    if isinstance(given, slice):
        return f"slice({value(given.start, read)}, {value(given.stop, read)}, {value(given.step, read)})"
    if isinstance(given, float) and not math.isfinite(given):
        return f'float("{given}")'
    if isinstance(given, complex):
        return f"complex({value(given.real, read)}, {value(given.imag, read)})"
    if given is None or given is ... or isinstance(given, (bool, int, float, str)):
        return repr(given) if given is not ... else "..."
    if isinstance(given, (torch.memory_format, torch.layout)):
        return str(given)
    raise OutputError(f"cannot write a {type(given).__name__} as Python", because=f"it is an argument of a call: {given!r:.80}")
