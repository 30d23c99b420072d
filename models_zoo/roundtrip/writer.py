"""A child of one model, written as a user would have it, with what the rewritten graph of the same plan computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import graphclone as gc
from models_zoo import field as zoo
from models_zoo.conformance.checks import destination, reason
from models_zoo.entry import Tiny
from models_zoo.roundtrip.folders import ASKED, answers, folder_of
from models_zoo.roundtrip.kept import WEIGHTS


@dataclass(frozen=True)
class Written:
    """`child`: in which sizes it was made, None if in none; `refused`: why not in those that were tried first."""

    child: str | None
    refused: dict[str, str] = field(default_factory=dict)


def written(name: str, root: Path) -> Written:
    """The first child that can be made, from the smallest on; or the one that lies there already."""
    if (folder_of(root, name) / ASKED).exists():
        return Written(torch.load(folder_of(root, name) / ASKED, weights_only=False)["sizes"])
    try:
        tiny = zoo.find(name)
        model, inputs = tiny.build(), tiny.inputs()
        layout = gc.analyze(gc.capture(model, *inputs))
    except Exception as error:  # CONFORMANCE.md has these
        return Written(None, {"parent": reason(error)})
    refused: dict[str, str] = {}
    for sizes, build in _ladder(tiny):
        try:
            destination(model, build(), layout, inputs, sizes, folder_of(root, name))
        except Exception as error:
            refused[sizes] = reason(error)
        else:
            return Written(sizes, refused)
    return Written(None, refused)


def alone(name: str, root: Path) -> str | None:
    """The parent as its own library saves it, without graphclone: the control of a child that does not come back. Why not, if not."""
    try:
        tiny = zoo.find(name)
        model, inputs = tiny.build(), tiny.inputs()
        folder = folder_of(root, name)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"sizes": "the parent", "inputs": inputs, "expected": answers(model, inputs)}, folder / ASKED)
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder)
        else:
            save_file(model.state_dict(), folder / WEIGHTS)
    except Exception as error:
        return reason(error)
    return None


def _ladder(tiny: Tiny) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    yield from tiny.destinations()
    if tiny.again is not None:
        yield "its own sizes", tiny.again
