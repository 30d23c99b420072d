"""What torch's ONNX exporter cannot translate, or translates wrongly, written otherwise: ops of the graph, never models."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from graphclone.capture import explicit
from graphclone.export import grouped
from graphclone.export.onnx.mended import complex_numbers, numbers, others, pools, positions, products  # noqa: F401
from graphclone.export.onnx.rewritten import REWRITES, rewritten

aten = torch.ops.aten


def mended(program: ExportedProgram) -> ExportedProgram:
    """The program with every call rewritten that has to be."""
    nodes = [
        node for module in program.graph_module.modules() if isinstance(module, fx.GraphModule) for node in module.graph.nodes
    ]
    for node in nodes:
        if node.target is aten.repeat_interleave.self_Tensor:
            explicit(node)
    return rewritten(program, REWRITES | dict.fromkeys((node.target for node in nodes if grouped.parts(node)), grouped.spread))
