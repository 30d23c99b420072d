"""The sizes that a child's inputs may have, as checks in its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.utils._sympy.printers import PythonPrinter

from graphclone.dynamic import Open


def checks(places: Sequence[tuple[fx.Node, str]], open_: Open | None) -> Iterator[str]:
    """Statements that refuse inputs of other sizes; `places`: each input, and what the text calls it. Symbols of open sizes are called
    `s0`, `s1` …, and bound where they come first."""
    if open_ is None:
        for node, name in places:
            if (sizes := taken(node)) is not None:
                yield _expect(name, sizes, {})
        return
    bound: dict[Any, Any] = {}
    for (_, name), shape in zip(places, open_.shapes, strict=True):
        for dim, size in enumerate(shape or ()):
            if getattr(size, "is_Symbol", False) and size not in bound:
                bound[size] = sympy.Symbol(f"s{len(bound)}", integer=True)
                yield f"{bound[size]} = {name}.shape[{dim}]"
    for (_, name), shape in zip(places, open_.shapes, strict=True):
        if shape is not None and all(isinstance(size, int) or size.free_symbols <= bound.keys() for size in shape):
            yield _expect(name, shape, bound)
    for condition in dict.fromkeys(_conditions(open_, bound)):
        yield f"torch._check({condition}, lambda: {f'this model was traced for other sizes: it needs {condition}'!r})"


def taken(node: fx.Node) -> Sequence[int] | None:
    """The sizes of an input, at the example sizes of what is open; None for what is no tensor."""
    value = node.meta.get("val")
    return node.meta.get("sizes", tuple(value.shape)) if isinstance(value, Tensor) else None


def _conditions(open_: Open, bound: Mapping[Any, Any]) -> Iterator[str]:
    for symbol, (least, largest) in open_.ranges.items():
        if symbol in bound:
            if least > 2:  # torch takes every open size to be at least 2, and says itself that 1 is fine
                yield f"{bound[symbol]} >= {least}"
            if largest is not None:
                yield f"{bound[symbol]} <= {largest}"
    for guard in open_.guards:
        if guard.free_symbols <= bound.keys():
            yield _text(guard, bound)


def _expect(name: str, shape: Sequence[Any], bound: Mapping[Any, Any]) -> str:
    return f"expect({', '.join([repr(name), name, *(_text(size, bound) for size in shape)])})"


def _text(size: Any, bound: Mapping[Any, Any]) -> str:
    return str(size) if isinstance(size, (int, torch.SymInt)) else str(PythonPrinter().doprint(size.xreplace(dict(bound))))
