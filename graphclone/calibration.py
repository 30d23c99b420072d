"""Calibration: the parent's own graph, run on a few batches, and whoever wants to look on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphclone.axes import Factor
from graphclone.capture import capture
from graphclone.errors import GraphcloneError, WeightsError
from graphclone.layout import Layout, analyze
from graphclone.rules import Typed

Visit = Callable[[fx.Node, Any, Mapping[fx.Node, Any]], None]
Look = Callable[[Layout], Visit]


@dataclass(frozen=True)
class Calibration:
    """Batches with the graph of the parent at their shapes: one `(layout, batches)` for each shape, a batch being its flat inputs.

    Factors, parameters and blocks have the same names in each of the layouts.
    """

    parts: tuple[tuple[Layout, tuple[list[Any], ...]], ...]

    @classmethod
    def of(cls, model: nn.Module, batches: Iterable[Any], known: Layout | None = None) -> Calibration:
        """**Arguments**: `batches`, each a mapping of keyword arguments, a tuple of positional ones, or one tensor. A batch of other
        shapes than those before (a last, smaller one) costs one more capture; `known`: a layout of this model, which saves one where a
        batch has the shapes that it was captured at.

        **Raises** `GraphcloneError` when there is no batch, or where their blocks differ.
        """
        layouts: dict[object, Layout] = {}
        found: dict[object, list[list[Any]]] = {}
        for batch in map(call, batches):
            leaves, spec = pytree.tree_flatten(batch)
            shapes = (str(spec), *(tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
            if shapes not in layouts:
                fits = known is not None and _fits(known, leaves, spec)
                layouts[shapes] = known if known is not None and fits else analyze(capture(model, *batch, check=False))
            found.setdefault(shapes, []).append(leaves)
        if not layouts:
            raise GraphcloneError("there are no calibration batches to score units on", attempt="score_weights(layout)")
        stacks = [{stack.name: len(stack) for stack in each.blocks} for each in layouts.values()]
        if other := next((each for each in stacks if each != stacks[0]), None):
            raise GraphcloneError(
                "the calibration batches make different programs of the parent, with other blocks",
                because=f"its stacks are {stacks[0]} on some and {other} on others",
                attempt="batches of one shape",
            )
        return cls(tuple((layouts[shapes], tuple(found[shapes])) for shapes in layouts))

    def each(self, *looks: Look, gradients: bool = False) -> None:
        """Run every batch; each `look(layout)` gives who is shown each node's value, and those before it."""
        for layout, batches in self.parts:
            visits = [look(layout) for look in looks]

            def visit(node: fx.Node, value: Any, before: Mapping[fx.Node, Any], visits: list[Visit] = visits) -> None:
                for each in visits:
                    each(node, value, before)

            watched = Run(layout, visit)
            for leaves in batches:
                with torch.set_grad_enabled(gradients):
                    watched.run(*leaves)

    def count(self) -> int:
        """How many batches there are."""
        return sum(len(batches) for _, batches in self.parts)

    def with_state(self, change: Callable[[Layout], Layout]) -> Calibration:
        """The same batches on layouts of other weights."""
        return replace(self, parts=tuple((change(layout), batches) for layout, batches in self.parts))

    @torch.no_grad()
    def same(self, other: Calibration) -> bool:
        """Whether two layouts of one model, of other weights, give the same outputs on the first batch of each shape."""
        pairs = zip(self.parts, other.parts, strict=True)
        return all(_alike(*(_outputs(layout, batches[0]) for layout, batches in pair)) for pair in pairs)


def _outputs(layout: Layout, leaves: list[Any]) -> list[Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a parent in train mode drops the same
        found = Run(layout, lambda *_: None).run(*leaves)
    return [each for each in pytree.tree_leaves(found) if isinstance(each, Tensor) and each.is_floating_point()]


def _alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """To half of the digits that the type has, or float32: a norm may be computed in that whatever its input is."""
    least = torch.finfo(torch.float32).eps
    for a, b in zip(ours, theirs, strict=True):
        bound = (
            max(torch.finfo(a.dtype).eps, least) ** 0.5 * float(a.abs().nan_to_num(posinf=0.0, neginf=0.0).amax())
            if a.numel()
            else 0.0
        )
        if not torch.allclose(a, b, rtol=0.0, atol=bound, equal_nan=True):
            return False
    return True


def _fits(layout: Layout, leaves: list[Any], spec: pytree.TreeSpec) -> bool:
    """Whether a layout's graph was captured at these inputs' shapes."""
    values = [node.meta.get("val") for node in layout.trace.graph.find_nodes(op="placeholder")]
    return (
        layout.trace.open is None
        and layout.trace.in_spec == spec
        and len(values) == len(leaves)
        and all(isinstance(each, Tensor) and isinstance(leaf, Tensor) for each, leaf in zip(values, leaves, strict=True))
        and all((each.shape, each.dtype) == (leaf.shape, leaf.dtype) for each, leaf in zip(values, leaves, strict=True))
    )


class Run(fx.Interpreter):
    """Runs a layout's graph on the weights of its trace, showing every value."""

    def __init__(self, layout: Layout, visit: Visit) -> None:
        super().__init__(nn.Module(), graph=layout.trace.graph)
        self.state, self.visit = layout.trace.state, visit

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.state[target]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.visit(n, result, self.env)
        return result


def between(layout: Layout) -> set[fx.Node]:
    """The values between blocks."""
    return {end for stack in layout.blocks for block in stack.blocks for end in (block.entry, block.exit)}


def along(layout: Layout, node: fx.Node, factor: Factor) -> int | None:
    """The dim of a value that is made of just this factor."""
    typed = layout.types.get(node)
    found = [dim for dim, axis in enumerate(typed.axes) if axis is factor] if isinstance(typed, Typed) else []
    return found[0] if len(found) == 1 else None


def finite(node: fx.Node, value: Tensor) -> None:
    """**Raises** `WeightsError` for activations that are not finite."""
    if not value.isfinite().all():
        raise WeightsError(
            f"the activations of '{node.name}' are not finite", attempt="other weights, or calibration data that they can take"
        )


def call(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as a module is called with it.

    **Raises** `GraphcloneError` for what is none.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, (tuple, list, Tensor)):
        raise GraphcloneError(
            f"a calibration batch cannot be a {type(batch).__name__}",
            attempt="a tensor, a tuple of positional arguments, or a mapping of keyword arguments",
        )
    return (tuple(batch), {}) if isinstance(batch, (tuple, list)) else ((batch,), {})
