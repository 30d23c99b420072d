"""A filled child put on disk as a user would have it, for the process that reads it, with what it has to answer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from graphclone.export.pytorch import save_state
from graphclone.plan import Plan
from models_zoo.entry import Inputs
from models_zoo.roundtrip.folders import ASKED

WEIGHTS = "model.safetensors"


def keep(folder: Path, sizes: str, child: nn.Module, plan: Plan, inputs: Inputs, expected: list[Tensor]) -> None:
    """`sizes`: which of the parent's sizes the child has half of; `expected`: what the rewritten graph of its plan computes."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"sizes": sizes, "inputs": inputs, "expected": expected}, folder / ASKED)
    if hasattr(child, "save_pretrained"):
        from graphclone.export.hf import save_hf

        save_hf(child, None, folder, plan)  # type: ignore[arg-type]
    else:
        save_state(child.state_dict(), folder / WEIGHTS)
