"""Children on disk: their `child.json` says how they are built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from graphclone import sources
from graphclone.cli.options import Asked
from graphclone.errors import SourceError
from graphclone.export.record import GRAPH, RECORD, WEIGHTS, Record, hashes
from graphclone.sources import Parent
from graphclone.sources.source_folder import load_written


def load(asked: Asked, trusted: str = "", examples: Mapping[str, Tensor] | None = None) -> Parent:
    """A parent, or a child that `clone` wrote. `trusted`: a factory that the user has named, so that a child's record may name it too;
    `examples`: inputs that stand in place of those that a parent's source finds.

    **Raises** `SourceError`, `WeightsError`.
    """
    folder = Path(asked.spec).expanduser()
    if (folder / RECORD).is_file() and (record := Record.load(folder)).kind != "folder":
        return _child(folder, record, asked, trusted)
    return sources.load(
        asked.spec,
        args=sources.assignments(asked.arg),
        inputs=asked.input,
        examples=examples,
        checkpoint=asked.checkpoint,
        allow_pickle=asked.allow_pickle,
        trust_remote_code=asked.trust_remote_code,
    )


def is_written(spec: str) -> bool:
    """Whether it is a rewritten graph, as the module that graphclone wrote."""
    folder = Path(spec).expanduser()
    return (folder / RECORD).is_file() and Record.load(folder).kind == "source"


def _child(folder: Path, record: Record, asked: Asked, trusted: str) -> Parent:
    if asked.arg or asked.checkpoint is not None:
        raise SourceError(f"'{folder}' takes no --arg and no --checkpoint", because=f"its {RECORD} says how it is built")
    if record.kind == "graph":
        return load(replace(asked, spec=str(folder / GRAPH)))
    if record.kind == "source":
        return load_written(folder, asked.input, trust_remote_code=asked.trust_remote_code)
    if sources.is_program(record.parent) and record.parent != trusted and not asked.trust_remote_code:
        raise SourceError(
            f"will not call '{record.parent}' to build '{folder}'",
            because=f"its {RECORD} names this function, and whoever wrote that file may have named any other",
            attempt="--trust-remote-code, if you trust where the folder comes from",
        )
    inputs = [*record.input, *asked.input]
    return sources.load(record.parent, args={**record.arg, **record.set}, inputs=inputs, checkpoint=folder / WEIGHTS)


def built_as(asked: Asked, parent: Parent, overrides: dict[str, object]) -> Record:
    """The record of a child that the parent's factory builds. Where the parent is such a child itself, its own factory does."""
    folder = Path(asked.spec).expanduser()
    if (folder / RECORD).is_file():
        origin = Record.load(folder)
        made = replace(origin, arg={**origin.arg, **origin.set}, set={}, input=[*origin.input, *asked.input])
    else:
        made = Record("factory", asked.spec, sources.assignments(asked.arg), {}, asked.input)
    untrained = {name: value for name, value in parent.untrained.items() if name in made.arg}
    return replace(made, set={**untrained, **overrides}, hashes=hashes(asked.checkpoint or folder, parent.module))
