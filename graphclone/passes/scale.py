"""Scaling: keep the size of activations when fewer inputs are summed."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

from torch import fx

from graphclone import axes as algebra
from graphclone.capture import source_line
from graphclone.layout import Layout, origin, readers
from graphclone.plan import Plan


@dataclass(frozen=True)
class Scale:
    """Multiply each weight by sqrt(d / d′), where its contraction shrinks from d to d′ inputs (weight subcloning, arXiv 2312.09299, §3.3).

    A sum of d independent terms has d times the variance of one, so the factor keeps the standard deviation of what a linear map
    puts out; d counts every input that is summed (a convolution's kernel does not shrink, and cancels). What stays as it is, and why:

    - *biases, gains and offsets of norms, embedding and position tables*: nothing is summed over the stream there, each unit keeps
      the value that it had in the parent, which is what the units that it meets expect;
    - *weights behind a norm* are scaled like all others: a norm brings the kept units back to the size that they had together, and
      the linear map behind it still sums d′ of them in place of d;
    - *a parameter used in two ways* (an embedding tied to the output layer): as a table it must not be scaled, and it is one tensor, so
      it is not; the plan says so in a remark;
    - *two parameters that are multiplied with each other* (a low-rank update) share the factor evenly, so that their product has it once;
    - *integers* (quantised weights) cannot be multiplied; a weight that is computed from others is left, and a remark says so;
    - *products of two activations* (attention's query and key) have no weight to scale; a destination computes its own 1/sqrt(head_dim).
      Attention that divides by it itself needs none for a learned query either, nor for learned values, which it averages.
    """

    def __call__(self, plan: Plan, layout: Layout) -> Plan:
        keep = {layout[name]: kept for name, kept in plan.keep.items()}
        shrinkage: dict[tuple[fx.Node, fx.Node], float] = defaultdict(lambda: 1.0)
        for contraction in layout.contractions:
            ratio = contraction.axis.size / algebra.size(contraction.axis, keep)
            if ratio == 1 or contraction.averaged:
                continue
            operands = dict.fromkeys(node for node, _ in contraction.operands)
            weights = [node for node in operands if _is_scalable(layout, origin(node))]
            for weight in weights:
                shrinkage[contraction.node, weight] *= ratio ** (1 / len(weights))
            integers = sorted({str(origin(node)) for node in operands} & layout.trace.parameters) if not weights else []
            for name in integers:
                plan = plan.remark(f"'{name}' sums fewer inputs, and is left as it is: it holds integers")
            if not weights and not integers and any(_is_computed(node) for node in operands):
                where = source_line(contraction.node.meta.get("stack_trace")) or contraction.node.name
                plan = plan.remark(f"a weight that is computed from others sums fewer inputs at {where}, and is left as it is")
        tensors = {}
        for name, piece in plan.tensors.items():
            ratios = {shrinkage[use] for use in readers(layout.parameters[piece.source])}
            if len(ratios) > 1:
                plan = plan.remark(f"'{piece.source}' is used in two ways, and no one scale fits both: left as it is")
            elif ratios and _is_scalable(layout, piece.source):
                piece = replace(piece, scale=piece.scale * math.sqrt(*ratios))
            tensors[name] = piece
        return replace(plan, tensors=tensors)


def _is_scalable(layout: Layout, name: str | None) -> bool:
    """Whether it is a parameter of real or complex numbers: integers stand for something else."""
    if name not in layout.trace.parameters:
        return False
    dtype = layout.trace.state[str(name)].dtype
    return dtype.is_floating_point or dtype.is_complex


def _is_computed(node: fx.Node) -> bool:
    """Whether a value is made of parameters, buffers and constants alone."""
    above, waiting = {node}, [node]
    while waiting:
        for each in waiting.pop().all_input_nodes:
            if each.op == "placeholder":
                return False
            if each not in above:
                above.add(each)
                waiting.append(each)
    return node.op != "placeholder" and any(each.op == "get_attr" for each in above)
