"""The models: for each a name, how to build it, and example inputs. Sizes are ordinary ones, which both tools are made for.

The hidden width is heads × head_dim, every size can be halved, and grouped models have four query heads for each
key/value head, or two (`-2x`).
Weights are shaken (`models_zoo.entry`): a norm of ones would hide mistakes. Settings of the config that no size needs stay at their
defaults, the KV cache among them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.entry import Inputs, integers, reals, seeded

__all__ = ["Inputs", "Subject", "find", "names", "settle"]
VOCABULARY, BATCH, LENGTH, TARGET, LABELS = 61, 3, 11, 7, 9
Sizes = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


# -- transformers ----------------------------------------------------------------------------------------------------


def tokens() -> dict[str, Tensor]:
    return {"input_ids": integers(VOCABULARY - 3, BATCH, LENGTH) + 3}


def pairs() -> dict[str, Tensor]:
    return tokens() | {"decoder_input_ids": integers(VOCABULARY - 3, BATCH, TARGET, seed=1) + 3}


def speech() -> dict[str, Tensor]:
    return {"input_features": reals(2, 10, 26), "decoder_input_ids": integers(VOCABULARY - 3, 2, TARGET) + 3}


def image() -> dict[str, Tensor]:
    return {"pixel_values": reals(2, 3, 40, 40)}


def both() -> dict[str, Tensor]:
    return tokens() | image()


CAUSAL: Sizes = dict(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2)
PLAIN: Sizes = CAUSAL | dict(
    hidden_size=64, num_attention_heads=8, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=37
)
# As Llama 3 and Mistral have it. torch-pruning takes a ratio of 2 for a concatenation, so that has rows of its own.
GROUPED: Sizes = PLAIN | dict(num_key_value_heads=2)
TWICE: Sizes = dict(num_key_value_heads=4)
VISION: Sizes = dict(image_size=40, patch_size=8, num_labels=LABELS)
ENCODER: Sizes = dict(hidden_size=64, num_attention_heads=8, intermediate_size=96, num_hidden_layers=2)
SEQ2SEQ: Sizes = CAUSAL | dict(
    d_model=64, encoder_layers=2, encoder_attention_heads=8, encoder_ffn_dim=96,
    decoder_layers=2, decoder_attention_heads=8, decoder_ffn_dim=80, decoder_start_token_id=1,
)  # fmt: skip
EXPERTS: Sizes = dict(
    moe_intermediate_size=40, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, n_shared_experts=1
)

# name → (task class, inputs, sizes)
HF: dict[str, tuple[str, Callable[[], dict[str, Tensor]], Sizes]] = {
    # the eleven that the issue names
    "bert": ("BertForMaskedLM", tokens, PLAIN),
    "vit": ("ViTForImageClassification", image, ENCODER | VISION),
    "opt": ("OPTForCausalLM", tokens, PLAIN | dict(ffn_dim=96, word_embed_proj_dim=64)),
    "phi3": ("Phi3ForCausalLM", tokens, PLAIN | dict(num_key_value_heads=8)),
    "convnextv2": (
        "ConvNextV2ForImageClassification", image,
        dict(hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1], num_labels=LABELS, image_size=40, patch_size=4),
    ),
    "llama": ("LlamaForCausalLM", tokens, GROUPED),
    "mistral": ("MistralForCausalLM", tokens, GROUPED),
    "qwen2": ("Qwen2ForCausalLM", tokens, GROUPED),
    "gemma2": ("Gemma2ForCausalLM", tokens, GROUPED | dict(head_dim=8, query_pre_attn_scalar=8)),
    "gpt2": ("GPT2LMHeadModel", tokens, CAUSAL | dict(n_embd=64, n_head=8, n_inner=96, n_layer=2, n_positions=37)),
    "clip": (
        "CLIPModel", both,
        dict(
            text_config=PLAIN,
            vision_config=ENCODER | dict(hidden_size=48, num_attention_heads=4, intermediate_size=80, image_size=40, patch_size=8),
            projection_dim=24,
        ),
    ),
    # others
    "llama-2x": ("LlamaForCausalLM", tokens, GROUPED | TWICE),
    "gemma2-2x": ("Gemma2ForCausalLM", tokens, GROUPED | TWICE | dict(head_dim=8, query_pre_attn_scalar=8)),  # as published
    "qwen3": ("Qwen3ForCausalLM", tokens, GROUPED | dict(head_dim=8)),
    "mixtral": ("MixtralForCausalLM", tokens, GROUPED | dict(num_local_experts=4, num_experts_per_tok=2)),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM", tokens,
        PLAIN | EXPERTS | dict(
            num_key_value_heads=8, q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
            first_k_dense_replace=1,
        ),
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", tokens, PLAIN),
    "falcon": ("FalconForCausalLM", tokens, PLAIN | dict(ffn_hidden_size=96)),
    "mpt": ("MptForCausalLM", tokens, CAUSAL | dict(d_model=64, n_heads=8, n_layers=2, max_seq_len=37, expansion_ratio=2)),
    "bloom": ("BloomForCausalLM", tokens, CAUSAL | dict(hidden_size=64, n_head=8, n_layer=2)),
    "mamba": ("MambaForCausalLM", tokens, CAUSAL | dict(hidden_size=64, state_size=6, num_hidden_layers=2)),
    "t5": (
        "T5ForConditionalGeneration", pairs,
        dict(
            vocab_size=VOCABULARY, d_model=64, d_kv=8, num_heads=8, d_ff=96, num_layers=2, num_decoder_layers=2,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        ),
    ),
    "bart": ("BartForConditionalGeneration", pairs, SEQ2SEQ | dict(max_position_embeddings=37)),
    "whisper": (
        "WhisperForConditionalGeneration", speech,
        SEQ2SEQ | dict(num_mel_bins=10, max_source_positions=13, max_target_positions=37),
    ),
    "roberta": ("RobertaForMaskedLM", tokens, PLAIN),
    "distilbert": ("DistilBertForMaskedLM", tokens, dict(vocab_size=VOCABULARY, dim=64, n_heads=8, hidden_dim=96, n_layers=2)),
    "albert": ("AlbertForMaskedLM", tokens, PLAIN | dict(embedding_size=24)),
    "electra": ("ElectraForMaskedLM", tokens, PLAIN | dict(embedding_size=24)),
    "deberta_v2": (
        "DebertaV2ForMaskedLM", tokens,
        PLAIN | dict(relative_attention=True, pos_att_type="p2c|c2p", position_buckets=9, norm_rel_ebd="layer_norm", share_att_key=True),
    ),
    "swin": (
        "SwinForImageClassification", image,
        dict(image_size=40, patch_size=2, window_size=5, embed_dim=32, depths=[2, 2], num_heads=[4, 8], num_labels=LABELS),
    ),
    "dinov2": ("Dinov2ForImageClassification", image, ENCODER | VISION | dict(mlp_ratio=2)),
}  # fmt: skip


def hf(name: str) -> Subject:
    task, inputs, sizes = HF[name]

    def make() -> nn.Module:
        import transformers  # seconds, so not at the top

        architecture = getattr(transformers, task)
        built: nn.Module = architecture(architecture.config_class(**sizes))
        return built

    return Subject(name, seeded(make, 0), lambda: ((), inputs()))


def settle(model: nn.Module, *, cache: bool | None = None, attention: str | None = None) -> nn.Module:
    """Switch the KV cache off (or back to what the config's class has), and choose how attention is computed, where a model has these."""
    for config in {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values():
        if cache is not None and hasattr(config, "use_cache"):
            config.use_cache = cache
    if attention is not None and hasattr(model, "set_attn_implementation"):
        with contextlib.suppress(ValueError):  # it has only one
            model.set_attn_implementation(attention)  # type: ignore[operator]
    for module in model.modules():
        if attention is not None and isinstance(getattr(module, "fused_attn", None), bool):  # timm's switch
            module.fused_attn = attention == "sdpa"  # type: ignore[assignment]
    return model


# -- timm ------------------------------------------------------------------------------------------------------------

TRANSFORMER: Sizes = dict(img_size=40, patch_size=8, embed_dim=64, num_heads=8, depth=2, mlp_ratio=1.5)
TIMM: dict[str, tuple[str, Sizes]] = {
    "timm/vit": ("vit_base_patch16_224", TRANSFORMER),
    "timm/deit": ("deit_tiny_distilled_patch16_224", TRANSFORMER),
    "timm/beit": ("beit_base_patch16_224", TRANSFORMER),
    "timm/cait": ("cait_xxs24_224", TRANSFORMER),
    "timm/eva": ("eva02_tiny_patch14_224", TRANSFORMER),
    "timm/swin": (
        "swin_tiny_patch4_window7_224", dict(img_size=40, patch_size=2, window_size=5, embed_dim=32, depths=(2, 2), num_heads=(4, 8)),
    ),
    "timm/convnext": ("convnext_tiny", dict(depths=(1, 2, 1, 1), dims=(16, 24, 32, 40))),
    "timm/resnet": ("resnet50", dict(layers=(2, 2, 1, 1))),
}  # fmt: skip


def timm_subject(name: str) -> Subject:
    architecture, sizes = TIMM[name]

    def make() -> nn.Module:
        import timm

        built: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=LABELS, **sizes)
        return built

    return Subject(name, seeded(make, 0), lambda: ((reals(2, 3, 40, 40),), {}))


# -- by name ---------------------------------------------------------------------------------------------------------


def names(pattern: str = "*", timm: bool = False) -> list[str]:
    """Names that match; one that is in no table here is looked for in the zoo."""
    tables = [*HF, *(TIMM if timm or pattern.startswith("timm/") else ())]
    return [name for name in tables if fnmatch.fnmatchcase(name, pattern)] or [pattern]


def find(name: str) -> Subject:
    """**Raises** `LookupError` when neither the tables here nor the zoo know the name."""
    torch.manual_seed(0)
    if name in HF:
        return hf(name)
    return timm_subject(name) if name in TIMM else zoo(name)


def zoo(name: str) -> Subject:
    """An entry of the zoo: of the whole field where that is there, else one of the hand-made tiny ones."""
    try:
        tiny = importlib.import_module("models_zoo.field").find(name)
    except (ImportError, LookupError, AttributeError):
        from models_zoo.tiny import get

        tiny = get(name)
    return Subject(name, lambda: settle(tiny.build(), cache=True), tiny.inputs)
