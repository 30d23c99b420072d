"""What a config's field means, read off its name: the table that the generic walk goes by."""

from __future__ import annotations

import re
from functools import cache

# The first pattern that matches the whole name wins.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("channel groups", r"num_groups|num_conv_pos_embedding_groups|.*norm_groups"),
    ("rotary", r"rotary_dim"),
    ("codebook", r"codebook_size"),
    ("source positions", r"max_source_positions"),
    ("keep", r"tdnn_dim|speaker_embedding_dim|pos_emb_(height|width)"),
    ("keep", r"visual_feat_dim|state_dim|act_dim|max_(state|action)_dim|feature_projection_input_dim|input_dim|input_feat_size"),
    ("keep", r"num_channels|input_channels|in_chans|audio_channels|num_channels_out|codebook_dim|chunk_size_feed_forward"),
    ("keep", r".*(kernel|stride|padding|dilation|factor|ratio|loss|cost|temperature|seed|_bins|num_groups|groups|version).*"),
    ("keep", r"num_labels|type_vocab_size|.*_theta|.*_every|num_feature_levels|pretraining_tp|n_langs|block_multiple_of"),
    ("keep", r"num_frames|max_depth|temporal_patch_size|spatial_merge_size|sampling_rate|frames_per_clip|.*conv_dim_kernel"),
    ("token", r".*(token|tokens)_(id|index)|.*_token_(id|index)s?"),
    ("token", r"(bos|eos|pad|mask|unk|boi|eoi|boa|eoa|sep|cls|image|audio|video)_(id|idx|index)"),
    ("window", r"sliding_window(_size)?|local_attention|attention_window_size|attention_chunk_size"),
    ("vocabulary", r".*vocab_size|.*vocab_size_per_layer_input|vocab_offset|head_out_channels"),
    ("positions", r"max_position_embeddings|n_positions|max_target_positions|n_ctx|context_length|max_seq_len|model_max_length"
                  r"|.*max_position_embeddings|max_sequence_length"),
    ("square positions", r"num_position_embeddings|position_embedding_size"),
    ("layer indices", r"global_attn_indexes|deepstack_visual_indexes|fullatt_block_indexes|_?out_indices|window_block_indices"
                      r"|mlp_only_layers|full_attn_idxs|intermediate_hidden_state_indices|moe_layers|.*layers?_(indices|indexes|idxs?|ids)|attn_layer_indices"),
    ("dense first", r"first_k_dense_replace|num_dense_layers"),
    ("depths", r"depths|num_block_repeats|blocks_per_stage|stage_num_blocks|stage_numb_of_layers|num_blocks|depth"),
    ("layers", r"num_hidden_layers|n_layers?|num_layers|(encoder|decoder)_layers|num_(encoder|decoder)_layers|.*num_(hidden_)?layers|layers"
               r"|.*num_blocks|num_encoder_blocks|max_window_layers|resampler_depth|num_self_attends_per_block|.*_layers"),
    ("key heads", r".*(key_value|kv)_(attention_)?heads(_per_layer)?|n_head_kv|multi_query_group_num|.*num_kv_heads"),
    ("heads", r"linear_num_(key|value)_heads"),
    ("heads", r".*attention_heads|num_heads|n_heads?|.*_n_heads|.*num_heads|num_attention_heads_per_stage|.*_attn_heads"),
    ("rope head", r"qk_rope_head_dim"),
    ("plain head", r"qk_nope_head_dim"),
    ("value head", r"v_head_dim"),
    ("head", r"(.*_)?head_dim|d_kv|d_head|dim_head|attention_head_size|kv_channels|.*head_size"),
    ("query rank", r"q_lora_rank"),
    ("key rank", r"kv_lora_rank"),
    ("experts per token", r"num_experts_per_tok|moe_topk|moe_k|top_k_experts|num_selected_experts|.*experts_per_tok(en)?"),
    ("shared experts", r".*shared_experts"),
    ("groups of experts", r"n_group|num_expert_group"),
    ("chosen groups", r"topk_group"),
    ("experts", r"num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_routed_experts|.*num_experts"),
    ("patch", r"patch_size|image_patch_size"),
    ("image", r"image_size|img_size|visual_prompt_size|input_image_size"),
    ("filters", r"num_filters"),
    ("zero experts", r"zero_expert_num"),
    ("hashes", r"encoder_hash_byte_group_vocab"),
    ("width", r"upsample_initial_channel"),
    ("queries", r"num_queries|num_latents|resampler_n_latents|latent_query_num|num_query_tokens|query_length"),
    ("width", r".*(hidden_size|hidden_sizes|hidden_dim|d_model|embd|embed_dim|embedding_size|emb_dim|embedding_dim|embed_dims)(_.*)?"),
    ("width", r".*(intermediate_size|intermediate_dim|ffn_dim|mlp_dim|d_ff|d_inner|feedforward|feed_forward_size|n_inner)(_.*)?"),
    ("width", r".*(_dim|_dims|_channels|channels|units|_width|dim|d_latents|_size_per_layer_input|_sizes|_channel_list)"),
)  # fmt: skip


@cache
def role(field: str) -> str:
    """The role of a field, or "keep" where its value is left alone."""
    return next((name for name, pattern in _PATTERNS if re.fullmatch(pattern, field)), "keep")
