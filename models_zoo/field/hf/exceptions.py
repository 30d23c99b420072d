"""What the generic walk cannot guess, per model type of the config at hand, nested ones included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A value for the parent and another for its smaller destination."""

    parent: Any
    child: Any

    def of(self, half: bool) -> Any:
        return self.child if half else self.parent


TEXT = "as wide as the text"  # the fields of a tower that must equal the text's hidden size
_WINDOW: dict[str, Any] = dict(window_size=3)
_SERIES: dict[str, Any] = dict(prediction_length=5, context_length=11, num_time_features=2, lags_sequence=[1, 2, 3])
_EFFICIENT: dict[str, Any] = dict(
    in_channels=[32, 16, 24, 40, 80, 112, 192], out_channels=[16, 24, 40, 80, 112, 192, 320],
    width_coefficient=Pair(0.5, 0.25), depth_coefficient=1.0, hidden_dim=Pair(640, 320), num_block_repeats=[1] * 7,
)  # fmt: skip
_HEAD: dict[str, Any] = dict(head_dim=12)


def _per_head(width: str, expand: str, heads: str) -> Callable[[dict[str, Any]], int]:
    """The head size with which the heads fill the expanded stream."""
    return lambda sizes: int(sizes[expand] * sizes[width]) // int(sizes[heads])


_MAMBA: dict[str, Any] = dict(
    mamba_n_heads=Pair(8, 4), mamba_d_head=_per_head("hidden_size", "mamba_expand", "mamba_n_heads"), mamba_d_state=20,
    mamba_chunk_size=4,
)  # fmt: skip
_CODEC: dict[str, Any] = dict(upsample_groups=lambda sizes: sizes["hidden_size"], codebook_size=32)
_TWO_ENCODERS: dict[str, Any] = dict(
    encoder_hidden_size=Pair(8, 4),
    num_key_value_heads=Pair(8, 4),  # its rotary embedding runs over heads, so these are as many as those of queries
    quantization_dim=lambda sizes: sizes["hidden_size"] + sizes["semantic_model_config"].hidden_size,
)
_SILENT: dict[str, Any] = dict(vae_std=0.0)  # no noise drawn in the forward
_MULTIPLIED: dict[str, Any] = dict(depth_multiplier=Pair(0.5, 0.25))
_SCALED: dict[str, Any] = dict(scale=Pair(0.5, 0.25))
_SMALL_TEXT: dict[str, Any] = dict(hidden_size=Pair(96, 48), intermediate_size=Pair(192, 96))
_GRIDS: dict[str, Any] = dict(image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]])
_PYRAMID: dict[str, Any] = dict(backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]])
_PERCEPTION: dict[str, Any] = dict(embed_dim=48, depth=2, num_heads=4, img_size=56)


def _timm(
    architecture: str, num_labels: int | None = None, hidden_size: int | None = None, **arguments: Any
) -> Callable[[Any], Any]:
    """A tower of timm's, made small by its own arguments."""

    def build(sizes: dict[str, Any]) -> Any:
        from transformers import TimmWrapperConfig

        extra = {name: value for name, value in (("num_labels", num_labels), ("hidden_size", hidden_size)) if value}
        return TimmWrapperConfig(architecture=architecture, model_args=arguments, **extra)

    return build


def _stage_channels(sizes: dict[str, Any]) -> list[int]:
    """The channels of the stages that the backbone hands on."""
    from transformers import AutoBackbone

    return list(AutoBackbone.from_config(sizes["backbone_config"]).channels)


