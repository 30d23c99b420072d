"""What a head asks of the inputs that its model's type is given: a maker per pattern of class names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from graphclone.sources.hf_inputs.case import LENGTH, PICTURES, TARGET, Case, reals

Made = dict[str, Any]
_HEADS: list[tuple[str, Callable[[Case, Made], Made]]] = []
CHOICES = 4  # another number than the batch's


def for_head(case: Case, made: Made) -> Made:
    """The inputs, as the model's class wants them."""
    for pattern, make in _HEADS:
        if re.fullmatch(pattern, type(case.model).__name__):
            made = made | make(case, made)
    return made


def head(pattern: str) -> Callable[[Callable[[Case, Made], Made]], Callable[[Case, Made], Made]]:
    """Inputs that replace or complete those made so far; None takes one away."""

    def register(make: Callable[[Case, Made], Made]) -> Callable[[Case, Made], Made]:
        _HEADS.append((pattern, make))
        return make

    return register


@head(r".*ForMultipleChoice")
def _choices(case: Case, made: Made) -> Made:
    """Other words for each choice, in rows padded alike."""
    repeated = {name: value[:, None].repeat(1, CHOICES, 1) for name, value in made.items() if value.ndim == 2}
    return repeated | {"input_ids": case.tokens(*repeated["input_ids"].shape)}


@head(r"LongformerFor(MultipleChoice|QuestionAnswering)")
def _seen_by_all(case: Case, made: Made) -> Made:
    """The first token of each row, where it would look for separators."""
    mask = torch.zeros_like(made["input_ids"])
    mask[..., 0] = 1
    return {"global_attention_mask": mask}


@head(r"(M?Bart|Mvp|PLBart|BigBirdPegasus|U?M?T5)ForSequenceClassification")
def _read_at_the_end(case: Case, made: Made) -> Made:
    """The decoder reads the input, shifted; what it says at the one end-of-sequence token is classified."""
    ids = made["input_ids"].clone()
    ids[torch.arange(len(ids)), made["attention_mask"].sum(-1) - 1] = case.config.eos_token_id
    return {"input_ids": ids, "decoder_input_ids": None}


@head(r".*ForXVector")
def _long_enough(case: Case, made: Made) -> Made:
    """Five convolutions one after another see 15 frames at once."""
    return {"input_values": reals(PICTURES, 8001)} if "input_values" in made else {}


@head(r"Musicgen(Melody)?(ForCausalLM|Model)")
def _codes(case: Case, made: Made) -> Made:
    """A row for each codebook, and a mask for all of them."""
    return {
        "input_ids": case.tokens(PICTURES * case.size("num_codebooks"), LENGTH),
        "attention_mask": torch.ones(PICTURES, LENGTH, dtype=torch.long),
    }


@head(r"SeamlessM4T(v2)?Model")
def _speech(case: Case, made: Made) -> Made:
    """Of speech and text it hears the speech."""
    features = made["input_features"]
    return {"input_ids": None, "attention_mask": torch.ones(features.shape[:2], dtype=torch.long)}


@head(r"SpeechT5ForSpeechToText")
def _waveform(case: Case, made: Made) -> Made:
    return {
        "input_values": reals(PICTURES, 4001),
        "attention_mask": torch.ones(PICTURES, 4001, dtype=torch.long),
        "decoder_input_ids": case.tokens(PICTURES, TARGET),
    }


@head(r"SpeechT5Model")
def _between_the_nets(case: Case, made: Made) -> Made:
    """The vectors that the nets before encoder and decoder would make."""
    width = case.config.hidden_size
    return {"input_values": reals(PICTURES, LENGTH, width), "decoder_input_values": reals(PICTURES, TARGET, width, seed=1)}


@head(r"PerceiverModel")
def _preprocessed(case: Case, made: Made) -> Made:
    """The vectors that a preprocessor would make."""
    return {"inputs": reals(PICTURES, LENGTH, case.config.d_model)}


@head(r"PI0Model")
def _actions(case: Case, made: Made) -> Made:
    """The state, then each step of the chunk."""
    return {"action_embeds": reals(PICTURES, 1 + case.config.chunk_size, case.config.dit_config.hidden_size)}


@head(r"VideoMAEForPreTraining")
def _hidden_patches(case: Case, made: Made) -> Made:
    """As many in each row."""
    count = case.model.videomae.embeddings.num_patches
    return {"bool_masked_pos": (torch.arange(count) % 3 == 0).repeat(PICTURES, 1)}


@head(r"FlavaForPreTraining")
def _masked(case: Case, made: Made) -> Made:
    """Other words in places, and some patches hidden."""
    hidden = torch.arange(case.model.flava.image_model.embeddings.patch_embeddings.num_patches) % 3 == 0
    rows = len(made["input_ids"])
    masked = torch.where(torch.arange(LENGTH) % 4 == 1, case.tokens(rows, LENGTH, seed=1), made["input_ids"])
    return {"input_ids_masked": masked, "bool_masked_pos": hidden.repeat(rows, 1)}
