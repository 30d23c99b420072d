"""Names in the text: paths to tensors, local variables, classes."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Iterator

from torch import fx, nn

HELPERS = (
    "Parts", "Output", "Path", "place", "parameter", "buffer", "tie", "expect", "grouped_mm", "output", "load", "pytree",
    "namedtuple", "load_file",
)  # fmt: skip
TAKEN = frozenset(
    {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, "torch", "aten", "nn", "math", "operator", "device", *HELPERS}
)


def path(root: str, name: str) -> str:
    """The expression for what lies under a dotted name: `self.model.layers[3].q_proj.weight`."""
    for part in name.split(".") if name else ():
        mangled = part.startswith("__")  # within a class, `__x` is another name
        if part.isidentifier() and not keyword.iskeyword(part) and not mangled:
            root = f"{root}.{part}"
        else:
            root = f"{root}[{int(part) if part.isdecimal() and str(int(part)) == part else part!r}]"
    return root


def misnamed(name: str) -> str | None:
    """The part of a dotted name that no module could reach, since it is an attribute that every module has."""
    return next((part for part in name.split(".") if hasattr(nn.Module, part)), None)


def base(text: str) -> str:
    """A name without the number that torch gave it, fit for a variable."""
    text = re.sub(r"\W", "_", re.sub(r"(_default|_\d+)+$", "", text)).strip("_") or "value"
    return f"{text}_" if text in TAKEN or text[0].isdecimal() else text


def camel(text: str) -> str:
    """A name for a class: `model.layers` → `ModelLayers`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", text) if part) or "Part"


class Locals:
    """The local variables of one function. A name is free again once its value is read no more, so that memory is, too."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._reserved = set(reserved)
        self._names: dict[fx.Node, str] = {}

    def take(self, node: fx.Node, wanted: str) -> str:
        used, number, name = {*self._reserved, *self._names.values()}, 1, wanted
        while name in used:
            name, number = f"{wanted}_{number}", number + 1
        self._names[node] = name
        return name

    def give(self, node: fx.Node, name: str) -> None:
        """An argument, whose name is its own for good."""
        self._reserved.add(name)
        self._names[node] = name

    def free(self, node: fx.Node) -> None:
        if self._names.get(node) not in self._reserved:
            self._names.pop(node, None)

    def __getitem__(self, node: fx.Node) -> str:
        return self._names[node]

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self._names)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._names
