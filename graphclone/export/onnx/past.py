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

Layers = Sequence[Mapping[str, Tensor]]
_BATCH, _SEQUENCE, _PAST = 2, 3, 5  # of the example: all different
_AXES = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "total_sequence"},
    "past_key_values": {0: "batch", 2: "past_sequence"},
}


class WithPast(nn.Module):
    """Tokens and the keys and values of those before them → logits, and the keys and values of them all.

    The cache is transformers' own, of layers that keep everything: where a model looks back so far only, its mask sees to that.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Layers) -> dict[str, object]:
        cache = DynamicCache()
        cache.layers = [_layer(each["key"], each["value"]) for each in past_key_values]
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        present = [{"key": layer.keys, "value": layer.values} for layer in result.past_key_values.layers]
        return {"logits": result.logits, "present": present}


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A layer that holds these. (Its own `update` would first join them to a tensor of no dims.)"""
    layer = DynamicLayer()
    layer.keys, layer.values, layer.dtype, layer.device = keys, values, keys.dtype, keys.device
    layer.is_initialized = True
    return layer


def with_past(module: Any, kwargs: Mapping[str, object]) -> Plain:
    """The module to export, named as decoders in ONNX are.

    Raises:
        OutputError: the model generates no text, or remembers in another form than keys and values.
    """
    ids = kwargs.get("input_ids")
    accepted = inspect.signature(module.forward).parameters
    what = f"cannot export {type(module).__name__} with its past"
    if not callable(getattr(module, "can_generate", None)) or not module.can_generate() or not isinstance(ids, Tensor):
        raise OutputError(
            what,
            because="a graph has no cache any more" if isinstance(module, torch.fx.GraphModule) else "it generates no text",
            attempt="without --with-past; or a child of the parent's own class, as clone makes with --set",
        )
    if (
        getattr(module.config, "is_encoder_decoder", False)
        or "past_key_values" not in accepted
        or "attention_mask" not in accepted
    ):
        raise OutputError(
            what,
            because="it has an encoder, whose keys and values are those of another sequence"
            if getattr(module.config, "is_encoder_decoder", False)
            else "its forward takes no past_key_values and attention_mask",
            attempt="without --with-past",
        )
    ids = ids.repeat(_BATCH, 1 + (_SEQUENCE + _PAST) // ids.shape[1])[:_BATCH, : _SEQUENCE + _PAST]
    return _example(WithPast(module).eval(), ids, what)


@torch.no_grad()
def _example(model: WithPast, ids: Tensor, what: str) -> Plain:
    cache = DynamicCache()
    try:
        model.model(input_ids=ids[:, :_PAST], past_key_values=cache, use_cache=True)
        states = [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]
    except Exception as error:
        raise OutputError(
            what, because=f"it does not fill a cache of keys and values: {error!r}", attempt="without --with-past"
        ) from error
    if not states or len(states) != len(cache.layers) or any(keys.shape[-2] != _PAST for keys, _ in states):
        raise OutputError(
            what,
            because="what it remembers is not the keys and values of every position (a state-space or linear-attention layer)",
            attempt="without --with-past",
        )
    past = [{"key": keys, "value": values} for keys, values in states]
    mask = torch.ones_like(ids)
    given = {"input_ids": ids[:, _PAST:], "attention_mask": mask, "past_key_values": past}
    return Plain(model, (), given, separator=".", prefix="module.model.")


def every_axis(plain: Plain) -> Dims:
    """What is left open: everything but heads and their units."""
    return tuple(_AXES[name.partition(".")[0]] for name in plain.names)


@torch.no_grad()
def decoded(plain: Plain, running: onnxruntime.InferenceSession, precision: str) -> Iterator[Difference]:
    """Decoding in ONNX Runtime beside PyTorch's run of the whole sequence: token by token from nothing, and after prompts."""
    model: Any = plain.module.model
    vocabulary = plain.inputs[0].flatten()
    generator = torch.Generator().manual_seed(0)
    for batch, length, prompt in ((2, 11, 4), (3, 7, 1), (1, 9, 5)):
        ids = vocabulary[torch.randint(len(vocabulary), (batch, length), generator=generator)]
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float().numpy()
        found = np.concatenate(list(_steps(plain, running, ids.numpy(), prompt)), axis=1)
        gap, size = tolerated("logits", expected, found, precision)
        yield Difference(f"{batch}×{length}, a prompt of {prompt} and then one by one", gap, size)


def _steps(plain: Plain, running: onnxruntime.InferenceSession, ids: Array, prompt: int) -> Iterator[Array]:
    """The logits of each step; what comes out as `present` goes back in as `past_key_values`."""
    shapes = {name: each.shape for name, each in zip(plain.names, plain.inputs, strict=True) if "." in name}
    past = {name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    done = 0
    while done < ids.shape[1]:
        ahead = done + (1 if done else prompt)
        given = {"input_ids": ids[:, done:ahead], "attention_mask": np.ones((len(ids), ahead), np.int64), **past}
        wanted = {each.name for each in running.get_inputs()}
        results = dict(zip(plain.output_names, running.run(None, {k: v for k, v in given.items() if k in wanted}), strict=True))
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        if any(each.shape[2] != ahead for each in past.values()):
            raise Disagreement(f"the keys and values after {ahead} tokens are {next(iter(past.values())).shape}")
        yield results["logits"].astype(np.float32)
        done = ahead
