"""Parents of timm: `timm:NAME`, with `--arg name=value` for `timm.create_model` and `--checkpoint` for trained weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch

from graphclone.errors import SourceError
from graphclone.sources.factory import from_call
from graphclone.sources.parent import Parent, Request
from graphclone.sources.words import nearest


def load(request: Request) -> Parent:
    """Make the model that timm knows by this name. Weights are random without `pretrained=True` or a checkpoint.

    Raises:
        SourceError: timm has no model of this name, or does not take the arguments.
    """
    name = request.spec.partition(":")[2]
    if not timm.is_model(name):
        raise SourceError(
            f"cannot find the model '{request.spec}'",
            because=f"timm {timm.__version__} has no model '{name}'",
            attempt=nearest(name, timm.list_models()) or "timm.list_models('*vit*')",
        )

    def create(**arguments: object) -> object:
        return timm.create_model(name, **arguments)

    parent = from_call(request.spec, create, request.args, untrained={"pretrained": False})
    return replace(parent, args=(torch.randn(2, *_image(parent, request), generator=torch.Generator().manual_seed(0)),))


def _image(parent: Parent, request: Request) -> tuple[int, ...]:
    """(channels, height, width): what the arguments say, else what the model's own card says."""
    card: Any = getattr(parent.module, "pretrained_cfg", None) or {}
    channels, *sides = card.get("input_size") or (3, 224, 224)
    size: Any = request.args.get("img_size", sides)
    given: Any = request.args.get("in_chans", channels)
    return (given, size, size) if isinstance(size, int) else (given, *size)
