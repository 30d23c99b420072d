"""`python -m models_zoo.roundtrip.reader FOLDER`: load what lies there, run it, and say how far it is off. Without graphclone.

One JSON object per line: the name, the difference (relative to the largest value of an output), and what went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from models_zoo.conformance.forks import Ended, forked
from models_zoo.roundtrip.folders import ASKED, answers, difference, folder_of

Answer = dict[str, Any]


def read(folder: Path, name: str) -> Answer:
    try:
        asked = torch.load(folder / ASKED, weights_only=False)
        return {"name": name, "difference": difference(asked["expected"], answers(_load(folder, name), asked["inputs"]))}
    except Exception as error:
        return {"name": name, "why": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}


def _load(folder: Path, name: str) -> nn.Module:
    source = name.partition("/")[0]
    if source == "hf":
        return _from_pretrained(folder)
    from models_zoo.field import timm_field, torchvision_field

    return (timm_field if source == "timm" else torchvision_field).reloaded(name, folder / "model.safetensors")


def _from_pretrained(folder: Path) -> nn.Module:
    """The class that the folder names, with the cache off, which is off in what it is compared with."""
    import transformers

    (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
    model, told = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    if wrong := {kind: sorted(keys)[:3] for kind, keys in told.items() if keys}:
        raise ValueError(f"from_pretrained tells of {wrong}")
    for config in _nested(model.config):
        if getattr(config, "use_cache", None):
            config.use_cache = False
    loaded: nn.Module = model.eval()
    return loaded


def _nested(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if hasattr(value, "model_type"):
            yield from _nested(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models_zoo.roundtrip.reader")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--gigabytes", type=int, default=12)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import transformers

    transformers.logging.set_verbosity_error()
    names = json.loads((asked.folder / "names.json").read_text())
    work = forked(names, lambda name: read(folder_of(asked.folder, name), name), asked.jobs, asked.seconds, asked.gigabytes)
    for name, result in work:
        print(json.dumps({"name": name, "why": result.why} if isinstance(result, Ended) else result), flush=True)
    assert "graphclone" not in sys.modules, "a child has to load without graphclone"


if __name__ == "__main__":
    main()
