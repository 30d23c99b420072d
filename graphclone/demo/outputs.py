"""The trained child on disk, each form of it read back and compared before anyone is told of it."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from graphclone.demo.task import Batch, Task
from graphclone.errors import OutputError
from graphclone.export.hf import save_hf
from graphclone.export.onnx import export_onnx
from graphclone.plan import Plan
from graphclone.sources.quiet import quiet


def write_folder(child: PreTrainedModel, plan: Plan, it: Task, few: Batch, folder: Path, trained: str) -> float:
    """The child as a HF folder; how far its outputs are from those of the one that `from_pretrained` reads back.

    **Raises** `OutputError` if they are not the same.
    """
    folder.mkdir()
    save_hf(child, it.parent, folder, plan, trained=trained)
    with quiet():
        again = getattr(transformers, it.loader).from_pretrained(folder, local_files_only=True).eval()
    distance = float((_logits(child, few) - _logits(again, few)).abs().max())
    if distance > 1e-5:
        raise OutputError(f"what was written to '{folder.name}' computes something else", because=f"off by {distance:.1e}")
    return distance


def write_onnx(child: PreTrainedModel, few: Batch, path: Path) -> float:
    """The child as ONNX; how far ONNX Runtime's outputs are from PyTorch's."""
    return export_onnx(child, (), few.inputs, path).difference


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits: Tensor = model(**batch.inputs).logits
    return logits
