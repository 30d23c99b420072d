"""Parents of torchvision: `torchvision:NAME`, with `--arg name=value` for the builder and `--checkpoint` for trained weights."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision import models

from graphclone.errors import SourceError
from graphclone.sources.factory import from_call
from graphclone.sources.parent import Parent, Request
from graphclone.sources.words import nearest

# The shape of one example by the folder of torchvision.models that a builder lives in; images elsewhere.
_SHAPES = {"video": (3, 16, 112, 112)}
_FIXED = re.compile(r"multiple values for keyword argument '(\w+)'")


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
    parent = from_call(request.spec, partial(_made, builder), request.args, untrained={"weights": None})
    family = builder.__module__.removeprefix("torchvision.models.").partition(".")[0]
    side = getattr(parent.module, "image_size", 224)
    shape = _SHAPES.get(family, (3, side, side))
    return replace(parent, args=(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),))


def _made(builder: Callable[..., Any], **arguments: object) -> Any:
    """`builder(**arguments)`, also of arguments that the builder gives its class itself, as most sizes are: the class gets them instead."""
    of_class: dict[str, object] = {}
    while True:
        try:
            made = builder(**arguments)
        except TypeError as error:
            fixed = _FIXED.search(str(error))
            if fixed is None or fixed[1] not in arguments:
                raise
            of_class[fixed[1]] = arguments.pop(fixed[1])
        else:
            break
    if not of_class:
        return made
    if trained := [name for name, value in arguments.items() if value and name.startswith(("weights", "pretrained"))]:
        raise SourceError(
            f"cannot give {type(made).__name__} {', '.join(of_class)} and {trained[0]}",
            because="these weights are of the sizes that torchvision gives it",
            attempt="one or the other; or --checkpoint, for weights of such sizes",
        )
    with _called(type(made)) as calls:
        builder(**arguments)
    call = calls[0]
    call.arguments |= of_class
    return type(made)(*call.args[1:], **call.kwargs)


@contextlib.contextmanager
def _called(kind: type[nn.Module]) -> Iterator[list[inspect.BoundArguments]]:
    """The calls of a class's constructor, each when it begins."""
    constructor: Any = kind.__init__
    own, calls = "__init__" in vars(kind), list[inspect.BoundArguments]()

    def noted(self: nn.Module, *args: object, **kwargs: object) -> None:
        if type(self) is kind:
            calls.append(inspect.signature(constructor).bind(self, *args, **kwargs))
        constructor(self, *args, **kwargs)

    kind.__init__ = noted  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        if own:
            kind.__init__ = constructor  # type: ignore[method-assign]
        else:
            del kind.__init__
