"""Rows in runs, each run times a matrix of its own: how experts are computed once their tokens are sorted.

Libraries have ops for it, which torch alone does not have, or has for some sizes only. So it is written otherwise: as a loop over runs in
Python (`HELPER`), and where a graph cannot have sizes that depend on values, row by row (`spread`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

NAMES = ("transformers.grouped_mm_fallback", "aten._grouped_mm")

HELPER = '''def grouped_mm(rows, matrices, ends):
    """Rows in runs, each run times a matrix of its own; `ends`: where each run ends. Rows after the last are 0."""
    if torch.compiler.is_exporting():  # a graph has no sizes that depend on values: a matrix for each row
        count = torch.arange(rows.shape[0], device=rows.device)
        return torch.bmm(rows[:, None], matrices[torch.bucketize(count, ends, right=True)])[:, 0]
    *runs, rest = rows.tensor_split(ends.tolist())
    return torch.cat([*(run @ each for run, each in zip(runs, matrices)), rest.new_zeros(len(rest), matrices.shape[2])])
'''


def parts(node: fx.Node) -> tuple[Any, Any, Any] | None:
    """The rows, the matrices and the ends of runs of such an op's node; None for another."""
    if not isinstance(node.target, torch._ops.OpOverload) or str(node.target.overloadpacket) not in NAMES:
        return None
    names = [each.name for each in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    rows, matrices, ends, *others = (given.get(name) for name in names)
    ranks = [each.meta["val"].dim() for each in (rows, matrices)]  # type: ignore[union-attr]
    return (rows, matrices, ends) if ends is not None and others.count(None) == len(others) and ranks == [2, 3] else None


def spread(rows: Tensor, matrices: Tensor, offs: Tensor | None = None, *others: Any, **options: Any) -> Any:
    """The same in ops that torch and ONNX have, every row with a copy of its matrix. It is called as the ops are."""
    if offs is None or rows.dim() != 2 or matrices.dim() != 3 or any(each is not None for each in (*others, *options.values())):
        return NotImplemented
    count = torch.arange(rows.shape[0], device=rows.device)
    return torch.bmm(rows[:, None], matrices[torch.bucketize(count, offs, right=True)])[:, 0]
