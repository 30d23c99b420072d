"""What the scripts that train the embedded parents share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


def save(model: PreTrainedModel, folder: Path, card: dict[str, Any]) -> None:
    """A HF folder in bf16, the model in training left as it is, and beside it `training.json`: how it came to be."""
    copy = type(model)(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(card, indent=1) + "\n")
