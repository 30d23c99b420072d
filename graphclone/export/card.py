"""The README of a child's folder: what it was made of, and how to go on with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import fx, nn

from graphclone.export.record import AXES, GRAPH, WEIGHTS, Record
from graphclone.plan import Plan

_LINES = 40  # of the plan; all of it is in plan.json
_BEGINNING = "The weights are a beginning, not an end: train it before use. "
_TRAINING = """\
A clone wants a lower learning rate and less weight decay than random
weights do. The paper (arXiv 2312.09299) went from 2e-3 and 0.2 to 1e-4 and 5e-3 for a ViT on ImageNet, and kept 1e-4 but lowered weight
decay from 0.1 to 1e-3 for GPT-2. Begin with a tenth of what you would take for random weights, warm up for a few hundred steps, and try the
neighbours on either side. In graphclone's own races, which are short (benchmarks/CONVERGENCE.md), small clones did best between a
quarter of the random child's rate (50 steps) and four times that (400 steps)."""


# How a child of each kind is loaded, and the library that this takes.
_LOADED = {
    "folder": ("transformers", "the `from_pretrained` of its class in transformers"),
    "source": ("pytorch", "`from modeling import load; model = load()` in this folder, with torch and safetensors alone"),
    "graph": ("pytorch", f'`torch.export.load("{GRAPH}").module()`, for inference'),
    "factory": ("pytorch", f"`safetensors.torch.load_model(model, '{WEIGHTS}')`, `model` being what {{call}} makes"),
}


def model_card(
    child: nn.Module, record: Record, plan: Plan, parent: Path | None = None, axes: bool = False, trained: str = ""
) -> str:
    """Markdown with the front matter of the hub. `parent`: the folder that the child was made from, where there is one; `axes`: whether
    a file of them lies beside the card; `trained`: how the child was trained since it was made."""
    library, loaded = _LOADED[record.kind]
    terms = [f"license: {each}"] if parent is not None and (each := _license(parent)) else []
    front = "\n".join([*terms, f"library_name: {library}", "tags:", "- graphclone", "- weight-subcloning"])
    since = f"trained since: {trained}" if trained else "not trained since"
    title = "Rewritten graph" if isinstance(child, fx.GraphModule) else type(child).__name__
    origin = _name(record)
    count = sum(parameter.numel() for parameter in child.parameters())
    lines = str(plan).splitlines()
    summary = "\n".join([*lines[:_LINES], *(["…"] if len(lines) > _LINES else [])])
    made_of = "".join(f"- parent: `{origin}`, `{name}`, SHA-256 `{each}`\n" for name, each in record.hashes.items())
    return f"""---
{front}
---

# {title} of {count:,} parameters, cloned from {origin or "a larger one"}

Initialised by [weight subcloning](https://arxiv.org/abs/2312.09299) with graphclone {record.version}; {since}.
It is loaded by {loaded.format(call=_call(record))}.

## What it is made of

{made_of}
```
{summary}
```

`plan.json` says of every tensor which blocks and units of the parent it holds, and by what it was multiplied.
{_computed(plan, axes)}
## {"Training it further" if trained else "Training it"}

{"" if trained else _BEGINNING}{_TRAINING}
"""


def _name(record: Record) -> str:
    """The parent's, without the path that it had on one machine."""
    return record.parent if ":" in record.parent else Path(record.parent).name


def _call(record: Record) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in {**record.arg, **record.set}.items())
    source, _, name = record.parent.partition(":")
    named = ", ".join(filter(None, [repr(name), arguments]))
    if source == "timm":
        return f"`timm.create_model({named})`"
    if source == "torchvision":
        return f"`torchvision.models.get_model({named})` (sizes that it refuses are arguments of the class that it calls)"
    return f"`{record.parent}({arguments})`"


def _computed(plan: Plan, axes: bool) -> str:
    """What is no selection."""
    told = f"{len(plan.fitted)} tensors (`fitted` in it) were computed from calibration data. " if plan.fitted else ""
    if plan.rotated:
        beside = f"; `{AXES}` holds those of streams" if axes else ""
        told += f"The units of {_few(plan.rotated)} are principal axes of the parent's{beside}. "
    return told.strip() + "\n" if told else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _license(parent: Path) -> str | None:
    """What the parent's own card says: a child is under the same terms."""
    card = parent / "README.md"
    front = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    found = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
