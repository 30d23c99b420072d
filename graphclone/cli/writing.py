"""A child, written into a folder: as a Hugging Face folder, as the weights of a factory's model, or as a graph."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from graphclone.cli.children import GRAPH, PLAN, WEIGHTS, Record, built_as
from graphclone.cli.planning import Job
from graphclone.execute import execute, fill
from graphclone.execute.destination import Filled
from graphclone.export.pytorch import save_graph, save_state


def write(folder: Path, job: Job) -> Filled | None:
    """**Returns** what came from where; None for a graph, whose tensors keep their names."""
    if job.child is None:
        graph = execute(job.plan, job.parent.module, trace=job.layout.trace)
        dynamic = job.layout.trace.inputs.get("dynamic", False)
        save_graph(graph, job.parent.args, job.parent.kwargs, folder / GRAPH, dynamic)
        Record("graph", job.asked.spec).save(folder)
        job.plan.save(folder / PLAN)
        return None
    filled = fill(job.plan, job.layout.trace.state.__getitem__, job.child)
    if _has_its_own_form(job.child):
        from graphclone.export.hf import save_hf

        source = Path(job.asked.spec).expanduser()
        save_hf(job.child, source if source.is_dir() else None, folder, job.plan)
    else:
        save_state(job.child.state_dict(), folder / WEIGHTS)
        built_as(job.asked, job.parent, job.overrides).save(folder)
        job.plan.save(folder / PLAN)
    return filled


def _has_its_own_form(module: nn.Module) -> bool:
    """A class of transformers, told without importing it."""
    return callable(getattr(module, "save_pretrained", None)) and hasattr(module, "config")
