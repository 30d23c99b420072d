from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    CLIPConfig,
    Gemma2Config,
    Gemma4TextConfig,
    GPT2Config,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen3Config,
    SmolLM3Config,
    SwinConfig,
    T5Config,
    ViTConfig,
)

from graphclone.errors import DestinationError
from graphclone.sources.hf_config import resized

S, F = "sliding_attention", "full_attention"
LLAMA = LlamaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=4, num_attention_heads=6, intermediate_size=80)
QWEN3 = Qwen3Config(num_hidden_layers=6, layer_types=[F, S, F, F, F, S], sliding_window=5, use_sliding_window=True)


def differing(before: PreTrainedConfig, after: PreTrainedConfig) -> dict[str, Any]:
    """The fields that changed, with their new values."""
    old, new = before.to_dict(), after.to_dict()
    return {name: new.get(name) for name in {*old, *new} if old.get(name) != new.get(name)}


@pytest.mark.parametrize("config", [LLAMA, QWEN3, Gemma2Config(), GPT2Config(), T5Config(), SwinConfig(), MambaConfig()])
def test_no_override_changes_nothing(config: PreTrainedConfig) -> None:
    assert differing(config, resized(config, {})) == {}


@pytest.mark.parametrize(
    ("config", "overrides", "follows"),
    [
        (LLAMA, {"hidden_size": 24}, {}),  # head_dim stays
        (LLAMA, {"hidden_size": 24, "num_attention_heads": 3}, {"num_key_value_heads": 3}),
        (ViTConfig(hidden_size=48), {"hidden_size": 24}, {"pooler_output_size": 24}),
        (SwinConfig(embed_dim=24), {"embed_dim": 12}, {"hidden_size": 96}),
        (MambaConfig(hidden_size=64), {"hidden_size": 32}, {"intermediate_size": 64}),
        (T5Config(num_layers=4), {"num_layers": 2}, {"num_decoder_layers": 2}),
        (T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False), {"d_model": 64}, {}),
        (Gemma2Config(num_hidden_layers=6), {"num_hidden_layers": 3}, {"layer_types": [S, F, S]}),
        (GPT2Config(n_layer=4), {"n_layer": 2}, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedConfig) else None,
)
def test_what_the_class_derives_follows_and_all_else_stays(
    config: PreTrainedConfig, overrides: dict[str, object], follows: dict[str, object]
) -> None:
    assert differing(config, resized(config, overrides)) == overrides | follows


def test_common_names_reach_the_field_behind_them() -> None:
    assert differing(GPT2Config(), resized(GPT2Config(), {"hidden_size": 384, "num_hidden_layers": 6})) == {
        "n_embd": 384,
        "n_layer": 6,
    }


def test_a_setting_beside_the_fields_is_kept() -> None:
    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    assert resized(config, {"d_model": 64}).scale_decoder_outputs is False


def test_a_written_out_list_loses_its_middle() -> None:
    assert resized(QWEN3, {"num_hidden_layers": 3}).layer_types == [F, S, S]


def test_the_plan_decides_which_layers_a_list_keeps() -> None:
    assert resized(QWEN3, {"num_hidden_layers": 3}, layers=[(6, [0, 1, 5])]).layer_types == [F, S, S]
    assert resized(QWEN3, {"num_hidden_layers": 3}, layers=[(6, [1, 1, 2])]).layer_types == [S, S, F]
    assert resized(Gemma2Config(num_hidden_layers=6), {"num_hidden_layers": 3}, layers=[(6, [1, 3, 5])]).layer_types == [F, F, F]


def test_a_deeper_config_repeats_the_entries_of_a_list() -> None:
    assert resized(QWEN3, {"num_hidden_layers": 8}).layer_types == [F, F, S, F, F, F, F, S]


