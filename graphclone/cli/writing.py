"""A child, written into a folder: as a Hugging Face folder, as the weights of a factory's model, or as a module of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from graphclone.cli.children import built_as
from graphclone.cli.planning import Job
from graphclone.errors import OutputError
from graphclone.execute import execute, fill
from graphclone.execute.destination import Filled
from graphclone.export.companions import accompany
from graphclone.export.pytorch import save_graph, save_state
from graphclone.export.record import GRAPH, WEIGHTS, Record, hashes
from graphclone.export.source import MODULE, write_clone


@dataclass(frozen=True)
class Written:
    """What came from where (None for a graph, whose tensors keep their names), and what there is to say of the child."""

    filled: Filled | None
    notes: tuple[str, ...] = ()


def write(folder: Path, job: Job, pt2: bool, shard: str | None = None) -> Written:
    """`pt2`: a graph is written as `child.pt2` too. `shard`: the most that a file of a Hugging Face folder may hold, as in `5GB`."""
    whole = ("its weights are in one file: only Hugging Face folders have shards",) if shard is not None else ()
    if job.child is None:
        return Written(None, whole + _graph(folder, job, pt2))
    filled = fill(job.plan, job.layout.trace.state.__getitem__, job.child, job.fitted)
    if _has_its_own_form(job.child):
        from graphclone.export.hf import save_hf

        save_hf(job.child, job.folder, folder, job.plan, job.axes, shard)
        return Written(filled)
    save_state(job.child.state_dict(), folder / WEIGHTS)
    record = built_as(job.asked, job.parent, job.overrides)
    accompany(folder, job.child, job.plan, record, job.folder, job.axes)
    return Written(filled, whole)


def _graph(folder: Path, job: Job, pt2: bool) -> tuple[str, ...]:
    """A rewritten graph, as a module in Python; what Python cannot say is written as `child.pt2` alone, if that is wanted.

    **Returns** what there is to say of it. **Raises** `OutputError`.
    """
    graph = execute(job.plan, job.parent.module, trace=job.layout.trace, fitted=job.fitted)
    inputs = job.parent.args, dict(job.parent.kwargs)
    notes: tuple[str, ...]
    kind = "source"
    try:
        notes = write_clone(folder, job.plan, job.parent.module, graph, inputs)
    except OutputError as error:
        if not pt2:
            raise
        kind, notes = "graph", (f"there is only a child.pt2: {str(error).splitlines()[0]}",)
        for name in (MODULE, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
    if pt2:
        save_graph(graph, *inputs, folder / GRAPH, job.layout.trace.inputs.get("dynamic", False))
    spec = Path(job.asked.spec).expanduser()
    name = spec.name if spec.exists() else job.asked.spec
    record = Record(kind, name, hashes=hashes(job.asked.checkpoint or spec, job.parent.module))
    accompany(folder, graph, job.plan, record, job.folder, job.axes)
    return notes


def _has_its_own_form(module: nn.Module) -> bool:
    """A class of transformers, told without importing it."""
    return callable(getattr(module, "save_pretrained", None)) and hasattr(module, "config")
