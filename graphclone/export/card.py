"""The README of a child's folder: what it was made of, and how to go on with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from torch import nn

import graphclone
from graphclone.plan import Plan

_LINES = 40  # of the plan; all of it is in plan.json
_TRAINING = """\
The weights are a beginning, not an end: train it before use. A clone wants a lower learning rate and less weight decay than random
weights do. The paper (arXiv 2312.09299) went from 2e-3 and 0.2 to 1e-4 and 5e-3 for a ViT on ImageNet, and kept 1e-4 but lowered weight
decay from 0.1 to 1e-3 for GPT-2. Begin with a tenth of what you would take for random weights, warm up for a few hundred steps, and try the
neighbours on either side. In graphclone's own races, which are short (benchmarks/CONVERGENCE.md), small clones did best between a
quarter of the random child's rate (50 steps) and four times that (400 steps)."""


def model_card(child: nn.Module, parent: Path | None, plan: Plan) -> str:
    """Markdown with the front matter of the hub. `parent`: the folder that the child was made from, where there is one."""
    told = {"license": _license(parent)} if parent is not None else {}
    data = ModelCardData(
        library_name="transformers", tags=["graphclone", "weight-subcloning"], **{k: v for k, v in told.items() if v}
    )
    count = sum(parameter.numel() for parameter in child.parameters())
    lines = str(plan).splitlines()
    summary = "\n".join([*lines[:_LINES], *(["…"] if len(lines) > _LINES else [])])
    return f"""---
{data.to_yaml()}
---

# {type(child).__name__} of {count:,} parameters, cloned from {parent.name if parent is not None else "a larger one"}

Initialised by [weight subcloning](https://arxiv.org/abs/2312.09299) with graphclone {graphclone.__version__}; not trained since.

## What it is made of

{_provenance(parent)}
```
{summary}
```

`plan.json` says of every tensor which blocks and units of the parent it holds, and by what it was multiplied.
{_computed(plan)}
## Training it

{_TRAINING}
"""


def _computed(plan: Plan) -> str:
    """What is no selection."""
    told = f"{len(plan.fitted)} tensors (`fitted` in it) were computed from calibration data. " if plan.fitted else ""
    if plan.rotated:
        told += (
            f"The units of {_few(plan.rotated)} are principal axes of the parent's; `axes.safetensors` holds those of streams. "
        )
    return told.strip() + "\n" if told else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _provenance(parent: Path | None) -> str:
    """The parent's weights, by their SHA-256: a name may come to mean something else."""
    if parent is None:
        return ""
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in parent.glob(pattern) if path.is_file())
    return "".join(f"- parent: `{parent.name}/{path.name}`, SHA-256 `{_digest(path)}`\n" for path in files)


def _digest(path: Path) -> str:
    """As `hashlib.file_digest` gives it, which Python 3.10 does not have."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            found.update(piece)
    return found.hexdigest()


def _license(parent: Path) -> str | None:
    """What the parent's own card says: a child is under the same terms."""
    card = parent / "README.md"
    if not card.is_file():
        return None
    found = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict().get("license")
    return found if isinstance(found, str) else None
