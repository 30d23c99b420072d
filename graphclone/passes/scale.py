"""Scaling: keep the size of activations when fewer inputs are summed."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

from graphclone import axes as algebra
from graphclone.layout import Layout, readers
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
    - *products of two activations* (attention's query and key) have no weight to scale; a destination computes its own 1/sqrt(head_dim).
    """

    def __call__(self, plan: Plan, layout: Layout) -> Plan:
        keep = {layout[name]: kept for name, kept in plan.keep.items()}
        shrinkage: dict[object, float] = defaultdict(lambda: 1.0)
        for contraction in layout.contractions:
            for operand, _ in contraction.operands:
                shrinkage[contraction.node, operand] *= contraction.axis.size / algebra.size(contraction.axis, keep)
        tensors = {}
        for name, piece in plan.tensors.items():
            ratios = {shrinkage[use] for use in readers(layout.parameters[piece.source])}
            if len(ratios) > 1:
                plan = plan.remark(f"'{piece.source}' is used in two ways, and no one scale fits both: left as it is")
            elif ratios and piece.source in layout.trace.parameters:
                piece = replace(piece, scale=piece.scale * math.sqrt(*ratios))
            tensors[name] = piece
        return replace(plan, tensors=tensors)
