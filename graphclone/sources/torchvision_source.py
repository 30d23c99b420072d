"""Parents of torchvision: `torchvision:NAME`, with `--arg name=value` for the builder and `--checkpoint` for trained weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torchvision import models

from graphclone.errors import SourceError
from graphclone.sources.factory import from_call
from graphclone.sources.parent import Parent, Request
from graphclone.sources.words import nearest

# The shape of one example by the folder of torchvision.models that a builder lives in; images elsewhere.
_SHAPES = {"video": (3, 16, 112, 112)}


def load(request: Request) -> Parent:
    """Make the model that torchvision knows by this name. Weights are random without `weights=…` or a checkpoint.

    Raises:
        SourceError: torchvision has no model of this name, or does not take the arguments.
    """
    name = request.spec.partition(":")[2]
    if name not in models.list_models():
        raise SourceError(
            f"cannot find the model '{request.spec}'",
            because=f"torchvision has no model '{name}'",
            attempt=nearest(name, models.list_models()) or "torchvision.models.list_models()",
        )
    builder = models.get_model_builder(name)
    parent = from_call(request.spec, builder, request.args, untrained={"weights": None})
    family = builder.__module__.removeprefix("torchvision.models.").partition(".")[0]
    side = getattr(parent.module, "image_size", 224)
    shape = _SHAPES.get(family, (3, side, side))
    return replace(parent, args=(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),))