_MERGED: dict[str, Any] = dict(out_hidden_size=lambda sizes: 4 * sizes["vision_config"].hidden_size)
_SAM: dict[str, Any] = dict(
    hidden_size=Pair(64, 32), mlp_dim=Pair(128, 64), num_attention_heads=Pair(4, 2), image_size=64,
)  # fmt: skip
_WAYS = ("vertical_long_to_small_conv", "horizontal_small_to_long_conv", "symmetric_conv_long")
_KERNELS = {f"{way}_{size}ratio": [3, 1, 1] for way in _WAYS for size in ("long", "mid", "short")} | {
    "reduce_channel": [1, 1, 0],
    "return_channel": [1, 1, 0],
}
_DETECTION: dict[str, Any] = dict(intraclass_block_config=_KERNELS, kernel_list=[3, 2, 2], scale_factor_list=[1, 2, 4, 8])


def _unwarping(width: int) -> list[Any]:
    """Three stages of blocks (channels in and out, dilation, whether at half the resolution)."""
    pairs = ((1, 1, False), (1, 2, True), (2, 4, True))
    return [[[a * width, b * width, 1, halves], [b * width, b * width, 3, False]] for a, b, halves in pairs]


def _bridges(width: int) -> list[Any]:
    """Six branches of convolutions (channels, dilation)."""
    return [[[width, dilation] for dilation in row] for row in ([1], [2], [5], [8, 3, 2], [12, 7, 4], [18, 12, 6])]


def _stages(width: int, *strides: Any) -> list[Any]:
    """Four stages of blocks (kernel, channels in and out, stride, squeeze); each but the first may lower the resolution."""
    first = [[3, width, width, 1, True]]
    sizes = zip((1, 1, 2), (1, 2, 4), strides, strict=True)
    return [first, *([[3, a * width, b * width, stride, False], [3, b * width, b * width, 1, True]] for a, b, stride in sizes)]


