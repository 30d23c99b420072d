"""The oracles: claims of the analysis that can be tested on any model, with no reference implementation.

1. **identity**: the plan that keeps everything reproduces the parent exactly;
2. **permutation**: permuting every unfrozen factor at once leaves the outputs as they are (but for a permuted output axis);
3. **masked parent**: a child without some units, heads or experts equals the parent with what reads these units set to zero, wherever
   no normalisation or softmax runs over the factor;
4. **two roads**: a destination filled from a plan computes what the rewritten graph of the same plan computes;
5. **growth**: repeating units, and dividing what reads them among the repeats, leaves the function as it is;
6. **rotation**: turning every stream, and the inside of every head, that may be turned leaves the function as it is.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphclone import axes as algebra
from graphclone.axes import Factor
from graphclone.capture import Trace, at_other_sizes, capture, runs, source_line
from graphclone.dynamic import Dynamic, resized
from graphclone.errors import GraphcloneError, PlanError
from graphclone.execute import execute, fill
from graphclone.execute.destination import held
from graphclone.execute.graph import Child, build, check_fits, resize, select
from graphclone.execute.memory import pick
from graphclone.faithful import draws
from graphclone.layout import Layout, analyze, origin, readers
from graphclone.parity import Inputs as Inputs
from graphclone.parity import as_it_was, difference, outputs, roundings
from graphclone.plan import Plan
from graphclone.rotation import turned_at_random

Keep = dict[Factor, tuple[int, ...]]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """What one oracle says: `error` is the largest difference, relative to the largest value of the same output; `empty`: there was
    nothing that it could have changed."""

    oracle: str
    passed: bool
    error: float
    detail: str = ""
    empty: bool = False

    @property
    def mark(self) -> str:
        """✓, ✗, or – where there was nothing to ask."""
        return "✗" if not self.passed else "–" if self.empty else "✓"

    def __str__(self) -> str:
        return f"{self.mark} {self.oracle:<14} error {self.error:.1e}  {self.detail}".rstrip()


@dataclass(frozen=True)
class Report:
    """What all oracles say, and what else there is to know. Printed, it is one line per oracle and per remark."""

    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.verdicts), *(f"note: {remark}" for remark in self.remarks)])


def verify(
    parent: nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    plan: Plan | None = None,
    child: nn.Module | None = None,
    seed: int = 0,
    dynamic: Dynamic | None = None,
) -> Report:
    """Run the oracles on a model; with a plan and the child that was filled from it, the two roads as well.

    **Arguments**: `args`, `kwargs`, example inputs of the parent (they are also what the outputs are compared on); `dynamic`, as
    `capture` takes it (None: as the plan says): then all oracles are repeated at other sizes of the inputs.

    **Raises** `CaptureError` where the parent cannot be captured, or one of the two does not run on these inputs.
    """
    dynamic = (plan.inputs.get("dynamic", False) if plan is not None else False) if dynamic is None else dynamic
    trace = capture(parent, args, kwargs, dynamic=dynamic, check=False)  # the first oracle does
    inputs = (args, dict(kwargs or {}))
    parent = parent.module() if isinstance(parent, ExportedProgram) else parent
    runs(parent, *inputs)  # values of the inputs may be wrong, which torch.export does not look at

    def roads(inputs: Inputs) -> list[Verdict]:
        if plan is None or child is None:
            return []
        try:
            return [two_roads(plan, parent, child, inputs, trace)]
        except PlanError:
            check_fits(plan, analyze(trace))  # then the child's graph is not the parent's: it has another head, say
            return [refilled(plan, child, trace)]
        except GraphcloneError:
            raise
        except Exception:
            runs(child, *inputs)  # if the child is what does not, it is told
            raise

    verdicts = _oracles(parent, trace, inputs, seed) + roads(inputs)
    if trace.open is not None and trace.open.other != trace.open.sizes:
        other = at_other_sizes(trace)
        assert other.open is not None
        inputs = resized(other.open, inputs)
        more = _oracles(parent, other, inputs, seed) + roads(inputs)
        verdicts += [replace(each, detail=f"{each.detail}, inputs {other.open.shown()}") for each in more]
    return Report(tuple(verdicts), (*_chance(trace, verdicts), *trace.remarks))


def _chance(trace: Trace, verdicts: Iterable[Verdict]) -> Iterator[str]:
    drawing = draws(trace.graph)
    if drawing is not None and not all(verdict.passed for verdict in verdicts):
        where = source_line(drawing.meta.get("stack_trace")) or drawing.name
        yield f"the model draws random numbers ({drawing.target} at {where}), so that no two runs agree: is it in eval mode?"


def _oracles(parent: nn.Module, trace: Trace, inputs: Inputs, seed: int) -> list[Verdict]:
    layout = analyze(trace)
    with as_it_was(parent):
        expected = outputs(parent, inputs)
    return [
        identity(trace, layout, inputs, expected),
        permutation(trace, layout, inputs, expected, seed),
        masked_parent(trace, layout, inputs, seed),
        growth(trace, layout, inputs, expected, seed),
        rotation(trace, layout, inputs, expected, seed),
    ]


def _verdict(
    oracle: str, expected: Sequence[Tensor], found: Sequence[Tensor], detail: str, tolerance: float = TOLERANCE
) -> Verdict:
    """A sum in another order is another sum: outputs in half precision may differ by some of its roundings."""
    error, tolerance = difference(expected, found), max(tolerance, roundings(expected))
    return Verdict(oracle, error <= tolerance, error, detail)


def _counted(
    oracle: str, expected: Sequence[Tensor], found: Sequence[Tensor], factors: Sequence[Factor], tolerance: float
) -> Verdict:
    """A verdict about some factors; one of a single unit has nothing to be permuted, dropped or repeated."""
    verdict = _verdict(oracle, expected, found, f"{len(factors)} factors", tolerance)
    return replace(verdict, empty=all(factor.size == 1 for factor in factors))


def _tolerance(trace: Trace) -> float:
    """What a sum in another order may differ by, where part of the graph is in half precision (autocast)."""
    return max(TOLERANCE, roundings(node.meta.get("val") for node in trace.graph.nodes))


def identity(trace: Trace, layout: Layout, inputs: Inputs, expected: list[Tensor]) -> Verdict:
    child = select(trace, layout, {})
    return _verdict("identity", expected, outputs(child, inputs), f"{len(layout.trace.graph.nodes)} nodes", 1e-6)


def permutation(trace: Trace, layout: Layout, inputs: Inputs, expected: list[Tensor], seed: int) -> Verdict:
    generator = torch.Generator().manual_seed(seed)
    free = [factor for factor in layout.factors if factor.frozen is None]
    keep = {factor: tuple(torch.randperm(factor.size, generator=generator).tolist()) for factor in free}
    found = outputs(select(trace, layout, keep), _permuted(layout, inputs, keep))
    results = [node for node in next(reversed(layout.trace.graph.nodes)).args[0] if node in layout.types]
    moved = [_moved(tensor, layout.types[node].axes, keep) for node, tensor in zip(results, expected, strict=True)]
    return _counted("permutation", moved, found, free, _tolerance(trace))


def _permuted(layout: Layout, inputs: Inputs, keep: Keep) -> Inputs:
    nodes = (node for node in layout.trace.graph.nodes if node.op == "placeholder")
    leaves, spec = pytree.tree_flatten(inputs)
    moved = []
    for leaf, node in zip(leaves, nodes, strict=True):
        typed = layout.types.get(node)
        moved.append(_moved(leaf, typed.axes, keep) if isinstance(leaf, Tensor) and typed else leaf)
    args, kwargs = pytree.tree_unflatten(moved, spec)
    return args, kwargs


def _moved(tensor: Tensor, axes: Sequence[algebra.Axis], keep: Keep) -> Tensor:
    """A tensor in the new order; an axis that keeps its order keeps its length, which data (a draw) may have made another."""
    sizes = zip(axes, tensor.shape, strict=True)
    return pick(
        tensor, [algebra.select(axis, keep) if set(algebra.factors(axis)) & set(keep) else range(size) for axis, size in sizes]
    )


def maskable(layout: Layout) -> list[Factor]:
    """Factors whose units can be zeroed: free, inside, not normalised over, and contracted with parameters that carry them only."""
    spoilt = set(layout.normalised)
    read: set[Factor] = set()
    for contraction in layout.contractions:
        inside = set(algebra.factors(contraction.axis))
        (read if any(origin(node) in layout.trace.parameters for node, _ in contraction.operands) else spoilt).update(inside)
    return [f for f in layout.factors if f in read and f not in spoilt and f.frozen is None and f.slots and not f.interface]


def masked_parent(trace: Trace, layout: Layout, inputs: Inputs, seed: int) -> Verdict:
    generator = torch.Generator().manual_seed(seed)
    chosen = maskable(layout)
    keep = {f: tuple(sorted(torch.randperm(f.size, generator=generator)[: (f.size + 1) // 2].tolist())) for f in chosen}
    state = {name: tensor.detach().clone() for name, tensor in trace.state.items()}
    for name, dim in _readers(layout):
        axis = layout.axes(name)[dim]
        dropped = sorted(set(range(axis.size)) - set(algebra.select(axis, keep)))
        state[name].index_fill_(dim, torch.tensor(dropped, dtype=torch.long, device=state[name].device), 0)
    zeroed = build(layout.trace, resize(layout, {})[0], state, {name: name for name in trace.parameters})
    found = outputs(select(trace, layout, keep), inputs)
    return _counted("masked parent", outputs(zeroed, inputs), found, chosen, _tolerance(trace))


def growth(trace: Trace, layout: Layout, inputs: Inputs, expected: list[Tensor], seed: int) -> Verdict:
    generator = torch.Generator().manual_seed(seed)
    chosen = [factor for factor in maskable(layout) if factor not in _split_readers(layout)]
    keep = {f: (*range(f.size), *torch.randint(f.size, (max(f.size // 3, 1),), generator=generator).tolist()) for f in chosen}
    child = select(trace, layout, keep)
    with torch.no_grad():
        for (name, dim), summed in _readers(layout).items():
            _share(child, name, dim, layout.axes(name)[dim], keep, summed)
    return _counted("growth", expected, outputs(child, inputs), chosen, _tolerance(trace))


def rotation(trace: Trace, layout: Layout, inputs: Inputs, expected: list[Tensor], seed: int) -> Verdict:
    turned, count = turned_at_random(layout, seed)
    found = outputs(select(turned.trace, turned, {}), inputs) if count else expected
    verdict = _verdict("rotation", expected, found, f"{count} streams and insides of heads", 4 * _tolerance(trace))
    return replace(verdict, empty=not count)


def _readers(layout: Layout) -> dict[tuple[str, int], set[Factor]]:
    """The (parameter, dim) pairs that are contracted, and over which factors; a parameter that was viewed is found by those."""
    found: dict[tuple[str, int], set[Factor]] = defaultdict(set)
    for contraction in layout.contractions:
        inside = set(algebra.factors(contraction.axis))
        for node, _ in contraction.operands:
            name = origin(node)
            if name in layout.trace.parameters:
                for dim, axis in enumerate(layout.axes(str(name))):
                    if shared := inside & set(algebra.factors(axis)):
                        found[str(name), dim] |= shared
    return found


def _split_readers(layout: Layout) -> set[Factor]:
    """Factors that the parameter which reads them carries elsewhere too (both ends of one matrix, a tie), that two parameters sum, or
    that integers sum, which cannot be divided."""
    split: set[Factor] = set()
    reading: dict[tuple[str, Factor], set[fx.Node]] = defaultdict(set)
    for contraction in layout.contractions:
        inside = set(algebra.factors(contraction.axis))
        names = {origin(node) for node, _ in contraction.operands}
        for name in map(str, names & set(layout.trace.parameters)):
            for factor in inside:
                reading[name, factor].add(contraction.node)
            if not layout.trace.state[name].dtype.is_floating_point and not layout.trace.state[name].dtype.is_complex:
                split |= inside
        if len(contraction.operands) > 1 and names <= set(layout.trace.parameters):
            split |= inside
    for (name, dim), summed in _readers(layout).items():
        times = Counter(algebra.factors(layout.axes(name)[dim]))
        others = {f for other, axis in enumerate(layout.axes(name)) if other != dim for f in algebra.factors(axis)}
        users = {user for user, _ in readers(layout.parameters[name])}
        split.update(f for f in summed if f in others or times[f] > 1 or users - reading[name, f])
    return split


def _share(child: Child, name: str, dim: int, axis: algebra.Axis, keep: Keep, summed: set[Factor]) -> None:
    """Divide the entries of a reading parameter by how often their units of the factors that it sums are there."""
    scale = torch.ones(axis.size)
    for factor in summed & set(keep):
        times = torch.tensor([1.0, *(1.0 / count for _, count in sorted(Counter(keep[factor]).items()))])
        scale *= times[torch.tensor(algebra.labels(axis, factor)) + 1]
    tensor = child.get_parameter(name)
    grown = scale[torch.tensor(algebra.select(axis, keep))]
    tensor.mul_(grown.reshape([-1 if i == dim else 1 for i in range(tensor.dim())]).to(tensor))


def two_roads(plan: Plan, parent: nn.Module, child: nn.Module, inputs: Inputs, trace: Trace | None = None) -> Verdict:
    """Whether a filled destination computes what the rewritten graph of the same plan does."""
    found = outputs(rewritten(plan, parent, child, trace), inputs)
    given = f", {len(plan.fitted)} of them as they are" if plan.fitted else ""
    return _verdict("two roads", outputs(child, inputs), found, f"{len(plan.tensors)} tensors{given}")


def rewritten(plan: Plan, parent: nn.Module, child: nn.Module, trace: Trace | None = None) -> Child:
    """The graph of the plan that filled `child`. Tensors that the child works out by itself (it would do so again on loading) are the
    graph's as well, and so are those that were fitted on data, which no plan has."""
    graph = execute(plan, parent, trace=trace, fitted=fitted_in(plan, child))
    saved = child.state_dict().keys()
    for name, buffer in graph.named_buffers():
        own = held(child, name) if name not in saved else None
        if own is not None and own.shape == buffer.shape:
            buffer.copy_(own)
    return graph.train(child.training)


def fitted_in(plan: Plan, child: nn.Module) -> dict[str, Tensor]:
    """The values of a plan's fitted tensors, from the child that has them."""
    found = {name: held(child, name) for name in plan.fitted}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def refilled(plan: Plan, child: nn.Module, trace: Trace) -> Verdict:
    """Whether a child whose graph is another one than its parent's holds what its plan makes of the parent's tensors."""
    again = copy.deepcopy(child)
    filled = fill(plan, trace.state.__getitem__, again, fitted_in(plan, child))
    ours, theirs = again.state_dict(), child.state_dict()
    return _verdict("refilled", list(ours.values()), list(theirs.values()), f"{len(filled.filled)} tensors", 0.0)
