"""Children on disk: `child.json` says how one that is no Hugging Face folder is built again."""

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

GRAPH, WEIGHTS, RECORD = "child.pt2", "model.safetensors", "child.json"


@dataclass(frozen=True)
class Record:
    """How a child is loaded again: as the graph in `child.pt2`, or as the factory's model in other sizes, filled.

    - `parent`: the parent's spec; `arg`: the arguments of its factory; `set`: those that the child has otherwise;
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


def load(asked: Asked) -> Parent:
    """A parent, or a child that `clone` wrote.

    **Raises** `SourceError`, `WeightsError`.
    """
    folder = Path(asked.spec).expanduser()
    if (folder / RECORD).is_file():
        return _child(folder, asked)
    return sources.load(
        asked.spec,
        args=sources.assignments(asked.arg),
        inputs=asked.input,
        checkpoint=asked.checkpoint,
        allow_pickle=asked.allow_pickle,
        trust_remote_code=asked.trust_remote_code,
    )


def _child(folder: Path, asked: Asked) -> Parent:
    record = Record.load(folder)
    if record.kind == "graph":
        return load(replace(asked, spec=str(folder / GRAPH)))
    inputs = [*record.input, *asked.input]
    return sources.load(record.parent, args={**record.arg, **record.set}, inputs=inputs, checkpoint=folder / WEIGHTS)
