"""The registry of tiny models. `python -m models_zoo.tiny [NAME …]` builds, runs and exports them."""

from __future__ import annotations

import sys
import time

import torch

from models_zoo import hf, raw, timm_models
from models_zoo.entry import Tiny

_MODELS = {tiny.name: tiny for tiny in (*hf.MODELS, *timm_models.MODELS, *raw.MODELS)}


def names() -> list[str]:
    """All names, such as `hf/llama`, `timm/vit`, `torch/encoder`, `raw/einsum_gpt`."""
    return list(_MODELS)


def get(name: str) -> Tiny:
    return _MODELS[name]


def describe(tiny: Tiny) -> str:
    """Export parent and smaller destination, and say what came of it in one line."""
    args, kwargs = tiny.inputs()
    line = f"{tiny.name:16}"
    for build in (tiny.build, tiny.smaller):
        start = time.time()
        model = build()
        built = time.time() - start
        with torch.no_grad():
            model(*args, **kwargs)
        graph = torch.export.export(model, args, kwargs, strict=False).graph
        size = sum(parameter.numel() for parameter in model.parameters())
        line += f"  {size:7,} parameters, built in {built:.2f} s, export ok, {len(graph.nodes):5,} nodes"
    return line


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or names():
        print(describe(get(name)), flush=True)


if __name__ == "__main__":
    main()
