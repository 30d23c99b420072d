"""Inputs of the model types whose forward needs more than its parameters' names tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphclone.sources.hf_inputs.case import LENGTH, PICTURES, TARGET, TEXTS, Case, integers, reals
from graphclone.sources.hf_inputs.pictures import channels, image_size, pictures

Made = dict[str, Any]
SPECIAL: dict[str, Callable[[Case], Made]] = {}
SENSES: dict[str, Callable[[Case], Made]] = {}


def special(*types: str) -> Callable[[Callable[[Case], Made]], Callable[[Case], Made]]:
    """The inputs of these model types: the maker's, completed by what the parameters' names tell."""

    def register(make: Callable[[Case], Made]) -> Callable[[Case], Made]:
        SPECIAL.update(dict.fromkeys(types, make))
        return make

    return register


def senses(*types: str) -> Callable[[Callable[[Case], Made]], Callable[[Case], Made]]:
    """The pixels and sounds of these model types: the text around them is made as for any other."""

    def register(make: Callable[[Case], Made]) -> Callable[[Case], Made]:
        SENSES.update(dict.fromkeys(types, make))
        return make

    return register


def _words(case: Case, batch: int = PICTURES) -> Made:
    return {
        "input_ids": case.tokens(batch, LENGTH),
        "attention_mask": (torch.arange(LENGTH) < torch.tensor([[LENGTH]] * (batch - 1) + [[LENGTH - 2]])).long(),
    }


@special("audio-spectrogram-transformer")
def _spectrogram_patches(case: Case) -> Made:
    return {"input_values": reals(PICTURES, case.config.max_length, case.config.num_mel_bins)}


@special("clap", "clap_audio_model")
def _clap(case: Case) -> Made:
    bins = case.size("num_mel_bins", under=("audio_config",))
    return _words(case) | {
        "input_features": reals(PICTURES, 1, 97, bins),
        "is_longer": torch.zeros(PICTURES, 1, dtype=torch.bool),
    }


@special("clvp")
def _clvp(case: Case) -> Made:
    return _words(case) | {"input_features": reals(PICTURES, case.size("feature_size", default=80), 29)}


@special("decision_transformer")
def _trajectories(case: Case) -> Made:
    steps = 7
    return {
        "states": reals(PICTURES, steps, case.config.state_dim),
        "actions": reals(PICTURES, steps, case.config.act_dim, seed=1),
        "rewards": reals(PICTURES, steps, 1, seed=2),
        "returns_to_go": reals(PICTURES, steps, 1, seed=3),
        "timesteps": torch.arange(steps).repeat(PICTURES, 1),
        "attention_mask": torch.ones(PICTURES, steps),
    }


@special("lxmert")
def _regions(case: Case) -> Made:
    return _words(case) | {
        "visual_feats": reals(PICTURES, 5, case.config.visual_feat_dim),
        "visual_pos": reals(PICTURES, 5, case.config.visual_pos_dim, seed=1),
    }


@special("mllama", "mllama_vision_model")
def _tiles(case: Case) -> Made:
    words = _words(case)
    tiles = case.size("max_num_tiles")
    mask = torch.zeros(PICTURES, 1, tiles, dtype=torch.long)
    mask[:, :, :1] = 1
    return words | {
        "pixel_values": reals(PICTURES, 1, tiles, channels(case), *image_size(case)),
        "aspect_ratio_ids": torch.ones(PICTURES, 1, dtype=torch.long),
        "aspect_ratio_mask": mask,
        "cross_attention_mask": torch.ones(PICTURES, LENGTH, 1, tiles, dtype=torch.long),
    }


@special("idefics")
def _interleaved(case: Case) -> Made:
    return _words(case) | {
        "pixel_values": reals(PICTURES, 1, channels(case), *image_size(case)),
        "image_attention_mask": torch.ones(PICTURES, LENGTH, 1, dtype=torch.long),
    }


@special("lightglue", "superglue", "efficientloftr")
def _pairs_of_images(case: Case) -> Made:
    return {"pixel_values": reals(PICTURES, 2, 1 if case.type == "efficientloftr" else 3, 64, 96)}


@special("autoformer", "informer", "time_series_transformer")
def _series(case: Case) -> Made:
    config = case.config
    past = config.context_length + max(config.lags_sequence)
    return {
        "past_values": reals(TEXTS, past).abs(),
        "past_time_features": reals(TEXTS, past, config.num_time_features, seed=1),
        "past_observed_mask": torch.ones(TEXTS, past),
        "future_values": reals(TEXTS, config.prediction_length, seed=2).abs(),
        "future_time_features": reals(TEXTS, config.prediction_length, config.num_time_features, seed=3),
    }


@special("patchtst", "patchtsmixer")
def _channels_of_series(case: Case) -> Made:
    return {"past_values": reals(TEXTS, case.config.context_length, case.config.num_input_channels)}


@special("timesfm", "timesfm2_5")
def _forecast(case: Case) -> Made:
    length = case.config.context_length
    return {
        "past_values": reals(TEXTS, length),
        "past_values_padding": torch.zeros(TEXTS, length, dtype=torch.long),
        "freq": torch.zeros(TEXTS, 1, dtype=torch.long),
    }


@special("pix2struct", "pix2struct_vision_model")
def _flat(case: Case) -> Made:
    width = case.size("patch_embed_hidden_size", under=("vision_config",))
    places = torch.stack([torch.arange(13) // 4 + 1, torch.arange(13) % 4 + 1], -1).float().repeat(PICTURES, 1, 1)
    return {
        "flattened_patches": torch.cat([places, reals(PICTURES, 13, width)], -1),
        "decoder_input_ids": case.tokens(PICTURES, TARGET),
    }


@special("dia")
def _several_codebooks(case: Case) -> Made:
    return _words(case) | {"decoder_input_ids": integers(23, PICTURES, TARGET, case.config.decoder_config.num_channels)}


@special("omdet-turbo")
def _classes_and_tasks(case: Case) -> Made:
    return {
        "pixel_values": reals(PICTURES, 3, *image_size(case)),
        "classes_input_ids": case.tokens(5, 7),
        "classes_attention_mask": torch.ones(5, 7, dtype=torch.long),
        "tasks_input_ids": case.tokens(PICTURES, 11, seed=1),
        "tasks_attention_mask": torch.ones(PICTURES, 11, dtype=torch.long),
        "classes_structure": torch.tensor([3, 2]),
    }


@special("oneformer")
def _task(case: Case) -> Made:
    return {"pixel_values": reals(PICTURES, 3, 128, 128), "task_inputs": case.tokens(PICTURES, case.config.task_seq_len)}


@special("blip-2", "instructblip", "instructblipvideo")
def _queries(case: Case) -> Made:
    token = case.size("image_token_index", "video_token_index")
    frames = 4 if case.type == "instructblipvideo" else 1
    ids = case.tokens(PICTURES, LENGTH)
    slots = torch.full((PICTURES, case.config.num_query_tokens * frames), token)
    size = (PICTURES, frames, 3, *image_size(case)) if frames > 1 else (PICTURES, 3, *image_size(case))
    return {
        "pixel_values": reals(*size),
        "input_ids": torch.cat([slots, ids], 1),
        "attention_mask": torch.ones(PICTURES, slots.shape[1] + LENGTH, dtype=torch.long),
        "qformer_input_ids": case.tokens(PICTURES, 7, seed=2),
    }


@special("blip_2_qformer")
def _qformer(case: Case) -> Made:
    return {
        "query_embeds": reals(PICTURES, 9, case.config.hidden_size),
        "encoder_hidden_states": reals(PICTURES, 13, case.config.encoder_hidden_size, seed=1),
    }


@special("gemma3n_audio")
def _mel(case: Case) -> Made:
    return {
        "audio_mel": reals(PICTURES, 37, case.config.input_feat_size),
        "audio_mel_mask": torch.zeros(PICTURES, 37, dtype=torch.bool),
    }


@special("pi0")
def _robot(case: Case) -> Made:
    config = case.config
    height, width = image_size(case)
    slots = torch.full(
        (PICTURES, height * width // case.size("patch_size") ** 2), case.size("image_token_id", "image_token_index")
    )
    return {
        "pixel_values": reals(PICTURES, 1, 3, height, width),
        "pixel_attention_mask": torch.ones(PICTURES, 1, dtype=torch.bool),
        "input_ids": torch.cat([slots, case.tokens(PICTURES, LENGTH)], 1),
        "attention_mask": torch.ones(PICTURES, slots.shape[1] + LENGTH, dtype=torch.long),
        "state": reals(PICTURES, config.max_state_dim),
        "noise": reals(PICTURES, config.chunk_size, config.max_action_dim, seed=4),
        "timestep": torch.tensor([0.3, 0.7]),
    }


@special("csm", "kyutai_speech_to_text")
def _frames_of_codes(case: Case) -> Made:
    return {"input_ids": integers(23, PICTURES, TARGET, case.config.num_codebooks + (case.type != "csm"))}


@special("colqwen2", "colqwen2_5")
def _padded_patches(case: Case) -> Made:
    """The patches of each image in a row of its own."""
    vision = case.config.vlm_config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    ids = case.tokens(PICTURES, LENGTH)
    slots = torch.full((PICTURES, 6), case.config.vlm_config.image_token_id)
    return {
        "pixel_values": reals(PICTURES, 24, width),
        "image_grid_thw": torch.tensor([[1, 4, 6], [1, 6, 4]]),
        "input_ids": torch.cat([slots, ids], 1),
        "attention_mask": torch.ones(PICTURES, 6 + LENGTH, dtype=torch.long),
    }


@special("fuyu")
def _fuyu(case: Case) -> Made:
    config = case.config
    ids = case.tokens(PICTURES, LENGTH)
    slots = torch.full((PICTURES, 6), config.image_token_id)
    return {
        "image_patches": reals(PICTURES, 6, config.num_channels * config.patch_size**2),
        "input_ids": torch.cat([slots, ids], 1),
    }


@special("grounding-dino", "mm-grounding-dino")
def _phrases(case: Case) -> Made:
    """Unpadded: the logits of padding are minus infinity."""
    words = {"input_ids": case.tokens(PICTURES, LENGTH), "attention_mask": torch.ones(PICTURES, LENGTH, dtype=torch.long)}
    return words | {"pixel_values": reals(PICTURES, 3, *image_size(case))}


@special("kosmos-2")
def _positions_of_images(case: Case) -> Made:
    words = _words(case)
    slots = torch.zeros(PICTURES, LENGTH, dtype=torch.long)
    slots[:, 1 : 1 + case.config.latent_query_num] = 1
    return words | {"pixel_values": reals(PICTURES, 3, *image_size(case)), "image_embeds_position_mask": slots}


@special("mimi_decoder", "pocket_tts_audio_tokenizer_decoder")
def _latents(case: Case) -> Made:
    return {"latents": reals(PICTURES, case.config.hidden_size, 9)}


@special("depth_pro")
def _large(case: Case) -> Made:
    """A quarter of the image is as large as what the encoder takes."""
    return {"pixel_values": reals(PICTURES, 3, 4 * case.config.patch_size, 4 * case.config.patch_size)}


@special("musicgen", "musicgen_melody")
def _music(case: Case) -> Made:
    made = _words(case) | {
        "decoder_input_ids": case.tokens(PICTURES * case.size("num_codebooks", under=("decoder",)), TARGET, seed=1)
    }
    if case.type == "musicgen_melody":
        made["input_features"] = reals(PICTURES, 13, case.config.num_chroma)
    return made


@special("gemma4_vision")
def _placed_patches(case: Case) -> Made:
    places = torch.stack([torch.arange(36) % 6, torch.arange(36) // 6], -1)
    width = 3 * case.config.patch_size**2
    return {"pixel_values": reals(PICTURES, 36, width), "pixel_position_ids": places.repeat(PICTURES, 1, 1)}


@special("minicpm_ocr_vision", "minicpmv4_6_vision", "minicpmv4_7_vision")
def _strip(case: Case) -> Made:
    """All patches of all images side by side."""
    patch = case.config.patch_size
    return {"pixel_values": reals(1, 3, patch, 48 * patch), "target_sizes": torch.tensor([[4, 6], [6, 4]])}


@special("jev")
def _questions(case: Case) -> Made:
    return {
        "input_ids": case.tokens(1, LENGTH),
        "marks": torch.tensor([[4, 8]]),
        "num_options": torch.tensor([[2, 2]]),
        "question_type_ids": torch.tensor([[0, 0]]),
    }


@special("pop2piano")
def _embedded(case: Case) -> Made:
    return {"input_features": reals(PICTURES, 13, case.config.d_model), "decoder_input_ids": case.tokens(PICTURES, TARGET)}


@special("speech-encoder-decoder")
def _waveform_to_text(case: Case) -> Made:
    return {"input_values": reals(PICTURES, 4001), "decoder_input_ids": case.tokens(PICTURES, TARGET)}


@special("speecht5")
def _text_to_spectrogram(case: Case) -> Made:
    return _words(case) | {
        "input_values": case.tokens(PICTURES, LENGTH),
        "decoder_input_values": reals(PICTURES, TARGET, case.config.num_mel_bins),
        "speaker_embeddings": reals(PICTURES, case.config.speaker_embedding_dim, seed=1),
    }


@special("splinter")
def _question(case: Case) -> Made:
    made = _words(case)
    made["input_ids"][:, 4] = case.config.question_token_id
    return made


@special("speech_to_text")
def _frames_first(case: Case) -> Made:
    return {
        "input_features": reals(PICTURES, 52, case.config.input_feat_per_channel),
        "decoder_input_ids": case.tokens(PICTURES, TARGET),
    }


@special("timesformer", "vivit", "videomae", "vjepa2", "videoprism", "videoprism_vision_model", "videomt", "xclip")
def _video(case: Case) -> Made:
    frames = case.size("num_frames", "frames_per_clip", default=2)
    words = _words(case) if "input_ids" in case.accepts else {}
    video = reals(PICTURES, frames, 3, *image_size(case))
    return words | {"pixel_values_videos" if "pixel_values_videos" in case.accepts else "pixel_values": video}


@special("vibevoice_acoustic_tokenizer_encoder")
def _samples(case: Case) -> Made:
    return {"hidden_states": reals(PICTURES, 1, 6400)}


@special("seggpt")
def _prompted(case: Case) -> Made:
    height, width = image_size(case)
    height //= 2  # the prompt is put above the image
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    return {name: reals(PICTURES, 3, height, width, seed=seed) for seed, name in enumerate(names)}


@special("tvp")
def _moments(case: Case) -> Made:
    """One video: its embeddings of columns do not take several."""
    return _words(case, 1) | {"pixel_values": reals(1, case.config.num_frames, 3, 64, 64)}


@special("vibevoice_acoustic_tokenizer_decoder")
def _acoustic_latents(case: Case) -> Made:
    first = next(module for module in case.model.modules() if isinstance(module, nn.Conv1d))
    return {"hidden_states": reals(PICTURES, first.in_channels, 9)}


@special("pe_audio_video", "pe_audio_video_encoder")
def _heard_and_seen(case: Case) -> Made:
    words = _words(case) if "input_ids" in case.accepts else {}
    return words | {"input_values": reals(PICTURES, 1, 4001), "pixel_values_videos": reals(PICTURES, 4, 3, *image_size(case))}


@special("muse_glimmer_assistant")
def _draft(case: Case) -> Made:
    config = case.config
    return {
        "noise_embeds": reals(PICTURES, LENGTH, config.hidden_size),
        "context_hidden_states": reals(PICTURES, TARGET, config.hidden_size * len(config.target_layer_ids), seed=1),
        "attention_mask": torch.ones(PICTURES, TARGET + LENGTH, dtype=torch.long),
    }


@special("univnet")
def _noise(case: Case) -> Made:
    return {
        "input_features": reals(PICTURES, 13, case.config.num_mel_bins),
        "noise_sequence": reals(PICTURES, 13, case.config.model_in_channels, seed=1),
    }


@special("neucodec", "xcodec2")
def _heard_twice(case: Case) -> Made:
    """As many frames of features as the encoder makes of the samples."""
    frames = 13
    samples = frames * math.prod(case.config.downsampling_ratios)
    return {
        "input_values": reals(PICTURES, 1, samples),
        "input_features": reals(PICTURES, frames, case.config.semantic_model_config.feature_projection_input_dim, seed=1),
        "padding_mask": torch.ones(PICTURES, samples, dtype=torch.long),
    }


@special("glm_image")
def _source_and_target(case: Case) -> Made:
    """In each row an image, and the grid of one to be drawn."""
    config = case.config
    ids = case.tokens(PICTURES, LENGTH)
    image = torch.tensor([[config.image_start_token_id, *[config.image_token_id] * 24, config.image_end_token_id]] * PICTURES)
    width = 3 * config.vision_config.patch_size**2
    return {
        "input_ids": torch.cat([ids[:, :3], image, ids[:, 3:]], 1),
        "pixel_values": reals(48, width),
        "image_grid_thw": torch.tensor([[1, 4, 6], [1, 4, 6], [1, 6, 4], [1, 6, 4]]),
        "images_per_sample": torch.tensor([2, 2]),
    }


@special("musicflamingo")
def _timed(case: Case) -> Made:
    """A token for each vector that two halvings leave."""
    audio = case.config.audio_config
    frames = 2 * audio.max_source_positions
    ids = case.tokens(PICTURES, LENGTH)
    slots = torch.full((PICTURES, frames // 4), case.config.audio_token_id)
    return {
        "input_features": reals(PICTURES, audio.num_mel_bins, frames),
        "input_features_mask": torch.ones(PICTURES, frames, dtype=torch.long),
        "input_ids": torch.cat([ids[:, :3], slots, ids[:, 3:]], 1),
    }


@senses("dots3_note")
def _chunks(case: Case) -> Made:
    audio = case.config.audio_config
    made = pictures(case) | {"input_features": reals(PICTURES, audio.feature_size, 48, seed=1)}
    return made | {"chunk_sample_lengths": torch.tensor([48 * audio.hop_length] * PICTURES)}


@senses("inkling2", "inkling2_vision")
def _merged_patches(case: Case) -> Made:
    vision = getattr(case.config, "vision_config", case.config)
    side = vision.patch_size * vision.spatial_merge_size
    return {
        "pixel_values": reals(12, side, side, vision.num_channels),
        "image_grid_thw": torch.tensor([[1, 2, 3], [1, 3, 2]]),
    }


@senses("inkling_mm_model")
def _cubes(case: Case) -> Made:
    vision, audio = case.config.vision_config, case.config.audio_config
    cube = (vision.temporal_patch_size, vision.patch_size, vision.patch_size, vision.num_channels)
    return {
        "pixel_values": reals(3 * PICTURES, *cube),
        "audio_input_ids": integers(audio.mel_vocab_size, PICTURES, 5, audio.n_mel_bins),
    }


@senses("molmo2")
def _pooled(case: Case) -> Made:
    """Two crops, and for each token the four patches that it pools: those of a coarse grid, then those of a fine one."""
    vision = case.config.vision_config
    patches = vision.num_position_embeddings
    fours = torch.arange(24).view(6, 4)
    return {
        "pixel_values": reals(PICTURES, patches, vision.num_channels * vision.patch_size**2),
        "image_token_pooling": torch.cat([fours, fours + patches]),
        "image_grids": torch.tensor([[1, 2, 2, 2]] * PICTURES),
        "image_num_crops": torch.ones(PICTURES, dtype=torch.long),
    }


@senses("neomme")
def _flat_patches(case: Case) -> Made:
    return {"pixel_values": reals(12, case.config.patch_dim)}


@senses("vibevoice")
def _masked_samples(case: Case) -> Made:
    return {"input_values": reals(PICTURES, 1, 6400), "padding_mask": torch.ones(PICTURES, 6400, dtype=torch.bool)}
