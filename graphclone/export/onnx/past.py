"""A text generator with its keys and values as inputs and outputs, so that ONNX Runtime can decode step by step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from graphclone.errors import OutputError
from graphclone.export.onnx.compared import Array, Difference, Disagreement, tolerated
from graphclone.export.onnx.opened import Dims
from graphclone.export.onnx.plain import Plain

States = Mapping[str, Tensor]  # of one layer: "key" and "value", (batch, heads, position, unit)
BATCH, SEQUENCE, PAST = 2, 3, 5  # of the example: all different
_SECOND = {"input_ids": "sequence", "attention_mask": "total_sequence", "encoder_attention_mask": "encoder_sequence"}
_ATTEMPT = "without --with-past"


class WithPast(nn.Module):
    """Tokens and the keys and values of those before them → logits, and the keys and values of them all.

    The cache is transformers' own, of layers that keep everything: where a model looks back so far only, its mask sees to that.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Sequence[States]) -> dict[str, object]:
        cache = cached(past_key_values)
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return {"logits": result.logits, "present": held(result.past_key_values)}


def cached(states: Sequence[States]) -> DynamicCache:
    """A cache that holds these. (A layer's own `update` would first join them to a tensor of no dims.)"""
    cache = DynamicCache()
    for each in states:
        layer = DynamicLayer()
        layer.keys, layer.values, layer.dtype, layer.device = each["key"], each["value"], each["key"].dtype, each["key"].device
        layer.is_initialized = True
        cache.layers.append(layer)
    return cache


def held(cache: Any) -> list[dict[str, Tensor]]:
    """What a cache holds, layer by layer; a layer that holds something else is left out."""
    return [{"key": layer.keys, "value": layer.values} for layer in cache.layers if layer.is_initialized]


def with_past(module: Any, kwargs: Mapping[str, object], what: str) -> Plain:
    """The module to export, named as decoders in ONNX are.

    Raises:
        OutputError: the model remembers in another form than keys and values.
    """
    ids = kwargs.get("input_ids")
    accepted = inspect.signature(module.forward).parameters
    if not isinstance(ids, Tensor) or "past_key_values" not in accepted or "attention_mask" not in accepted:
        raise OutputError(what, because="its forward takes no input_ids, past_key_values and attention_mask", attempt=_ATTEMPT)
    ids = ids.repeat(BATCH, 1 + (SEQUENCE + PAST) // ids.shape[1])[:BATCH, : SEQUENCE + PAST]
    return _example(WithPast(module).eval(), ids, what)


def refused(module: Any) -> str:
    """What is refused, where the model has no past that a file could take.

    Raises:
        OutputError: it generates no text.
    """
    what = f"cannot export {type(module).__name__} with its past"
    if not callable(getattr(module, "can_generate", None)) or not module.can_generate():
        raise OutputError(
            what,
            because="a graph has no cache any more" if isinstance(module, torch.fx.GraphModule) else "it generates no text",
            attempt="without --with-past; or a child of the parent's own class, as clone makes with --set",
        )
    return what


@torch.no_grad()
def _example(model: WithPast, ids: Tensor, what: str) -> Plain:
    cache = DynamicCache()
    try:
        model.model(input_ids=ids[:, :PAST], past_key_values=cache, use_cache=True)
        past = held(cache)
    except Exception as error:
        raise OutputError(what, because=f"it does not fill a cache of keys and values: {error!r}", attempt=_ATTEMPT) from error
    if not past or len(past) != len(cache.layers) or any(each["key"].shape[-2] != PAST for each in past):
        raise OutputError(
            what,
            because="what it remembers is not the keys and values of every position (a state-space or linear-attention layer)",
            attempt=_ATTEMPT,
        )
    given = {"input_ids": ids[:, PAST:], "attention_mask": torch.ones_like(ids), "past_key_values": past}
    return Plain(model, (), given, separator=".", prefix="module.model.")


def every_axis(plain: Plain) -> Dims:
    """What is left open: everything but heads and their units."""
    return tuple(
        {0: "batch", 2: "encoder_sequence" if ".encoder." in name else "past_sequence"}
        if "." in name
        else {0: "batch", 1: _SECOND[name]}
        for name in plain.names
    )


@torch.no_grad()
def decoded(plain: Plain, running: onnxruntime.InferenceSession, precision: str) -> Iterator[Difference]:
    """Decoding in ONNX Runtime beside PyTorch's run of the whole sequence: token by token from nothing, and after prompts."""
    model: Any = plain.module.model
    vocabulary = plain.inputs[0].flatten()
    generator = torch.Generator().manual_seed(0)
    for batch, length, prompt in ((2, 11, 4), (3, 7, 1), (1, 9, 5)):
        ids = vocabulary[torch.randint(len(vocabulary), (batch, length), generator=generator)]
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float().numpy()
        found = np.concatenate(list(steps(plain, running, ids.numpy(), prompt)), axis=1)
        gap, size = tolerated("logits", expected, found, precision)
        yield Difference(f"{batch}×{length}, a prompt of {prompt} and then one by one", gap, size)


def steps(
    plain: Plain, running: onnxruntime.InferenceSession, ids: Array, prompt: int, fixed: Mapping[str, Array] | None = None
) -> Iterator[Array]:
    """The logits of each step; what comes out as `present` goes back in as `past_key_values`. `fixed`: what else goes in each time."""
    fixed = fixed or {}
    shapes = {name: each.shape for name, each in zip(plain.names, plain.inputs, strict=True) if "." in name and name not in fixed}
    past = {name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    wanted = {each.name for each in running.get_inputs()}
    done = 0
    while done < ids.shape[1]:
        ahead = done + (1 if done else prompt)
        given = {"input_ids": ids[:, done:ahead], "attention_mask": np.ones((len(ids), ahead), np.int64), **past, **fixed}
        results = dict(zip(plain.output_names, running.run(None, {k: v for k, v in given.items() if k in wanted}), strict=True))
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        if any(each.shape[2] != ahead for each in past.values()):
            raise Disagreement(f"the keys and values after {ahead} tokens are {next(iter(past.values())).shape}")
        yield results["logits"].astype(np.float32)
        done = ahead
