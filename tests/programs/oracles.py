"""What has to hold for every program, however its values are mixed:

- *identity*, *permutation* (with several seeds), *masked parent*: as `graphclone.verify` has them;
- *sliced*: factors that are only carried, never summed or normalised over, are narrowed: the results are slices of the parent's;
- *shrunk*: some positions of every factor: the child runs, and its results have the sizes that their terms say;
- *reordered*: the same positions in another order give the same results in that order.

Values are float64, so equal means equal to ten digits; where a relative change of 1e-12 in the inputs changes the results, a
difference means nothing (*unstable*); nor where the child's own sums, rounded otherwise, already give something else (*rounding*).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.execute.graph import resize
from graphclone.execute.memory import pick
from graphclone.layout import Layout, analyze
from graphclone.rules import elementwise
from graphclone.verify import Keep, difference, identity, maskable, masked_parent, permutation
from tests.programs.program import Program, run

TOLERANCE = 1e-7
SEEDS = 2


@dataclass(frozen=True)
class Outcome:
    """`wrong`: the oracles that failed; `crash`: what was raised instead of an answer; `sizes`: at how many sizes of the inputs they were
    asked."""

    wrong: tuple[str, ...] = ()
    crash: str = ""
    unstable: bool = False
    rounding: bool = False
    sizes: int = 1
    layout: Layout | None = field(default=None, repr=False)

    @property
    def fault(self) -> str:
        """What kind of fault it is: the same kind has to remain while a program is made smaller."""
        return f"crash {self.crash[:30]}" if self.crash else "wrong" if self.wrong else ""

    @property
    def verdict(self) -> str:
        undecided = "unstable" if self.unstable else "decided by rounding" if self.rounding else ""
        return self.crash or "; ".join(self.wrong) or undecided or "as it should be"


def judge(program: Program) -> Outcome:
    """Analyse a program and ask all oracles."""
    layout = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layout = analyze(program.trace())
            return asked(program, layout, [factor for factor in layout.factors if factor.frozen is None])
    except Exception as error:  # whatever it is, it is no answer
        return crashed(error, layout)


def crashed(error: Exception, layout: Layout | None) -> Outcome:
    lines = str(error).strip().splitlines() or [""]
    return Outcome(crash=f"{type(error).__name__}: {lines[0][:300]}", layout=layout)


def asked(program: Program, layout: Layout, free: Sequence[Factor]) -> Outcome:
    """What the oracles say of a program and its layout, when `free` is all that a child may have less of."""
    wrong = []
    for name, error, keeps in _verdicts(program, layout, free):
        if not error <= TOLERANCE:
            if any(rounding_decides(program, layout, keep) or uneven(program, layout, keep) for keep in keeps):
                return Outcome(rounding=True, layout=layout)
            wrong.append(f"{name}: differs by {error:.1e}")
    if wrong and unstable(program):
        return Outcome(unstable=True, layout=layout)
    return Outcome(tuple(wrong), layout=layout)


def _verdicts(program: Program, layout: Layout, free: Sequence[Factor]) -> Iterator[tuple[str, float, tuple[Keep, ...]]]:
    """Each oracle, by how much it fails, and the children that it looked at."""
    trace, inputs, expected = layout.trace, (program.inputs, {}), program.expected
    yield "identity", identity(trace, layout, inputs, expected).error, ({},)
    if len(free) == sum(factor.frozen is None for factor in layout.factors):
        yield "permutation", permutation(trace, layout, inputs, expected, 0).error, ({},)
    if maskable(layout):
        yield "masked parent", masked_parent(trace, layout, inputs, 0).error, ({},)
    if not free:
        return
    for seed in range(SEEDS):
        rng = Random(seed)
        mixed = {f: tuple(rng.sample(range(f.size), f.size)) for f in free}
        yield f"permutation {seed}", difference(sliced(layout, expected, mixed), child(program, layout, mixed)), (mixed,)
        keep = {f: tuple(rng.sample(range(f.size), rng.randint(least(layout, f), f.size))) for f in free}
        other = {f: tuple(rng.sample(kept, len(kept))) for f, kept in keep.items()}
        carried = {f: kept for f, kept in keep.items() if f not in _mixed(layout)}
        yield f"sliced {seed}", difference(sliced(layout, expected, carried), child(program, layout, carried)), (carried,)
        shrunk = child(program, layout, keep)
        yield (
            f"shrunk {seed}",
            0.0 if _sizes(shrunk) == _sizes(sliced(layout, expected, keep)) else float("inf"),
            (keep,),
        )
        moved = [_reordered(layout, node, value, keep, other) for node, value in zip(_results(layout), shrunk, strict=True)]
        yield f"reordered {seed}", difference(moved, child(program, layout, other)), (keep, other)


def child(
    program: Program,
    layout: Layout,
    keep: Keep,
    jitter: torch.Generator | None = None,
    values: dict[torch.fx.Node, Any] | None = None,
) -> list[Tensor]:
    """The results of the child, interpreted. `values`: where all that it computes is put."""
    trace = layout.trace
    state = {name: _kept(tensor, layout.axes(name), keep) for name, tensor in program.state.items()}
    given = [node for node in trace.graph.nodes if node.op == "placeholder"]
    inputs = [_kept(tensor, layout.types[node].axes, keep) for node, tensor in zip(given, program.inputs, strict=True)]
    return run(resize(layout, keep)[0], inputs, state, values, jitter)


def _results(layout: Layout) -> list[torch.fx.Node]:
    return list(next(reversed(layout.trace.graph.nodes)).args[0])


def _sizes(values: Sequence[Tensor]) -> list[list[int]]:
    return [list(value.shape) for value in values]


def sliced(layout: Layout, values: Sequence[Tensor], keep: Keep) -> list[Tensor]:
    return [_kept(value, layout.types[node].axes, keep) for node, value in zip(_results(layout), values, strict=True)]


def _kept(tensor: Tensor, axes: Sequence[Axis], keep: Keep) -> Tensor:
    """What a child keeps of a tensor. (An axis that keeps everything may be open, and then has another size than its term.)"""
    sizes = zip(axes, tensor.shape, strict=True)
    return pick(tensor, [algebra.select(axis, keep) if _loses(axis, keep) else range(size) for axis, size in sizes])


def _loses(axis: Axis, keep: Keep) -> bool:
    return not keep.keys().isdisjoint(algebra.factors(axis))


def _reordered(layout: Layout, node: torch.fx.Node, value: Tensor, keep: Keep, other: Keep) -> Tensor:
    """A result of the child of `keep` in the order of `other`."""
    for dim, axis in enumerate(layout.types[node].axes):
        if not _loses(axis, keep):
            continue
        place = {position: index for index, position in enumerate(algebra.select(axis, keep))}
        value = value.index_select(
            dim, torch.tensor([place[position] for position in algebra.select(axis, other)], dtype=torch.long)
        )
    return value


def _mixed(layout: Layout) -> set[Factor]:
    """Factors that something sums or normalises over, or that integers are positions on."""
    found = set(layout.normalised)
    for contraction in layout.contractions:
        found.update(algebra.factors(contraction.axis))
    for typed in layout.types.values():
        for each in typed if isinstance(typed, list) else [typed]:
            if each is not None and each.domain is not None:
                found.update(algebra.factors(each.domain))
    return found


def least(layout: Layout, factor: Factor) -> int:
    """The fewest positions that a child may have of it: `k` of what `topk` chooses from, two where there is a variance."""
    fewest = min(2, factor.size)
    for node in layout.trace.graph.nodes:
        if str(node.target).startswith(("aten.topk", "aten.kthvalue")):
            axes = layout.types[node.args[0]].axes
            dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
            if axes and factor in algebra.factors(axes[dim]):
                count = node.args[1]  # of open sizes: a node
                fewest = max(fewest, min(count, factor.size) if isinstance(count, int) else factor.size)
    return fewest


def rounding_decides(program: Program, layout: Layout, keep: Keep) -> bool:
    """Whether a child gives something else as soon as its sums are rounded otherwise: it compares, ranks or cancels what is equal but
    for that (two sums of the same numbers in another order)."""
    expected = child(program, layout, keep)
    generators = (torch.Generator().manual_seed(seed) for seed in range(4))
    return any(not difference(expected, child(program, layout, keep, jitter=each)) <= TOLERANCE for each in generators)


def uneven(program: Program, layout: Layout, keep: Keep) -> bool:
    """Whether torch makes other values of equal ones, in a child: its vectors and what is left over at their end round differently."""
    values: dict[torch.fx.Node, Any] = {}
    child(program, layout, keep, values=values)
    for node, value in values.items():
        operands = node.all_input_nodes
        if elementwise(node.target) and len(operands) == 1 and value.is_floating_point():
            given = values[operands[0]]
            if given.shape == value.shape and given.is_floating_point():
                _, place = given.flatten().unique(return_inverse=True)
                most = torch.zeros(int(place.max()) + 1 if place.numel() else 0, dtype=value.dtype)
                least = most.scatter_reduce(0, place, value.flatten(), "amin", include_self=False)
                if not torch.equal(least, most.scatter_reduce(0, place, value.flatten(), "amax", include_self=False)):
                    return True
    return False


def unstable(program: Program) -> bool:
    """Whether tiny changes of what a program is given change what it gives: it compares or ranks values that are rounding apart."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)

        def shaken(tensor: Tensor, generator: torch.Generator = generator) -> Tensor:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return tensor * (1 + 1e-12 * noise) if tensor.is_floating_point() else tensor

        state = {name: shaken(tensor) for name, tensor in program.state.items()}
        if not difference(program.expected, run(program.graph, [shaken(each) for each in program.inputs], state)) <= TOLERANCE:
            return True
    return False
