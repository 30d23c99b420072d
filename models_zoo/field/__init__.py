"""The field: a tiny random model of everything that the libraries hold, and the hand-written odd ones.

names()             hf/llama/LlamaForCausalLM, timm/vision_transformer/…, torchvision/…, nn/…, odd/…
find(name)          how to build it, and what it takes
"""

from __future__ import annotations

import importlib

from models_zoo.entry import Tiny, Unbuildable

__all__ = ["SOURCES", "Tiny", "Unbuildable", "find", "names"]

SOURCES = {
    "hf": "models_zoo.field.hf",
    "timm": "models_zoo.field.timm_field",
    "torchvision": "models_zoo.field.torchvision_field",
    "nn": "models_zoo.field.nn_field",
    "odd": "models_zoo.odd",
}


def names(every_head: bool = False) -> list[str]:
    """All names; of each type of transformers its richest head only, unless every head is asked for."""
    found: list[str] = []
    for source, module in SOURCES.items():
        listed = importlib.import_module(module)
        found += listed.names(every_head) if source == "hf" else listed.names()
    return found


def find(name: str) -> Tiny:
    """**Raises** `KeyError` for a name of no source; building it may raise `Unbuildable`."""
    found: Tiny = importlib.import_module(SOURCES[name.partition("/")[0]]).find(name)
    return found
