"""Example inputs for any Hugging Face model, from what the model says about itself.

Sizes are small and prime where a model leaves them open (batch 2, sequences 11 and 7), so that no two dims of a graph
have one size by accident.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

BATCH, SEQUENCE, TARGET = 2, 11, 7
_MODALITIES = {"text": "input_ids", "image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}


def example_inputs(module: PreTrainedModel) -> dict[str, object]:
    """Keyword arguments that the module's forward accepts; empty where its main input is of a kind unknown here.

    A model of two inputs (CLIP's image and text) says so in `input_modalities`, and so does one that needs only the text
    (LLaVA); the shortest set with which the forward runs is taken.
    """
    accepted = list(inspect.signature(module.forward).parameters)
    main = module.main_input_name
    mains = [main] if isinstance(main, str) else list(main)
    modalities = [module.input_modalities] if isinstance(module.input_modalities, str) else list(module.input_modalities)
    every = dict.fromkeys([*mains, *(_MODALITIES.get(each, each) for each in modalities)])
    choices = [_make(module, names, accepted) for names in (mains, [name for name in every if name in accepted])]
    distinct = [choice for index, choice in enumerate(choices) if choice and list(choice) not in map(list, choices[:index])]
    return next((choice for choice in distinct[:-1] if runs(module, choice)), distinct[-1] if distinct else {})


def _make(module: PreTrainedModel, names: Iterable[str], accepted: list[str]) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    try:
        made = {name: _TENSORS[name](module, generator) for name in names if name in _TENSORS}
    except LookupError:  # tokens, and no vocabulary: whoever has such a model knows its inputs
        return {}
    if made and module.config.is_encoder_decoder and "decoder_input_ids" in accepted:
        made["decoder_input_ids"] = _tokens(module, generator, TARGET)
    return {name: made[name] for name in accepted if name in made}


@torch.no_grad()
def runs(module: PreTrainedModel, kwargs: dict[str, object]) -> bool:
    try:
        module(**kwargs)
    except Exception:  # any complaint means that these inputs are not enough
        return False
    return True


def _setting(config: PreTrainedConfig, *names: str) -> Any:
    """The first of some fields that the config or one of its inner configs has; None if none has one."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    found = (getattr(each, name, None) for each in (config, *inner) for name in names)
    return next((value for value in found if value is not None), None)


def _tokens(module: PreTrainedModel, generator: torch.Generator, length: int) -> Tensor:
    """Tokens of the vocabulary, without padding or end marks: some heads count those, and ask for one or for equally many."""
    embedding = None
    with contextlib.suppress(NotImplementedError):  # a model of two towers has no one table
        embedding = module.get_input_embeddings()
    size = getattr(embedding, "num_embeddings", None) or _setting(module.config, "vocab_size")
    if size is None:
        raise LookupError("there is no table of tokens")
    special = [_setting(module.config, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")]
    allowed = torch.ones(size)
    allowed[[each for value in special if value is not None for each in _flat(value) if 0 <= each < size]] = 0
    choices = allowed.nonzero().flatten() if allowed.any() else torch.arange(size)
    return choices[torch.randint(len(choices), (BATCH, length), generator=generator)]


def _flat(value: int | list[int]) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _input_ids(module: PreTrainedModel, generator: torch.Generator) -> Tensor:
    return _tokens(module, generator, SEQUENCE)


def _sides(config: PreTrainedConfig) -> tuple[int, int]:
    size = _setting(config, "image_size") or 224
    if isinstance(size, dict):
        size = [size["height"], size["width"]]
    return (size[0], size[-1]) if isinstance(size, (list, tuple)) else (size, size)


def _pixels(module: PreTrainedModel, generator: torch.Generator) -> Tensor:
    channels = _setting(module.config, "num_channels", "in_channels", "in_chans") or 3
    return torch.randn(BATCH, channels, *_sides(module.config), generator=generator)


def _video(module: PreTrainedModel, generator: torch.Generator) -> Tensor:
    channels = _setting(module.config, "num_channels", "in_channels", "in_chans") or 3
    frames = _setting(module.config, "num_frames", "frames_per_clip") or 2
    return torch.randn(BATCH, frames, channels, *_sides(module.config), generator=generator)


def _features(module: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """Spectrograms: Whisper's are (mel bins, time), of exactly two frames a position; others are (time, features)."""
    bins = _setting(module.config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel") or 80
    positions = _setting(module.config, "max_source_positions")
    if _setting(module.config, "num_mel_bins") is not None and positions is not None:
        return torch.randn(BATCH, bins, 2 * positions, generator=generator)
    return torch.randn(BATCH, 10 * SEQUENCE + 3, bins, generator=generator)


def _values(module: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """A waveform, or with `num_mel_bins` and `max_length` a spectrogram of that length."""
    bins, length = _setting(module.config, "num_mel_bins"), _setting(module.config, "max_length")
    shape = (BATCH, 4001) if bins is None or length is None else (BATCH, length, bins)
    return torch.randn(shape, generator=generator)


_TENSORS: dict[str, Callable[[PreTrainedModel, torch.Generator], Tensor]] = {
    "input_ids": _input_ids,
    "pixel_values": _pixels,
    "pixel_values_videos": _video,
    "input_features": _features,
    "input_values": _values,
}
