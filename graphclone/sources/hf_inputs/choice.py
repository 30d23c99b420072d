"""The inputs that a model is traced with: as few as make all of it run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from graphclone.sources.hf_inputs import makers, plain

_BESIDE_TEXT = {"attention_mask", "token_type_ids"}  # a text model runs without them


def example_inputs(module: PreTrainedModel) -> dict[str, object]:
    """Keyword arguments that the module's forward accepts; empty where its main input is of a kind unknown here.

    The plain ones where they will do. A model that also sees or hears is given pictures and sounds, and text with a place for each vector
    of theirs: without them its towers would be dead, and stay as they are in a child.
    """
    few = plain.example_inputs(module)
    with contextlib.suppress(Exception):  # a config may lack what a maker reads: then the plain ones have to do
        more: Mapping[str, Any] = makers.example(module)
        senses = {name for name, value in more.items() if isinstance(value, Tensor) and value.is_floating_point()} - few.keys()
        wanted = senses or ((more.keys() ^ few.keys()) - _BESIDE_TEXT and not plain.runs(module, few))
        if wanted and plain.runs(module, dict(more)):
            return dict(more)
    return few
