"""Children on disk. One that is no Hugging Face folder has a `child.json`, which says how it is built again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from graphclone import sources
from graphclone.cli.options import Asked
from graphclone.errors import SourceError
from graphclone.sources import Parent
from graphclone.sources.source_folder import load_written

GRAPH, WEIGHTS, PLAN, AXES, RECORD = (
    "child.pt2",
    "model.safetensors",
    "plan.json",
    "axes.safetensors",
    "child.json",
)


@dataclass(frozen=True)
class Record:
    """How a child is loaded again: as a module in Python, as the graph in `child.pt2`, or as what a factory makes in other sizes, filled.

    - `kind`: `source`, `graph` or `factory`;
    - `parent`: the parent's spec, or that of the factory; `arg`: the factory's arguments; `set`: those that the child has otherwise;
    - `input`: example inputs, as `--input` takes them.
    """

    kind: str
    parent: str
    arg: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    input: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Record:
        try:
            return TypeAdapter(cls).validate_json((folder / RECORD).read_bytes())
        except (OSError, ValidationError) as error:
            raise SourceError(f"cannot read '{folder / RECORD}'", because=str(error)) from error


def load(asked: Asked, trusted: str = "") -> Parent:
    """A parent, or a child that `clone` wrote. `trusted`: a factory that the user has named, so that a child's record may name it too.

    **Raises** `SourceError`, `WeightsError`.
    """
    folder = Path(asked.spec).expanduser()
    if (folder / RECORD).is_file():
        return _child(folder, asked, trusted)
    return sources.load(
        asked.spec,
        args=sources.assignments(asked.arg),
        inputs=asked.input,
        checkpoint=asked.checkpoint,
        allow_pickle=asked.allow_pickle,
        trust_remote_code=asked.trust_remote_code,
    )


def _child(folder: Path, asked: Asked, trusted: str) -> Parent:
    if asked.arg or asked.checkpoint is not None:
        raise SourceError(f"'{folder}' takes no --arg and no --checkpoint", because=f"its {RECORD} says how it is built")
    record = Record.load(folder)
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
    return replace(made, set={**untrained, **overrides})
