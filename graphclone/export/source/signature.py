"""How a written child is called: as its parent, by position or by name."""

from __future__ import annotations

import keyword
from dataclasses import dataclass

from torch import fx

from graphclone.errors import OutputError
from graphclone.execute.graph import Call, Child
from graphclone.export.source.expressions import value
from graphclone.export.source.names import HELPERS
from graphclone.export.source.sizes import checks
from graphclone.export.source.structure import children, leaves


@dataclass(frozen=True)
class Signature:
    """The `text` between the parentheses of `forward`; the `names` of the arguments; `places`, each input of the graph and where it is
    in an argument; `checks`, the statements that refuse inputs of other sizes."""

    text: str
    names: tuple[str, ...]
    places: tuple[tuple[fx.Node, str], ...]
    checks: tuple[str, ...]


def signature(child: Child) -> Signature:
    """**Raises** `OutputError` for an argument that no Python function can have, or of a class of the parent's own."""
    call: Call = child.meta["call"]
    own = {"self", "torch", "aten", "math", "operator", "float", "complex", "super", "block", *HELPERS}
    if bad := [name for name in call.names if not name.isidentifier() or keyword.iskeyword(name) or name in own]:
        raise OutputError(f"cannot write a child that takes '{bad[0]}'", because="it is no name that an argument may have there")
    positional, named = children(call.in_spec)
    specs = dict(zip(call.names, [*children(positional), *children(named)], strict=True))
    inputs = [node for node in child.graph.nodes if node.op == "placeholder"]
    found = [place for name, spec in specs.items() for place in leaves(spec, name)]
    places = tuple(zip(inputs, found, strict=True))
    defaults = {where: value(node.meta.get("val"), str) for node, where in places if _is_constant(node)}
    first, rest = _ordered(call)
    while_ = len(first)
    while while_ and first[while_ - 1] in defaults:
        while_ -= 1
    texts = [*first[:while_], *(f"{name}={defaults[name]}" for name in first[while_:])]
    texts += ["*", *(f"{name}={defaults[name]}" if name in defaults else name for name in rest)] if rest else []
    _, open_ = child.meta.get("open", (None, None))
    return Signature(", ".join(texts), (*first, *rest), places, tuple(checks(places, open_)))


def _ordered(call: Call) -> tuple[list[str], list[str]]:
    """The arguments that may be given by position, and those that may not: where the parent has others before them, or nobody knows."""
    first = [name for name, _ in zip(call.names, range(call.positional), strict=False)]
    for name in call.order[len(first) :]:
        if name not in call.names or call.order[: len(first)] != tuple(first):
            break
        first.append(name)
    return first, [name for name in call.names if name not in first]


def _is_constant(node: fx.Node) -> bool:
    return node.meta.get("val", ...) is None or isinstance(node.meta.get("val", ...), (bool, int, float, str))
