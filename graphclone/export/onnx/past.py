"""A text generator with its keys and values as inputs and outputs, so that ONNX Runtime can decode step by step."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from graphclone.errors import OutputError
from graphclone.export.onnx.compared import Array, Difference, Disagreement, tolerated
from graphclone.export.onnx.opened import Dims
from graphclone.export.onnx.plain import Plain

# Of one layer: "key" and "value", (batch, heads, position, unit); or "conv_state" and "recurrent_state", of the whole past, (batch, …).
States = Mapping[str, Tensor]
BATCH, SEQUENCE, PAST = 2, 3, 5  # of the example: all different
_SECOND = {"input_ids": "sequence", "attention_mask": "total_sequence", "encoder_attention_mask": "encoder_sequence"}
_ATTEMPT = "without --with-past"


class WithPast(nn.Module):
    """Tokens and what the model remembers of those before them → logits, and what it remembers of them all.

    `cache`: one that the model has filled, for the kinds of its layers.
    """

    def __init__(self, model: Any, cache: Cache) -> None:
        super().__init__()
        self.model, self.cache, self.argument = model, cache, _argument(model)

    def forward(
        self, input_ids: Tensor, past_key_values: Sequence[States], attention_mask: Tensor | None = None
    ) -> dict[str, object]:
        cache = filled(self.cache, past_key_values)
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        result = self.model(input_ids=input_ids, use_cache=True, **masked, **{self.argument: cache})
        return {"logits": result.logits, "present": held(cache)}


def _argument(model: Any) -> str:
    """How its forward calls the cache; "" where it takes none."""
    return next((each for each in ("past_key_values", "cache_params") if each in inspect.signature(model.forward).parameters), "")


def fresh(model: Any) -> Cache:
    """An empty cache, transformers' own, of layers that keep everything: where a model looks back so far only, its mask sees to that."""
    cache = DynamicCache(config=model.config)
    if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        return DynamicCache()
    cache.layers = [DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer for layer in cache.layers]
    return cache


def filled(cache: Cache, states: Sequence[States]) -> Cache:
    """One like this that holds these. (A layer's own `update` would first join keys to a tensor of no dims, and it writes into others.)"""
    made = DynamicCache()
    for like, each in zip(cache.layers, states, strict=True):
        layer = copy.copy(like)
        if "key" in each:
            layer.keys, layer.values = each["key"], each["value"]
        for name, kept in _running(like).items():
            setattr(layer, name, {at: each[_numbered(name, at, kept)].clone() for at in kept})
        made.layers.append(layer)
    return made


def held(cache: Any) -> list[dict[str, Tensor]]:
    """What a cache holds, layer by layer; of some, nothing."""
    found = []
    for layer in cache.layers:
        keys = {"key": layer.keys, "value": layer.values} if getattr(layer, "keys", None) is not None else {}
        running = {_numbered(name, at, kept): each for name, kept in _running(layer).items() for at, each in kept.items()}
        found.append(keys | running)
    return found


def _running(layer: Any) -> dict[str, dict[int, Tensor]]:
    """The states that a layer carries on rather than appends to (of a state-space model, of linear attention), by its attributes."""
    states = {name: getattr(layer, name, {}) for name in ("conv_states", "recurrent_states")}
    return {name: kept for name, each in states.items() if (kept := {at: one for at, one in each.items() if one is not None})}


def carries(plain: Plain) -> bool:
    """Whether it has such states."""
    return any("." in name and not name.endswith((".key", ".value")) for name in plain.names)


def _numbered(name: str, at: int, kept: Mapping[int, Tensor]) -> str:
    return name.removesuffix("s") + (f"_{at}" if len(kept) > 1 else "")


