"""Names of the field's models, and the tiny model behind each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from graphclone.sources.hf_inputs.case import nested
from graphclone.sources.hf_inputs.makers import example
from models_zoo.entry import Inputs, Tiny, Unbuildable, seeded
from models_zoo.field.hf.exceptions import OWN_CONFIG, has_smaller, of_class
from models_zoo.field.hf.registry import classes, default_config, model_class
from models_zoo.field.hf.shrink import HALF, NARROW, SHALLOW, WHOLE, Halved, shrink

NOT_TENSORS = {
    "gemma4_assistant": "its forward takes the target model's shared keys and values",
    "gemma4_unified_assistant": "its forward takes the target model's shared keys and values",
    "sam3_tracker_video": "its forward takes an inference session",
    "EdgeTamVideoModel": "its forward takes an inference session",
    "Sam2VideoModel": "its forward takes an inference session",
    "Sam3VideoModel": "its forward takes an inference session",
}  # by model type or by class


def names(every_head: bool = False) -> list[str]:
    """`hf/<model_type>/<ClassName>`: the richest class of each model type, or all its classes."""
    return [f"hf/{kind}/{name}" for kind, found in classes().items() for name in (found if every_head else found[:1])]


def find(name: str) -> Tiny:
    """The tiny model of this name. Its functions raise `Unbuildable` where the model or its inputs can't be had."""
    _, model_type, class_name = name.split("/")

    def built(half: Halved, seed: int) -> Callable[[], nn.Module]:
        return seeded(lambda: _build(model_type, class_name, half), seed)

    def inputs() -> Inputs:
        return (), dict(_example(model_type, class_name))

    smaller = built(HALF, 1) if has_smaller(model_type, class_name) else None
    others = {"half widths": built(NARROW, 1), "half depth": built(SHALLOW, 1)}
    return Tiny(name, built(WHOLE, 0), inputs, smaller, others, built(WHOLE, 1))


@cache
def _example(model_type: str, class_name: str) -> dict[str, Any]:
    return example(seeded(lambda: _build(model_type, class_name, WHOLE), 0)())


def _build(model_type: str, class_name: str, half: Halved) -> nn.Module:
    if reason := NOT_TENSORS.get(model_type) or NOT_TENSORS.get(class_name):
        raise Unbuildable(reason)
    try:
        architecture = model_class(class_name)
        plain = architecture.forward is nn.Module.forward
    except (AttributeError, ImportError) as error:
        raise Unbuildable(f"transformers cannot import {class_name}: {error}") from error
    try:
        default = default_config(model_type)
    except ImportError as error:
        raise Unbuildable(str(error)) from error
    if plain:
        raise Unbuildable(f"{class_name} has no forward")
    default = next((part for part in nested(default) if type(part) is architecture.config_class), default)
    if class_name in OWN_CONFIG and type(default) is not architecture.config_class:
        raise Unbuildable(f"{class_name} is built from a {architecture.config_class.__name__}, not a {type(default).__name__}")
    settings = ({} if "QuestionAnswering" in class_name else {"num_labels": 7}) | of_class(class_name)
    config = shrink(default, half, **settings)
    try:
        model: Any = architecture(config)
    except ImportError as error:
        raise Unbuildable(str(error)) from error
    set_experts(model, "batched_mm")  # plain index and bmm, which export as they are
    built: nn.Module = model
    return built


def set_experts(model: Any, implementation: str) -> bool:
    """Choose how its experts are computed; "grouped_mm" is what transformers chooses itself. **Returns** whether there is a choice."""
    if not getattr(model, "_can_set_experts_implementation", lambda: False)():
        return False
    model.set_experts_implementation(implementation)
    return True