def test_several_lists_that_a_class_checks_against_its_depth_follow_it_together() -> None:
    moe = Llama4TextConfig(num_hidden_layers=8, interleave_moe_layer_step=1, vocab_size=97)
    assert (len(moe.layer_types), moe.moe_layers) == (8, list(range(8)))
    child = resized(moe, {"num_hidden_layers": 4}, layers=[(8, [0, 1, 6, 7])])
    assert child.layer_types == [moe.layer_types[layer] for layer in (0, 1, 6, 7)]
    assert child.no_rope_layers == [moe.no_rope_layers[layer] for layer in (0, 1, 6, 7)]
    assert child.moe_layers == [0, 1, 2, 3], "the numbers of layers, not something of each"
    assert resized(moe, {"num_hidden_layers": 4}).layer_types == Llama4TextConfig(num_hidden_layers=4).layer_types
    written = SmolLM3Config(num_hidden_layers=6, no_rope_layers=[1, 1, 0, 1, 0, 1], vocab_size=97, pad_token_id=0)
    assert resized(written, {"num_hidden_layers": 3}, layers=[(6, [0, 2, 4])]).no_rope_layers == [1, 0, 0]


def test_values_that_single_layers_have_follow_them() -> None:
    kinds = [S, F, S, S, F, F]
    config = Gemma4TextConfig(num_hidden_layers=6, layer_types=kinds, head_dim=12, global_head_dim=16, vocab_size=97)
    own = {str(layer): {"head_dim": 16} for layer in (1, 4, 5)}
    assert config.to_dict()["per_layer_config"] == own, "its class forgets `global_head_dim`, and by itself would say 512"
    assert differing(config, resized(config, {})) == {}
    child = resized(config, {"num_hidden_layers": 4}, layers=[(6, [0, 2, 3, 5])])
    assert [each.head_dim for each in child.per_layer_config] == [12, 12, 12, 16]
    assert [each.head_dim for each in resized(config, {"hidden_size": 96}).per_layer_config] == [12, 16, 12, 12, 16, 16]


def test_layers_of_another_list_say_nothing_of_this_one() -> None:
    assert resized(QWEN3, {"num_hidden_layers": 3}, layers=[(6, [0, 1]), (4, [1, 2, 3]), (6, [0, 1, 5])]).layer_types == [F, S, S]
    assert resized(QWEN3, {"num_hidden_layers": 3}, layers=[(6, [0, 1])]).layer_types == [F, S, S]


def test_an_inner_config_is_reached_by_its_name() -> None:
    config = CLIPConfig()
    child = resized(config, {"text_config.hidden_size": 256, "text_config.num_hidden_layers": 6, "projection_dim": 64})
    assert (child.text_config.hidden_size, child.text_config.num_hidden_layers, child.projection_dim) == (256, 6, 64)
    assert differing(config.vision_config, child.vision_config) == {}
    assert config.text_config.hidden_size == 512


def test_the_number_of_labels_can_be_set() -> None:
    assert resized(ViTConfig(num_labels=10), {"num_labels": 5}).num_labels == 5


@pytest.mark.parametrize(
    ("config", "name", "says"),
    [
        (LLAMA, "hiden_size", "LlamaConfig has no such field\n  try      did you mean 'hidden_size'"),
        (CLIPConfig(), "text_config.hiden_size", "CLIPTextConfig has no such field\n  try      did you mean 'hidden_size'"),
        (
            CLIPConfig(),
            "textconfig.hidden_size",
            "CLIPConfig has no such field\n  try      did you mean 'text_config.hidden_size'",
        ),
        (SwinConfig(), "hidden_size", "SwinConfig derives it from other fields"),
        (LLAMA, "zzz", "LlamaConfig has no such field\n  try      one of vocab_size, hidden_size"),
    ],
)
def test_a_field_that_cannot_be_set_has_a_neighbour(config: PreTrainedConfig, name: str, says: str) -> None:
    with pytest.raises(DestinationError) as caught:
        resized(config, {name: 1})
    assert says in str(caught.value)


def test_what_the_class_refuses_is_said_in_its_words() -> None:
    config = GPTNeoConfig(num_layers=4, attention_types=[[["global", "local"], 2]])
    with pytest.raises(DestinationError) as caught:
        resized(config, {"num_layers": 2})
    assert str(caught.value).startswith("cannot make a GPTNeoConfig with num_layers=2\n")
    assert "len(config.attention_layers)" in str(caught.value)


def test_values_of_a_wrong_type_are_refused() -> None:
    with pytest.raises(DestinationError, match="cannot make a LlamaConfig with hidden_size=wide"):
        resized(LLAMA, {"hidden_size": "wide"})