_LOW = (1, [2, 1], [2, 1])  # a line of text keeps its length
_LINES: dict[str, Any] = dict(
    stem_channels=Pair([3, 16, 32], [3, 8, 16]), block_configs=Pair(_stages(32, *_LOW), _stages(16, *_LOW))
)
_HALVING: dict[str, Any] = dict(
    block_configs=Pair(_stages(32, 2, 2, 2), _stages(16, 2, 2, 2)), out_features=["stage1", "stage2", "stage3", "stage4"]
)
# `...` leaves a field to the config's own rule.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "gemma3": dict(mm_tokens_per_image=4),
    "shieldgemma2": dict(mm_tokens_per_image=4),
    "swin": _WINDOW,
    "swinv2": _WINDOW,
    "maskformer-swin": _WINDOW,
    "donut-swin": _WINDOW,
    "qwen2_vl_vision": {TEXT: ("hidden_size",)},
    "efficientnet": _EFFICIENT,
    "align_vision_model": _EFFICIENT,
    "beit": dict(num_hidden_layers=4, out_indices=[1, 2, 3, 4]),
    "data2vec-vision": dict(num_hidden_layers=4, out_indices=[1, 2, 3, 4]),
    "autoformer": _SERIES,
    "informer": _SERIES | dict(distil=False),  # exported, its mask would keep the length that distilling halves
    "time_series_transformer": _SERIES,
    "hunyuan_v1_dense": _HEAD,
    "hunyuan_v1_moe": _HEAD,
    "hunyuan_vl_text": _HEAD,
    "ministral": _HEAD,
    "helium": dict(head_dim=8),
    "esm": dict(vocab_size=61, mask_token_id=41, hidden_size=Pair(128, 64)),
    "esmc": dict(num_key_value_heads=Pair(8, 4)),
    "glm5_next_text": dict(num_key_value_heads=Pair(8, 4)),
    "dots1": dict(n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=2, n_group=2, topk_group=1),
    "deepseek_ocr2_text": dict(
        num_experts_per_tok=2, mlp_layer_types=Pair(["dense", "sparse", "sparse", "sparse"], ["dense", "sparse"])
    ),
    "unlimited_ocr_text": dict(
        num_experts_per_tok=2, mlp_layer_types=Pair(["dense", "sparse", "sparse", "sparse"], ["dense", "sparse"])
    ),
    "bridgetower_text_model": dict(hidden_size=Pair(128, 64)),
    "bridgetower_vision_model": dict(hidden_size=Pair(128, 64)),
    "bridgetower": dict(hidden_size=Pair(128, 64)),
    "glpn": dict(decoder_hidden_size=64, depths=[2, 2, 2, 2]),
    "mllama_vision_model": dict(
        hidden_size=Pair(64, 32),
        intermediate_layers_indices=Pair([1, 3], [0, 1]),
        vision_output_dim=Pair(192, 96),
        num_global_layers=2,
    ),
    "bamba": _MAMBA,
    "granitemoehybrid": _MAMBA,
    "falcon_h1": _MAMBA | dict(mamba_d_ssm=None),
    "mamba2": dict(
        num_heads=Pair(8, 4), head_dim=_per_head("hidden_size", "expand", "num_heads"), n_groups=2, state_size=20, chunk_size=4
    ),
    "cohere_compass_text": dict(
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}
    ),
    "dpt": dict(num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3]),
    "emu3": dict(vocabulary_map={"<image>": 41, "<|extra_200|>": 40, **{f"<|visual token {i:06d}|>": 42 + i for i in range(8)}}),
    "gemma3n_text": dict(
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        intermediate_size=Pair([128] * 6, [64] * 6),
        layer_types=["sliding_attention", "full_attention"] * 3,
        activation_sparsity_pattern=[0.9] * 2 + [0.0] * 4,
    ),
    "qwen3_omni_moe_talker_text": dict(shared_expert_intermediate_size=Pair(64, 32)),
    "sam_vision_model": dict(num_pos_feats=lambda sizes: sizes["output_channels"] // 2),
    "sam_hq_vision_model": dict(num_pos_feats=lambda sizes: sizes["output_channels"] // 2),
    "rf_detr_dinov2": dict(image_size=32, num_windows=2),
    "qwen4_exp_text": dict(
        indexer_n_heads=2, indexer_head_dim=12, indexer_budget=8, indexer_compress_ratio=2, indexer_kv_heads=1
    ),
    "bros": dict(hidden_size=Pair(128, 64)),
    "blip-2": dict(image_token_index=45),
    "instructblip": dict(image_token_index=45),
    "instructblipvideo": dict(video_token_index=45),
    "clvp_encoder": dict(hidden_size=Pair(256, 128), num_attention_heads=Pair(8, 4), projection_dim=Pair(192, 96)),
    "mimi": _CODEC,
    "mimi_encoder": _CODEC,
    "mimi_decoder": _CODEC,
    "pocket_tts_audio_tokenizer": _CODEC,
    "pocket_tts_audio_tokenizer_encoder": _CODEC,
    "pocket_tts_audio_tokenizer_decoder": _CODEC,
    "granite_docling_vision": dict(image_size=32),
    "llama4_vision_model": dict(vision_output_dim=lambda sizes: sizes["projector_output_dim"]),
    "levit": dict(patch_size=16),
    "lw_detr_vit": dict(image_size=64, num_hidden_layers=4, window_block_indices=[0, 2]),
    "longcat_flash": dict(head_dim=8),
    "nemotron_h": dict(mamba_num_heads=Pair(8, 4), n_groups=2, mamba_head_dim=12, ssm_state_size=20, chunk_size=4),
    "nemotron_h_omni_text": dict(mamba_num_heads=Pair(8, 4), n_groups=2, mamba_head_dim=12, ssm_state_size=20, chunk_size=4),
    "moonshine": dict(
        encoder_num_key_value_heads=Pair(8, 4),
        decoder_num_key_value_heads=Pair(8, 4),
        encoder_num_attention_heads=Pair(8, 4),
        decoder_num_attention_heads=Pair(8, 4),
    ),
    "ovis2": dict(hidden_size=lambda sizes: sizes["text_config"].hidden_size),
    "poolformer": dict(depths=[2, 2, 2, 2]),
    "pvt": dict(depths=[2, 2, 2, 2]),
    "pe_video_encoder": dict(vision_config=_timm("vit_pe_core_large_patch14_336", num_labels=24, **_PERCEPTION)),
    "perception_lm": dict(vision_config=_timm("vit_pe_core_large_patch14_336", **_PERCEPTION)),
    "fast_vlm": dict(vision_config=_timm("fastvit_t8", hidden_size=768, layers=(1, 1, 1, 1))),
    "granite_speech_encoder": dict(context_size=20, max_pos_emb=64),
    "granite_speech_plus_encoder": dict(context_size=20, max_pos_emb=64),
    "granite_speech5_encoder": dict(context_size=20, num_key_value_heads=Pair(8, 4)),
    "grounding-dino": dict(max_text_len=11),
    "mm-grounding-dino": dict(max_text_len=11),
    "janus_vision_model": {TEXT: ("projection_dim",)},
    "layoutlmv3": dict(input_size=64, hidden_size=Pair(96, 48), coordinate_size=Pair(16, 8), shape_size=Pair(16, 8)),
    "lilt": dict(hidden_size=Pair(96, 48)),
    "lfm2_moe": dict(layer_types=Pair(["conv", "full_attention"] * 2, ["conv", "full_attention"])),
    "/blip_2_qformer": dict(encoder_hidden_size=64),
    "gemma3n": dict(audio_soft_tokens_per_image=6, eoi_token_id=45, image_token_id=46, eoa_token_id=53, audio_token_id=54),
    "gemma3n_vision": dict(
        model_args=Pair(dict(channel_multiplier=0.1), dict(channel_multiplier=0.05)),
        hidden_size=2048,
        vocab_offset=45,
        vocab_size=8,
    ),
    "gemma3n_audio": dict(vocab_offset=53, vocab_size=8),
    "llava_next": _GRIDS,
    "llava_next_video": _GRIDS,
    "llava_onevision": _GRIDS,
    "granite4_vision": _GRIDS
    | dict(deepstack_layer_map=Pair([[1, 1], [2, 2]], [[0, 0]]), spatial_target_layers=Pair([3], [1]), downsample_rate="1/2"),
    "mistral3": dict(vision_feature_layer=-1),
    "modernvbert/siglip_vision_model": dict(image_size=32),
    "ultravbert/siglip_vision_model": dict(image_size=32),
    "dbrx/": dict(rope_theta=10000.0, clip_qkv=8.0),
    "deepseek_ocr2_sam_vision_model": dict(downsample_channels=Pair([16, 128], [8, 64])),
    "unlimited_ocr_sam_vision_model": dict(downsample_channels=Pair([16, 32], [8, 16])),
    "diffusion_gemma_text": dict(num_experts=6, top_k_experts=2, moe_intermediate_size=Pair(64, 32)),
    "dots3_note_vision_encoder": dict(adapter_in_dim=lambda sizes: sizes["hidden_size"]),
    "gemma4_audio": dict(subsampling_conv_channels=[128, 16]),
    "glmasr_encoder": dict(intermediate_size=lambda sizes: 4 * sizes["hidden_size"]),
    "hiera": dict(patch_size=[7, 7], decoder_hidden_size=Pair(64, 32), decoder_depth=2, decoder_num_heads=Pair(4, 2)),
    "molmo2_adapter": dict(vision_feature_layer=Pair([3, 1], [1, 0])),
    "nemotron3_5_transcribe_asr_audio": dict(num_key_value_heads=Pair(4, 2)),  # as many as those of values
    "nemotron3_5_transcribe_word_timestamp": dict(num_key_value_heads=8),
    "nemotron3_diarization_audio": dict(num_key_value_heads=Pair(4, 2)),
    "moss_transcribe_diarize_audio": dict(max_source_positions=24),
    "moonshine_streaming": dict(num_key_value_heads=Pair(4, 2)),
    "neomme": dict(head_dim=16),
    "dots3_note_audio_encoder": dict(adapter_input_size=lambda sizes: sizes["hidden_size"]),
    "emu3_vqgan": dict(
        base_channels=32, codebook_size=8, hidden_size=lambda sizes: sizes["base_channels"] * sizes["channel_multiplier"][-1]
    ),
    "granite_speech/blip_2_qformer": dict(encoder_hidden_size=Pair(192, 96)),
    "granite_speech_plus/blip_2_qformer": dict(encoder_hidden_size=Pair(192, 96)),
    "sam2_hiera_det_model": dict(global_attention_blocks=Pair([4], [])),
    "pix2struct_text_model": dict(d_kv=lambda sizes: sizes["hidden_size"] // sizes["num_heads"]),
    "pix2struct_vision_model": dict(
        d_kv=lambda sizes: sizes["hidden_size"] // sizes["num_attention_heads"], patch_embed_hidden_size=48
    ),
    "qwen2_5_omni_thinker": dict(vision_start_token_id=54, vision_end_token_id=53),
    "sapiens2": dict(num_key_value_heads_per_layer=Pair([8, 8, 4, 4], [4, 2])),
    "pp_doclayout_v2": dict(class_thresholds=[0.5] * 7, class_order=list(range(7))),
    "pp_ocrv5_server_det": _DETECTION,
    "pp_ocrv6_medium_det": _DETECTION,
    "pp_ocrv6_small_det": dict(layer_list_out_channels=_stage_channels),
    "pp_ocrv6_small_det/pp_lcnet_v4": _HALVING,
    "pp_ocrv6_medium_det/pp_lcnet_v4": _HALVING,
    "dac": dict(encoder_hidden_size=Pair(8, 4), hidden_size=Pair(128, 64), decoder_hidden_size=Pair(96, 48)),
    "radio": dict(max_img_size=24),
    "t5gemma2": dict(mm_tokens_per_image=4),
    "t5gemma2_encoder": dict(mm_tokens_per_image=4, dropout_rate=0.0),
    "timesfm": dict(context_length=96),
    "timesfm2_5": dict(context_length=96),
    "muse_spark": _MERGED,
    "muse_glimmer": _MERGED,
    "qwen2_5_omni_audio_encoder": dict(max_source_positions=60),
    "qwen3_omni_moe_audio_encoder": dict(max_source_positions=60),
    "qwen3_omni_moe_thinker": dict(vision_start_token_id=54, vision_end_token_id=53),
    "sam2_video_prompt_encoder": dict(patch_size=16),
    "edgetam_video_prompt_encoder": dict(patch_size=16),
    "sam3_vision_model": dict(backbone_feature_sizes=[[64, 64], [32, 32], [16, 16]]),
    "timm_backbone": dict(backbone="resnet10t"),
    "timm_wrapper": dict(
        architecture="resnet10t", model_args=Pair(dict(channels=(32, 64, 96, 128)), dict(channels=(16, 32, 48, 64)))
    ),
    "mobilenet_v1": _MULTIPLIED,
    "mobilenet_v2": _MULTIPLIED,
    "pp_lcnet": _SCALED,
    "pp_lcnet_v3": _SCALED,
    "pp_ocrv5_mobile_rec/pp_lcnet_v3": dict(scale=Pair(1.0, 0.5)),
    "pp_lcnet_v4": _LINES,
    "pp_ocrv5_mobile_det": dict(layer_list_out_channels=_stage_channels),
    "superpoint": dict(encoder_hidden_sizes=Pair([64, 64, 128, 128], [32, 32, 64, 64]), decoder_hidden_size=Pair(256, 128)),
    "superglue": dict(gnn_layers_types=Pair(["self", "cross"] * 2, ["self", "cross"])),
    "muse_spark_audio": dict(
        patch_sizes=[16, 6, 5, 4], num_hidden_layers=4, depths=[2] * 4, hidden_sizes=Pair([32, 64, 128, 256], [16, 32, 64, 128])
    ),
    "sam3_tracker_video": dict(image_size=64),
    "tvp": dict(max_img_size=64, visual_prompt_size=8, num_frames=2, max_position_embeddings=101),
    "nemotron_h_omni": dict(image_token_id=45),
    "lw_detr": dict(projector_scale_factors=[1.0], num_feature_levels=1),
    "sam3_vit_model": dict(image_size=64, pretrain_image_size=64),
    "sam3_tracker_prompt_encoder": dict(image_size=64),
    "step3p5": dict(sliding_window=5),
    "step3p7_text": dict(sliding_window=5),
    "step3p7": dict(sliding_window=5),
    "t5gemma2_encoder/t5gemma2_text": dict(dropout_rate=0.0),
    "seggpt": dict(num_hidden_layers=4, intermediate_hidden_state_indices=[0, 1, 2, 3], merge_index=0, image_size=[48, 24]),
    "vipllava": dict(vision_feature_layers=[-1, -2]),
    "vitmatte": dict(fusion_hidden_sizes=[32, 16, 8, 4], hidden_size=lambda sizes: sizes["backbone_config"].hidden_size),
    "vitpose_backbone": dict(image_size=[64, 48], patch_size=[16, 16]),
    "voxtral_encoder": dict(intermediate_size=lambda sizes: 4 * sizes["hidden_size"], max_source_positions=24),
    "wav2vec2-bert": dict(vocab_size=61),
    "xmod": dict(default_language="en_XX"),
    "swin2sr": dict(window_size=4, image_size=16, embed_dim=Pair(48, 24), num_heads=Pair([4] * 4, [2] * 4), depths=[2] * 4),
    "xcodec2": _TWO_ENCODERS,
    "neucodec": _TWO_ENCODERS,
    "omdet-turbo": dict(encoder_in_channels=_stage_channels, apply_layernorm_after_vision_backbone=False),  # that is timm's
    "vits": dict(
        upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3], [1, 3]],
        flow_size=Pair(96, 48),
        duration_predictor_filter_channels=Pair(80, 40),
    ),
    "fastspeech2_conformer_hifigan": dict(model_in_dim=80),
    "molmo2": dict(image_patch_id=45),
    "molmo2_text": dict(additional_vocab_size=0),
    "dots3_note_text": dict(
        swa_num_attention_heads=Pair(8, 4),
        swa_num_key_value_heads=Pair(8, 4),
        swa_q_lora_rank=Pair(40, 20),
        swa_kv_lora_rank=Pair(28, 14),
        swa_head_dim=20,
        swa_qk_nope_head_dim=12,
        swa_v_head_dim=20,
    ),
    "vibevoice/qwen2": _SMALL_TEXT,
    "vibevoice/vibevoice_diffusion": _SMALL_TEXT,
    "vibevoice_asr/qwen2": _SMALL_TEXT,
    "efficientloftr": dict(num_attention_heads=8),
    "uvdoc_backbone": dict(
        resnet_head=Pair([[3, 16], [16, 16]], [[3, 8], [8, 8]]),
        resnet_configs=Pair(_unwarping(16), _unwarping(8)),
        stage_configs=Pair(_bridges(64), _bridges(32)),
        out_features=[f"stage{number}" for number in range(1, 7)],
    ),
    "uvdoc": dict(bridge_connector=Pair([64, 64], [32, 32]), out_point_positions2D=Pair([[64, 16], [16, 2]], [[32, 8], [8, 2]])),
    "vibevoice_acoustic_tokenizer": _SILENT,
    "vibevoice_acoustic_tokenizer_encoder": _SILENT,
    "minicpm_ocr": dict(image_token_id=45),
    "minicpmv4_6": dict(image_token_id=45),
    "minicpmv4_7": dict(image_token_id=45),
    "glm_image_vqmodel": dict(num_embeddings=8),
    "fastspeech2_conformer": dict(speaking_speed=1e-30),  # durations guessed by random weights: one frame for each sound
    "slanext_vision": _SAM,
    "pp_formulanet_vision": _SAM,
    "vjepa2": dict(frames_per_clip=4),
    "univnet": dict(model_in_channels=16, model_hidden_channels=Pair(8, 4), kernel_predictor_hidden_channels=16),
    "voxtral": dict(audio_token_id=45),
    "zoedepth": dict(bottleneck_features=lambda sizes: sizes["fusion_hidden_size"]),
    "vitmatte/vitdet": dict(patch_size=16, image_size=64),
    "aria": dict(projector_patch_to_query_dict={36: 9}),
    "align": dict(projection_dim=Pair(160, 80)),
    "chameleon_vqgan": dict(num_embeddings=8),
    "chmv2/dinov3_vit": dict(return_class_token=True),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "depth_pro": dict(patch_size=24, intermediate_hook_ids=Pair([3, 1], [1, 0])),
    "depth_pro/dinov2": dict(image_size=24),
    "sam2_vision_model": _PYRAMID,
    "edgetam_vision_model": _PYRAMID
    | dict(
        backbone_config=_timm(
            "repvit_m1", features_only=True, out_indices=[0, 1, 2, 3], embed_dim=(16, 32, 48, 64), depth=(1, 1, 1, 1)
        ),
        backbone_channel_list=[64, 48, 32, 16],
    ),
    "sam2_prompt_encoder": dict(patch_size=16),
    "edgetam_prompt_encoder": dict(patch_size=16),
    "fun_asr_nano/": dict(intermediate_size=Pair(48, 24)),
    "chameleon": dict(vocabulary_map={"<image>": 41, **{f"IMGIMG{'BCDEFGHIJK'[i]}Z": 42 + i for i in range(8)}}),
    "cvt": dict(depth=[1, 2, 3]),
    "gpt_neo": dict(attention_types=Pair([[["global", "local"], 2]], [[["global", "local"], 1]])),
}


