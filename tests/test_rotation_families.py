"""Which families' streams are rotated is what docs/recipes.md says."""

from __future__ import annotations

import pytest

import graphclone as gc
from graphclone.errors import FrozenError
from graphclone.rotation import meetings
from models_zoo import field

TURNED = ["llama/LlamaForCausalLM", "qwen2/Qwen2ForCausalLM", "qwen3/Qwen3ForCausalLM", "vit/ViTForImageClassification"]
NOT = [
    "gpt2/GPT2LMHeadModel",
    "opt/OPTForCausalLM",
    "bert/BertForMaskedLM",
    "gemma2/Gemma2ForCausalLM",
    "olmo2/Olmo2ForCausalLM",
    "t5/T5ForConditionalGeneration",
    "mamba/MambaForCausalLM",
]


def _turns(name: str) -> bool:
    entry = field.find(f"hf/{name}")
    layout = gc.analyze(gc.capture(entry.build(), *entry.inputs()))
    streams = [factor for factor in layout.factors if factor.kind == "residual"]
    assert streams
    for stream in streams:
        try:
            meetings(layout, stream)
        except FrozenError:
            return False
    return True


@pytest.mark.parametrize("name", TURNED)
def test_streams_that_are_rotated(name: str) -> None:
    assert _turns(name)


@pytest.mark.parametrize("name", NOT)
def test_streams_that_are_selected_from(name: str) -> None:
    assert not _turns(name)
