"""Example inputs from the forward's signature and the config: a maker per parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphclone.errors import SourceError
from graphclone.sources.hf_inputs.case import LENGTH, PICTURES, TARGET, TEXTS, Case, integers, reals
from graphclone.sources.hf_inputs.heads import for_head
from graphclone.sources.hf_inputs.pictures import pictures
from graphclone.sources.hf_inputs.sounds import sounds
from graphclone.sources.hf_inputs.special import SENSES, SPECIAL

Made = dict[str, Any]
_MAKERS: dict[str, Callable[[Case, Made], Any]] = {}


def example(model: nn.Module) -> Made:
    """Keyword arguments of tensors for the model's forward: everything that it can see, hear or read.

    **Raises** `SourceError` where it needs something that nothing here makes; of a config without the usual fields, whatever that raises.
    """
    case = Case.of(model)
    made: Made = {}
    if case.type in SPECIAL:
        made = SPECIAL[case.type](case)
    else:
        made = text_with_images(case)
    for name, maker in _MAKERS.items():
        if name in case.accepts and name not in made and (value := maker(case, made)) is not None:
            made[name] = value
    made = {name: value for name, value in for_head(case, made).items() if value is not None}
    missing = [name for name in case.required if name not in made]
    if missing:
        raise SourceError(f"no maker for the inputs {', '.join(missing)}")
    return {name: value for name, value in made.items() if name in case.accepts}


def text_with_images(case: Case) -> Made:
    """What the parameters' names tell: pixels, sounds, and text with a placeholder for each vector of theirs."""
    made = SENSES[case.type](case) if case.type in SENSES else pictures(case) | sounds(case)
    _text(case, made)
    return made


def _text(case: Case, made: Made) -> None:
    if "input_ids" not in case.accepts or "input_ids" in made:
        return
    placeholders = _placeholders(case, made)
    batch = PICTURES if made else TEXTS
    ids = case.tokens(batch, LENGTH)
    blocks = [ids[:, :3]]
    kinds = [torch.zeros(batch, 3)]
    for kind, (token, count, start, end) in placeholders.items():
        inner = [token] * count
        row = [start] * (start is not None) + inner + [end] * (end is not None)
        blocks.append(torch.tensor([row] * batch))
        kinds.append(torch.tensor([[kind * (item == token) for item in row]] * batch))
    made["input_ids"] = torch.cat([*blocks, ids[:, 3:]], 1)
    made["mm_token_type_ids"] = torch.cat([*kinds, torch.zeros(batch, LENGTH - 3)], 1).long()
    _mask(case, made, batch, made["input_ids"].shape[1])


def _mask(case: Case, made: Made, batch: int, length: int) -> None:
    """One full row, and shorter ones, as a tokenizer pads them."""
    lengths = torch.tensor([[length], [length - 2], [length - 5]])[:batch]
    mask = (torch.arange(length) < lengths).long()
    if "attention_mask" in case.accepts:
        made["attention_mask"] = mask


def _placeholders(case: Case, made: Made) -> dict[int, tuple[int, int, int | None, int | None]]:
    """For images (1) and sounds (3): the token, how many in a row, and the tokens around them."""
    found: dict[int, tuple[int, int, int | None, int | None]] = {}
    for kind, method, names in (
        (1, "get_image_features", ("image_token_id", "image_token_index", "img_token_id")),
        (3, "get_audio_features", ("audio_token_id", "audio_token_index")),
    ):
        token = case.size(*names)
        count = _feature_rows(case, method, made) if token is not None else 0
        if case.type == "qwen2_audio" and kind == 3:  # two strides of two, and no method to ask
            count = PICTURES * (made["input_features"].shape[-1] // 4)
        if count:
            what = "vision" if kind == 1 else "audio"
            start, end = case.size(f"{what}_start_token_id"), case.size(f"{what}_end_token_id")
            found[kind] = (token, count // PICTURES, start, end)
    return found


def _feature_rows(case: Case, method: str, made: Made) -> int:
    """How many vectors the tower hands to the language model: run it and count."""
    functions = [function for part in case.model.modules() if (function := getattr(part, method, None))]
    for function in functions:  # an outer one may leave what it takes to the inner one to name
        given = {name: value for name, value in made.items() if name in inspect.signature(function).parameters}
        if not given:
            continue
        try:
            with torch.no_grad():
                out = function(**given)
            break
        except TypeError:
            if function is functions[-1]:
                raise
    else:
        return 0
    features = getattr(out, "pooler_output", None) if not isinstance(out, Tensor | list | tuple) else out
    if features is None and (deep := getattr(out, "deepstack_features", None)):
        _, features = deep[0]  # a layer and what is added there; every layer adds to the same places
    if features is None:
        features = out[0]
    return _rows(features)


def _rows(features: Any) -> int:
    if isinstance(features, Tensor):
        return features.numel() // features.shape[-1]
    return sum(_rows(item) for item in features) if isinstance(features, list | tuple) else 0


def maker(*names: str) -> Callable[[Callable[[Case, Made], Any]], Callable[[Case, Made], Any]]:
    def register(make: Callable[[Case, Made], Any]) -> Callable[[Case, Made], Any]:
        _MAKERS.update(dict.fromkeys(names, make))
        return make

    return register


@maker("token_type_ids")
def _segments(case: Case, made: Made) -> Tensor | None:
    kinds = case.size("type_vocab_size", default=0)
    if "input_ids" not in made or kinds < 2 or len(made["input_ids"].shape) != 2:
        return None
    return integers(min(kinds, 5), *made["input_ids"].shape, seed=1)


@maker("decoder_input_ids")
def _decoder(case: Case, made: Made) -> Tensor:
    batch = next(iter(made.values())).shape[0] if made else TEXTS
    return case.tokens(batch, TARGET, seed=1)


@maker("bbox")
def _boxes(case: Case, made: Made) -> Tensor:
    corners = integers(30, *made["input_ids"].shape, 2, seed=2)
    return torch.cat([corners, corners + 1 + integers(20, *corners.shape, seed=3)], -1)


@maker("encoder_hidden_states")
def _encoded(case: Case, made: Made) -> Tensor | None:
    if "encoder_hidden_states" not in case.required:
        return None
    width = case.size("cross_attention_hidden_size", "encoder_hidden_size", "hidden_size")
    return reals(next(iter(made.values())).shape[0] if made else TEXTS, 5, width)


@maker("hidden_states", "inputs_embeds", "query_embeds")
def _states(case: Case, made: Made) -> Tensor | None:
    wanted = {"hidden_states", "inputs_embeds", "query_embeds"} & set(case.required)
    return reals(TEXTS, LENGTH, case.size("hidden_size", "d_model")) if wanted else None
