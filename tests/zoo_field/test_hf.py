"""A fixed sample of the field of transformers: each builds, runs, is finite, and has a smaller one for the same inputs."""

from __future__ import annotations

import pytest
import torch

from models_zoo.field.hf import Unbuildable, find, names
from models_zoo.field.hf.reach import tensors

SAMPLE = (
    "hf/llama/LlamaForCausalLM",
    "hf/bert/BertForMaskedLM",
    "hf/t5/T5ForConditionalGeneration",
    "hf/whisper/WhisperForConditionalGeneration",
    "hf/wav2vec2/Wav2Vec2ForCTC",
    "hf/vit/ViTForImageClassification",
    "hf/swin/SwinForImageClassification",
    "hf/detr/DetrForObjectDetection",
    "hf/mixtral/MixtralForCausalLM",
    "hf/deepseek_v3/DeepseekV3ForCausalLM",
    "hf/mamba2/Mamba2ForCausalLM",
    "hf/qwen2_vl/Qwen2VLForConditionalGeneration",
    "hf/gemma3/Gemma3ForConditionalGeneration",
)
HEADS = (
    "hf/bert/BertForMultipleChoice",
    "hf/bart/BartForSequenceClassification",
    "hf/t5/T5ForSequenceClassification",
    "hf/wav2vec2/Wav2Vec2ForXVector",
    "hf/convnext/ConvNextBackbone",
    "hf/pvt_v2/PvtV2Backbone",
    "hf/musicgen/MusicgenForCausalLM",
    "hf/longformer/LongformerForQuestionAnswering",
    "hf/sapiens2/Sapiens2ForPointmapEstimation",
    "hf/videomae/VideoMAEForPreTraining",
)


@pytest.mark.parametrize("name", SAMPLE + HEADS)
def test_builds_and_runs(name: str) -> None:
    assert name in names(every_head=True)
    tiny = find(name)
    args, kwargs = tiny.inputs()
    assert all(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values()))
    model = tiny.build()
    assert tiny.smaller is not None
    child = tiny.smaller()
    assert type(child) is type(model)
    assert size(child) < size(model) < 5_000_000
    with torch.no_grad():
        for each in (model, child):
            assert all(torch.isfinite(tensor).all() for tensor in tensors(each(*args, **kwargs)))


@pytest.mark.parametrize("name", ["hf/qwen2_vl/Qwen2VLForConditionalGeneration", "hf/gemma3/Gemma3ForConditionalGeneration"])
def test_pictures_are_seen(name: str) -> None:
    """Other pixels give other logits: no tower is dead."""
    tiny = find(name)
    model = tiny.build()
    args, kwargs = tiny.inputs()
    with torch.no_grad():
        one = model(*args, **kwargs).logits
        other = model(*args, **kwargs | {"pixel_values": -kwargs["pixel_values"]}).logits
    assert not torch.allclose(one, other)


def test_one_class_per_type() -> None:
    default = names()
    assert len({name.split("/")[1] for name in default}) == len(default) > 600
    assert set(default) < set(names(every_head=True))


def test_each_choice_gets_a_score() -> None:
    tiny = find("hf/bert/BertForMultipleChoice")
    _, kwargs = tiny.inputs()
    batch, choices, length = kwargs["input_ids"].shape
    assert kwargs["attention_mask"].shape == (batch, choices, length)
    with torch.no_grad():
        assert tiny.build()(**kwargs).logits.shape == (batch, choices)


def test_every_row_ends_once() -> None:
    tiny = find("hf/bart/BartForSequenceClassification")
    _, kwargs = tiny.inputs()
    ends = kwargs["input_ids"] == tiny.build().config.eos_token_id
    assert (ends.sum(-1) == 1).all()
    assert (kwargs["attention_mask"][ends] == 1).all()
    assert "decoder_input_ids" not in kwargs


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hf/bark/BarkModel", "no forward"),
        ("hf/sam2_video/Sam2VideoModel", "an inference session"),
        ("hf/qwen2/JevForDecision", "built from a JevConfig, not a Qwen2Config"),
    ],
)
def test_says_why_not(name: str, why: str) -> None:
    with pytest.raises(Unbuildable, match=why):
        find(name).build()


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