def exceptions(model_type: str, owner: str = "") -> dict[str, Any]:
    """For a config of this type, and within a config of the type `owner`."""
    return _EXCEPTIONS.get(model_type, {}) | _EXCEPTIONS.get(f"{owner}/{model_type}", {})


def _listed(field: str) -> Callable[[dict[str, Any]], list[int]]:
    """A list, as in a config loaded from JSON, where the default is a tuple and the model adds a list to it."""
    return lambda sizes: list(sizes[field])


def _with_text(sizes: dict[str, Any]) -> Any:
    """The same queries' transformer, with the layers that read text."""
    return replace(sizes["qformer_config"], use_qformer_text_input=True)


_DECODED: dict[str, Any] = dict(
    head_config=Pair(
        dict(upsample_out_channels=[48, 32], conv_out_channels=[32, 16]),
        dict(upsample_out_channels=[24, 16], conv_out_channels=[16, 8]),
    )
)
_SCALES: dict[str, Any] = dict(scale_conv_out_channels=[16, 8], scale_final_hidden_sizes=[32, 16])
_ONE_HEAD: dict[str, Any] = dict(num_cross_attention_heads=1)  # the channels of a Fourier encoding are odd
_SPEAKER: dict[str, Any] = dict(tdnn_dim=Pair([64, 64, 64, 64, 96], [32, 32, 32, 32, 48]))
_OF_CLASS: dict[str, dict[str, Any]] = {
    "Blip2ForImageTextRetrieval": dict(qformer_config=_with_text),
    "ConvNextBackbone": dict(hidden_sizes=_listed("hidden_sizes")),
    "ConvNextV2Backbone": dict(hidden_sizes=_listed("hidden_sizes")),
    "FocalNetBackbone": dict(hidden_sizes=_listed("hidden_sizes")),
    "Data2VecAudioForXVector": _SPEAKER,
    "DetrForSegmentation": dict(encoder_attention_heads=8),  # a channel each, and eight groups of channels
    "FlavaForPreTraining": dict(return_loss=False, init_codebook=False),  # the codebook makes the loss's targets only
    "Llama4VisionModel": dict(intermediate_size=lambda sizes: int(sizes["hidden_size"] / sizes["pixel_shuffle_ratio"] ** 2)),
    "PerceiverForImageClassificationConvProcessing": _ONE_HEAD,
    "PerceiverForImageClassificationFourier": _ONE_HEAD,
    "PerceiverModel": dict(d_model=128),  # what it is given, which stays
    "PvtV2Backbone": dict(num_encoder_blocks=4),  # its stages' names are of four
    "ReformerModelWithLMHead": dict(is_decoder=True),
    "Sapiens2ForImageMatting": _DECODED,
    "Sapiens2ForNormalEstimation": _DECODED,
    "Sapiens2ForPointmapEstimation": dict(
        head_config=Pair(_DECODED["head_config"].parent | _SCALES, _DECODED["head_config"].child | _SCALES)
    ),
    "Sapiens2ForPoseEstimation": _DECODED,
    "Sapiens2ForSemanticSegmentation": _DECODED,
    "T5ForSequenceClassification": dict(decoder_start_token_id=0),
    "ShieldGemma2ForImageClassification": dict(yes_token_index=8, no_token_index=9),
    "T5GemmaEncoderModel": dict(is_encoder_decoder=False),
    "UniSpeechSatForXVector": _SPEAKER,
    "Wav2Vec2ForXVector": _SPEAKER,
    "Wav2Vec2ConformerForCTC": dict(vocab_size=61),
    "Wav2Vec2ConformerForXVector": _SPEAKER,
    "WavLMForXVector": _SPEAKER,
}
OWN_CONFIG = ("JevForDecision",)  # listed under types whose config has none of the head's fields


