"""Parents that nobody ships, trained first: one that is N times as large, and ones that were trained for fewer steps than the embedded one.

Each is trained as the embedded one was, with a schedule of its own; a larger one, and its children, at a peak rate N times lower.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.convergence.races import Variant
from benchmarks.convergence.scaled import scaled
from models_zoo import train_byte_llama, train_digits_vit


def parent_of(variant: Variant, folder: Path, short: bool = False) -> Path | None:
    """The variant's trained parent in `folder`, which is made when it is not there, whole or not at all; None where it is the task's own.
    `short`: hardly trained, for tests."""
    if variant.scale is None and variant.trained is None:
        return None
    steps = 2 if short else variant.trained
    own = train_byte_llama.STEPS if variant.task == "text" else train_digits_vit.STEPS
    place = folder / f"{variant.task}{f'-x{variant.scale}' if variant.scale is not None else ''}-{steps or own}-steps"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        try:
            _train(variant, unfinished, steps or own, short)
            os.replace(unfinished, place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            torch.cuda.empty_cache()  # runs are other processes, which need it
    return place


def _train(variant: Variant, output: Path, steps: int, short: bool) -> None:
    if variant.task == "vision":
        train_digits_vit.train(output, steps=steps)
        return
    scale = variant.scale or 1
    config, rate = scaled(train_byte_llama.CONFIG, scale), train_byte_llama.PEAK_LR / scale
    few = {"length": 16, "looks": 1} if short else {}
    train_byte_llama.train(config, output, steps=steps, peak_lr=rate, device=variant.device, **few)