def with_past(module: Any, kwargs: Mapping[str, object], what: str) -> Plain:
    """The module to export, named as decoders in ONNX are. Where a layer carries states on, it takes a token at a time.

    Raises:
        OutputError: the model remembers in another form than transformers' caches hold.
    """
    ids = kwargs.get("input_ids")
    if not isinstance(ids, Tensor) or not (argument := _argument(module)):
        raise OutputError(what, because="its forward takes no input_ids and no cache", attempt=_ATTEMPT)
    ids = ids.repeat(BATCH, 1 + (SEQUENCE + PAST) // ids.shape[1])[:BATCH, : SEQUENCE + PAST]
    try:
        with torch.no_grad():
            module(input_ids=ids[:, :PAST], use_cache=True, **{argument: (cache := fresh(module))})
        past = held(cache)
    except Exception as error:
        raise OutputError(what, because=f"it does not fill a cache: {error!r}", attempt=_ATTEMPT) from error
    if not any(past) or any(each["key"].shape[-2] != PAST for each in past if "key" in each):
        raise OutputError(what, because="what it remembers is not in the cache, or not of every position", attempt=_ATTEMPT)
    if any(map(_running, cache.layers)):
        ids = ids[:, : PAST + 1]
    masked = {"attention_mask": torch.ones_like(ids)} if any("key" in each for each in past) else {}
    given = {"input_ids": ids[:, PAST:], **masked, "past_key_values": past}
    return Plain(WithPast(module, cache).eval(), (), given, separator=".", prefix="module.model.")


def refused(module: Any) -> str:
    """What is refused, where the model has no past that a file could take.

    Raises:
        OutputError: it generates no text.
    """
    what = f"cannot export {type(module).__name__} with its past"
    generates = getattr(module, "can_generate", None)
    if not callable(generates):
        raise OutputError(
            what,
            because="only a text generator of transformers has a cache: a rewritten graph, or a module of another kind, has none",
            attempt="without --with-past; or a child of the parent's own class, as clone makes with --set",
        )
    if not generates():
        raise OutputError(what, because="it generates no text", attempt="without --with-past")
    return what


def every_axis(plain: Plain) -> Dims:
    """What is left open: everything but heads and their units, and the token where there is one at a time."""
    return tuple(_open(name, tensor) for name, tensor in zip(plain.names, plain.inputs, strict=True))


def _open(name: str, tensor: Tensor) -> dict[int, str]:
    if "." not in name:
        return {0: "batch", 1: _SECOND[name]} if tensor.shape[1] > 1 else {0: "batch"}
    if not name.endswith((".key", ".value")):
        return {0: "batch"}
    return {0: "batch", 2: "encoder_sequence" if ".encoder." in name else "past_sequence"}


@torch.no_grad()
def decoded(plain: Plain, running: onnxruntime.InferenceSession, precision: str) -> Iterator[Difference]:
    """Decoding in ONNX Runtime beside PyTorch's run of the whole sequence: token by token from nothing, and after prompts."""
    model: Any = plain.module.model
    vocabulary, single = plain.inputs[0].flatten(), plain.inputs[0].shape[1] == 1
    generator = torch.Generator().manual_seed(0)
    for batch, length, prompt in ((2, 11, 4), (3, 7, 1), (1, 9, 5)):
        prompt = 1 if single else prompt
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
    past = {name: np.zeros(_none(name, len(ids), shape), np.float32) for name, shape in shapes.items()}
    wanted = {each.name for each in running.get_inputs()}
    done = 0
    while done < ids.shape[1]:
        ahead = done + (1 if done else prompt)
        given = {"input_ids": ids[:, done:ahead], "attention_mask": np.ones((len(ids), ahead), np.int64), **past, **fixed}
        results = dict(zip(plain.output_names, running.run(None, {k: v for k, v in given.items() if k in wanted}), strict=True))
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        if any(each.shape[2] != ahead for name, each in past.items() if name.endswith((".key", ".value"))):
            raise Disagreement(f"the keys and values after {ahead} tokens are {next(iter(past.values())).shape}")
        yield results["logits"].astype(np.float32)
        done = ahead


def _none(name: str, batch: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of what is remembered of nothing: no keys and values, or a state of zeros."""
    return (batch, shape[1], 0, shape[3]) if name.endswith((".key", ".value")) else (batch, *shape[1:])