def of_class(name: str) -> dict[str, Any]:
    """For the config of a model of this class, beside what its type says."""
    return _OF_CLASS.get(name, {})


# Their rotary embedding takes sections for time, height and width even where the default config names none.
_SECTIONS = ("cohere_compass", "cosmos3", "ernie4_5_vl", "glm4v", "glm_image", "glm_ocr", "hunyuan_vl", "paddleocr_vl", "qwen2_5_omni",
             "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_omni", "qwen3_vl", "qwen4_exp")  # fmt: skip


def reads_sections(model_type: str) -> bool:
    return model_type.startswith(_SECTIONS) and not any(part in model_type for part in ("vision", "audio", "dit", "bigvgan"))


# Networks whose stages must agree in more ways than the walk sees: their widths stay as they are.
_WIDE = (
    "pp_lcnet",
    "pp_ocrv",
    "slanet",
    "slanext",
    "pp_formulanet",
    "hgnet",
    "efficientloftr",
    "lightglue",
    "superglue",
    "superpoint",
)


def keeps_widths(model_type: str) -> bool:
    return model_type.startswith(_WIDE)


# The width of the stream is that of an input, which stays.
_INPUT_IS_STREAM = (
    "blip_2_qformer",
    "nemotron3_5_transcribe_word_timestamp",
    "muse_glimmer_assistant",
    "mimi_decoder",
    "pocket_tts_audio_tokenizer_decoder",
    "pop2piano",
    "vibevoice_acoustic_tokenizer_decoder",
    "PI0Model",
    "SpeechT5Model",
)
# Stages of one layer are read off wrongly by the model itself.
_NEEDS_DEPTH = ("glpn", "poolformer", "pvt", "zamba", "mistral_large4", "mistral_large4_text")


def has_smaller(model_type: str, class_name: str) -> bool:
    return not {model_type, class_name} & {*_INPUT_IS_STREAM, *_NEEDS_DEPTH}
