"""A larger parent for the text task: hidden size, heads, MLP and depth N times those of the embedded one, heads of the same size.

There is no such parent, so it is trained first, as the embedded one was, but at a peak rate N times lower; so are children.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models_zoo.train_byte_llama import CONFIG, PEAK_LR, STEPS, train

_GROWS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def scaled(sizes: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """The fields that grow, N times; others as they are."""
    return {name: value * scale if name in _GROWS else value for name, value in sizes.items()}


def parent(folder: Path, scale: int, device: str, short: bool = False) -> Path:
    """The trained parent in `folder`, which is made when it is not there, whole or not at all. `short`: hardly trained, for tests."""
    options: dict[str, Any] = {"steps": 2, "length": 16, "looks": 1} if short else {"steps": STEPS}
    place = folder / f"byte-llama-x{scale}-{options['steps']}-steps"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        try:
            train(scaled(CONFIG, scale), unfinished, peak_lr=PEAK_LR / scale, device=device, **options)
            os.replace(unfinished, place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            torch.cuda.empty_cache()  # runs are other processes, which need it
    return place
