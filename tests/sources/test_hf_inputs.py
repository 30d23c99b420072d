from __future__ import annotations

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    TimeSeriesTransformerConfig,
    TimeSeriesTransformerModel,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from graphclone.sources.hf_inputs.choice import example_inputs

BODY = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40)
BART = dict(vocab_size=97, d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=3, decoder_attention_heads=3)
MARKS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
WHISPER = WhisperConfig(
    **BART, **MARKS, num_mel_bins=13, max_source_positions=19, max_target_positions=23, decoder_start_token_id=1
)
CLIP = CLIPConfig(
    text_config=dict(vocab_size=97, **BODY, **MARKS), vision_config=dict(image_size=32, patch_size=8, **BODY), projection_dim=16
)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (LlamaForSequenceClassification(LlamaConfig(vocab_size=97, **BODY, **MARKS)), {"input_ids": (2, 11)}),
        (BartForConditionalGeneration(BartConfig(**BART)), {"input_ids": (2, 11), "decoder_input_ids": (2, 7)}),
        (ViTForImageClassification(ViTConfig(image_size=(16, 24), patch_size=8, **BODY)), {"pixel_values": (2, 3, 16, 24)}),
        (WhisperForConditionalGeneration(WHISPER), {"input_features": (2, 13, 38), "decoder_input_ids": (2, 7)}),
        (Wav2Vec2ForCTC(Wav2Vec2Config(**BODY, conv_dim=[16] * 7, num_conv_pos_embedding_groups=3)), {"input_values": (2, 4001)}),
        (ASTForAudioClassification(ASTConfig(max_length=64, num_mel_bins=16, **BODY)), {"input_values": (2, 64, 16)}),
        (CLIPModel(CLIP), {"input_ids": (2, 11), "pixel_values": (2, 3, 32, 32)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedModel) else "",
)
def test_inputs_fit_the_model(model: PreTrainedModel, shapes: dict[str, tuple[int, ...]]) -> None:
    inputs = example_inputs(model.eval())
    assert {name: tuple(value.shape) for name, value in inputs.items()} == shapes
    with torch.no_grad():
        model(**inputs)


def test_tokens_are_of_the_vocabulary_and_none_is_a_mark() -> None:
    config = LlamaConfig(vocab_size=7, pad_token_id=0, bos_token_id=1, eos_token_id=[2, 6], **BODY)
    inputs = [example_inputs(LlamaForSequenceClassification(config)) for _ in range(2)]
    assert set(inputs[0]["input_ids"].flatten().tolist()) == {3, 4, 5}
    assert torch.equal(inputs[0]["input_ids"], inputs[1]["input_ids"])


def test_a_head_that_looks_for_the_end_mark_finds_one_in_every_row() -> None:
    model = BartForSequenceClassification(BartConfig(**BART)).eval()
    inputs = example_inputs(model)
    assert (inputs["input_ids"] == model.config.eos_token_id).sum(1).tolist() == [1, 1, 1]
    with torch.no_grad():
        model(**inputs)


def test_a_model_that_also_sees_is_given_pictures_and_a_place_for_each_of_their_vectors() -> None:
    vision = dict(model_type="clip_vision_model", image_size=32, patch_size=8, **BODY)
    config = LlavaConfig(
        vision_config=vision,
        text_config=dict(model_type="llama", vocab_size=97, **BODY, **MARKS),
        image_token_index=96,
        vision_feature_layer=-1,
    )
    inputs = example_inputs(LlavaForConditionalGeneration(config).eval())
    assert tuple(inputs["pixel_values"].shape) == (2, 3, 32, 32)
    assert (inputs["input_ids"] == 96).sum(1).tolist() == [16, 16]


def test_a_model_without_the_usual_names_is_given_what_its_kind_takes() -> None:
    config = TimeSeriesTransformerConfig(prediction_length=4, d_model=12, encoder_layers=1, decoder_layers=1)
    assert "past_values" in example_inputs(TimeSeriesTransformerModel(config).eval())


class Spectra(PreTrainedModel):
    config_class = PreTrainedConfig
    main_input_name = "spectra"

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        return spectra


def test_an_unknown_kind_of_input_is_left_to_the_user() -> None:
    assert example_inputs(Spectra(PreTrainedConfig())) == {}
