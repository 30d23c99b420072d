"""Tiny transformers models: for each its task class, its sizes, and what changes in the smaller one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.entry import Inputs, Tiny, entry, integers, reals

VOCABULARY = 61
BATCH, LENGTH, TARGET = 3, 11, 7
Sizes = dict[str, Any]


def model(name: str, task: str, inputs: Callable[[], dict[str, Tensor]], sizes: Sizes, smaller: Sizes) -> Tiny:
    """An entry whose destination has `sizes` with `smaller` on top, as a user would override a config."""

    def build(sizes: Sizes) -> nn.Module:
        import transformers  # two seconds, so not at the top

        architecture = getattr(transformers, task)
        built: nn.Module = architecture(architecture.config_class(**sizes))
        return built

    def example() -> Inputs:
        return (), inputs()

    return entry(f"hf/{name}", lambda: build(sizes), lambda: build(sizes | smaller), example)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": integers(VOCABULARY, BATCH, LENGTH)}


def padded_tokens() -> dict[str, Tensor]:
    """One full row, and shorter ones, as a tokenizer pads them."""
    lengths = torch.tensor([[LENGTH], [LENGTH - 2], [LENGTH - 5]])
    return tokens() | {"attention_mask": (torch.arange(LENGTH) < lengths).long()}


def segments() -> dict[str, Tensor]:
    return padded_tokens() | {"token_type_ids": integers(5, BATCH, LENGTH, seed=1)}


def pairs() -> dict[str, Tensor]:
    return padded_tokens() | {"decoder_input_ids": integers(VOCABULARY, BATCH, TARGET, seed=1)}


def speech() -> dict[str, Tensor]:
    """The encoder wants exactly 2 × max_source_positions frames."""
    return {"input_features": reals(2, 10, 26), "decoder_input_ids": integers(VOCABULARY, 2, TARGET)}


def images(height: int, width: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": reals(2, 3, height, width)}


CAUSAL: Sizes = dict(vocab_size=VOCABULARY, use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GROUPED: Sizes = CAUSAL | dict(num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=4, max_position_embeddings=37)
GROUPED_SMALLER: Sizes = dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
# Where head_dim is hidden_size / heads, halving both keeps it.
PLAIN: Sizes = dict(hidden_size=48, num_attention_heads=8, intermediate_size=80, num_hidden_layers=4)
PLAIN_SMALLER: Sizes = dict(hidden_size=24, num_attention_heads=4, intermediate_size=40, num_hidden_layers=2)

MODELS = (
    model(
        "gpt2", "GPT2LMHeadModel", tokens,
        CAUSAL | dict(n_embd=48, n_head=8, n_inner=80, n_layer=4, n_positions=37),
        dict(n_embd=24, n_head=4, n_inner=40, n_layer=2),
    ),
    model(
        "llama", "LlamaForCausalLM", tokens,
        GROUPED | dict(hidden_size=48, intermediate_size=56, head_dim=10),
        GROUPED_SMALLER | dict(hidden_size=24, intermediate_size=28),
    ),
    model(
        "qwen3", "Qwen3ForCausalLM", tokens,
        GROUPED | dict(hidden_size=44, intermediate_size=72, head_dim=14, tie_word_embeddings=True),
        GROUPED_SMALLER | dict(hidden_size=22, intermediate_size=36),
    ),
    model(  # layers alternate between a sliding window, here shorter than the input, and full attention
        "gemma2", "Gemma2ForCausalLM", tokens,
        GROUPED | dict(hidden_size=48, intermediate_size=68, head_dim=10, query_pre_attn_scalar=10, sliding_window=5),
        GROUPED_SMALLER | dict(hidden_size=24, intermediate_size=34),
    ),
    model(  # half of each head is rotated; attention and MLP are parallel
        "gpt_neox", "GPTNeoXForCausalLM", tokens,
        CAUSAL | dict(
            hidden_size=160, num_attention_heads=10, intermediate_size=112, num_hidden_layers=4, max_position_embeddings=37,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        ),
        dict(hidden_size=80, num_attention_heads=5, intermediate_size=56, num_hidden_layers=2),
    ),
    model(
        "bert", "BertForMaskedLM", segments,
        PLAIN | dict(vocab_size=VOCABULARY, type_vocab_size=5, max_position_embeddings=37),
        PLAIN_SMALLER,
    ),
    model(
        "t5", "T5ForConditionalGeneration", pairs,
        dict(
            vocab_size=VOCABULARY, d_model=48, d_kv=10, num_heads=8, d_ff=56, num_layers=4, num_decoder_layers=4,
            relative_attention_num_buckets=16, relative_attention_max_distance=20,
            use_cache=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        ),
        dict(d_model=24, num_heads=4, d_ff=28, num_layers=2, num_decoder_layers=2),
    ),
    model(
        "vit", "ViTForImageClassification", images(20, 44),
        PLAIN | dict(image_size=(20, 44), patch_size=4, num_labels=9),
        PLAIN_SMALLER,
    ),
    model(  # windows of 5 on grids of 20 and 10, so that every second layer of both stages is shifted
        "swin", "SwinForImageClassification", images(40, 40),
        dict(
            image_size=40, patch_size=2, window_size=5, embed_dim=36, depths=(2, 4), num_heads=(6, 12), mlp_ratio=2.5,
            num_labels=9,
        ),
        dict(embed_dim=18, depths=(2, 2), num_heads=(3, 6)),
    ),
    model(
        "whisper", "WhisperForConditionalGeneration", speech,
        CAUSAL | dict(
            num_mel_bins=10, max_source_positions=13, max_target_positions=37, decoder_start_token_id=1, d_model=48,
            encoder_layers=4, encoder_attention_heads=8, encoder_ffn_dim=80,
            decoder_layers=4, decoder_attention_heads=8, decoder_ffn_dim=56,
        ),
        dict(
            d_model=24, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=40,
            decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=28,
        ),
    ),
    model(
        "mamba", "MambaForCausalLM", tokens,
        CAUSAL | dict(hidden_size=36, state_size=6, expand=3, time_step_rank=10, num_hidden_layers=4),
        dict(hidden_size=18, time_step_rank=5, num_hidden_layers=2),
    ),
    model(
        "deberta_v2", "DebertaV2ForMaskedLM", padded_tokens,
        PLAIN | dict(
            vocab_size=VOCABULARY, relative_attention=True, pos_att_type="p2c|c2p", max_position_embeddings=37,
            position_buckets=9, norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
        ),
        PLAIN_SMALLER,
    ),
)  # fmt: skip
