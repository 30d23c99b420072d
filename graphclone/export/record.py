"""What a child's folder says of itself in `child.json`: how it is built again, and what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphclone.errors import SourceError

GRAPH, WEIGHTS, PLAN, AXES, RECORD = "child.pt2", "model.safetensors", "plan.json", "axes.safetensors", "child.json"


@dataclass(frozen=True)
class Record:
    """How a child is loaded again.

    - `kind`: `folder`, as transformers reads it; `source`, a module in Python; `graph`, the program in `child.pt2`; or `factory`, what a
      factory makes in other sizes, filled;
    - `parent`: the parent's name, or the spec of the factory; `arg`: the factory's arguments; `set`: those that the child has otherwise;
    - `input`: example inputs, as `--input` takes them;
    - `hashes`: the SHA-256 of what the parent's weights were in; `version`: that of graphclone;
    - `fitted`: the SHA-256 of the tensors that were fitted on data, which no plan can tell, as they were when the child was made;
      of a child that was trained since, how it was trained, which no tensors agree with.
    """

    kind: str
    parent: str = ""
    arg: dict[str, Any] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    input: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    version: str = ""
    fitted: str = ""

    def save(self, folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Record:
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_json((folder / RECORD).read_bytes())
        except (OSError, ValidationError) as error:
            raise SourceError(f"cannot read '{folder / RECORD}'", because=str(error)) from error


def hashes(source: Path | None, parent: nn.Module | None = None) -> dict[str, str]:
    """The SHA-256 of a parent's weights: of the files in its folder (or of the one file), else of its tensors together."""
    files = [source] if source is not None and source.is_file() else []
    if source is not None and source.is_dir():
        files = [path for pattern in ("*.safetensors", "*.bin", "*.pt2") for path in source.glob(pattern) if path.name != AXES]
    if files or parent is None:
        return {path.name: _of_file(path) for path in sorted(files)}
    return {"tensors": digest(parent.state_dict())}


def digest(state: Mapping[str, Tensor], *texts: str) -> str:
    """Of tensors by name, and of text."""
    found = hashlib.sha256("\0".join(texts).encode())
    for name, tensor in sorted(state.items()):
        found.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest_of_fitted(tensors: Mapping[str, Tensor]) -> str:
    """Of their values, whatever they are stored in; empty for none."""
    return digest({name: tensor.double() for name, tensor in tensors.items()}) if tensors else ""


def _of_file(path: Path) -> str:
    """As `hashlib.file_digest` gives it, which Python 3.10 does not have."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            found.update(piece)
    return found.hexdigest()
