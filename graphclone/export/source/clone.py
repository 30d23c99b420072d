"""A plan's child as source: both of its modes, written, loaded and run beside the graphs that they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphclone.capture import Trace
from graphclone.errors import OutputError
from graphclone.execute import execute
from graphclone.execute.graph import Child
from graphclone.export.companions import accompany
from graphclone.export.folder import new_folder
from graphclone.export.record import Record, hashes
from graphclone.export.source import module as written
from graphclone.export.source.folder import load, save
from graphclone.export.source.sizes import taken
from graphclone.export.source.train import train_mode
from graphclone.inputs import example
from graphclone.parity import difference, outputs
from graphclone.plan import Plan
from graphclone.verify import fitted_in

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def save_clone(
    plan: Plan,
    parent: nn.Module,
    folder: str | Path,
    *,
    trace: Trace | None = None,
    fitted: Mapping[str, Tensor] | None = None,
    axes: Mapping[str, Tensor] | None = None,
    source: str | Path | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write the child that a plan describes as a folder: `modeling.py`, one readable Python module, and `model.safetensors`; beside them
    the plan, a card, and what `graphclone inspect`, `verify` and `export` need to read the folder.

    The module has the parent's names of parameters, its arguments and the structure of its outputs, trains as the parent does (dropout,
    statistics of batches), and loads with torch and safetensors alone: `from modeling import load; model = load()`.

    **Arguments**: `parent`, the model in eval mode, which is traced once more as it trains; `trace`, if it has been traced already;
    `fitted`, the values of the plan's fitted tensors, and `axes`, those of its rotated streams (see `graphclone.recipe.Beginning`);
    `source`, the folder that the parent was loaded from, whose tokenizer and licence go along, or the parent's name.

    **Returns** what a reader should know: why the child has no train mode, if it has none.

    **Raises** `OutputError` where the folder exists, or the child is made of what torch alone does not have (a custom op, an output of a
    class of its own); `PlanError`, as `execute`.
    """
    child = execute(plan, parent, trace=trace, fitted=fitted)
    inputs = example(plan.inputs) if plan.inputs else None
    with new_folder(Path(folder), overwrite) as place:
        notes = write_clone(place, plan, parent, child, inputs)
        origin = Path(source).expanduser() if source is not None else None
        origin = origin if origin is not None and origin.is_dir() else None
        name = origin.name if origin is not None else str(source or type(parent).__name__)
        accompany(place, child, plan, Record("source", name, hashes=hashes(origin, parent)), origin, axes)
        return notes


def write_clone(folder: Path, plan: Plan, parent: nn.Module, child: Child, inputs: Inputs | None) -> tuple[str, ...]:
    """Write `modeling.py` and `model.safetensors` into an existing folder.

    **Returns** and **raises** as `save_clone`; nothing is written where something cannot be said in Python.
    """
    train = (
        train_mode(plan, parent, inputs, fitted_in(plan, child))
        if inputs is not None
        else "nothing says what inputs its parent takes"
    )
    if isinstance(train, str):
        told = f"the child has no train mode: {train}"
        save(written.source(child, None, plan.aliases, told), folder)
    else:
        told = ""
        save(written.source(child, train, plan.aliases), folder)
    if inputs is not None and _takes(child, inputs):
        for mode, graph in (("eval", child), ("train", train)):
            if isinstance(graph, nn.Module):
                _check(load(folder), graph, mode, inputs)
    return (told,) if told else ()


def _takes(child: Child, inputs: Inputs) -> bool:
    """Whether a child takes inputs of these sizes: a factor that lost units may be a dim of an input too."""
    places = [node for node in child.graph.nodes if node.op == "placeholder"]
    pairs = zip(places, pytree.tree_leaves(inputs), strict=True)
    return all(not isinstance(leaf, Tensor) or tuple(taken(node) or ()) == tuple(leaf.shape) for node, leaf in pairs)


def _check(model: nn.Module, graph: nn.Module, mode: str, inputs: Inputs) -> None:
    """**Raises** `OutputError` if a module does not compute what its graph does, to the last bit."""
    training = mode == "train"
    try:
        expected = outputs(graph.train(training), inputs)
    except Exception as error:
        raise OutputError(
            f"the rewritten graph cannot run on the parent's inputs in {mode} mode",
            because=f"it raises {type(error).__name__}: {str(error).splitlines()[0]}",
            attempt="other widths or depths; and please report it",
        ) from error
    found = outputs(model.train(training), inputs)
    graph.eval()
    if (apart := difference(expected, found)) > 0:
        raise OutputError(
            f"the written module differs from its graph by {apart:.1e} in {mode} mode",
            because="graphclone wrote it wrongly, or the model computes otherwise each time",
            attempt="--pt2 alone; and please report it",
        )
