"""Waveforms and spectrograms, as each kind of audio tower takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphclone.sources.hf_inputs.case import PICTURES, Case, reals

_TOWERS = ("audio_config", "audio_encoder_config", "encoder_config", "speech_config")
_CHANNELLED = ("dac", "pe_audio", "neucodec", "xcodec", "vibevoice", "encodec", "mimi", "pocket_tts")
_BINS_FIRST = ("glmasr", "qwen3_asr", "qwen2_5_omni", "qwen3_omni", "voxtral_realtime")
SAMPLES = 4001
FRAMES = 88  # a multiple of the usual subsampling


def sounds(case: Case) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if getattr(case.config, "audio_config", made) is None:
        return made
    if "input_features" in case.accepts:
        features = spectrogram(case)
        frames = next(size for size in features.shape[1:] if size in (FRAMES, features.shape[-1]))  # not the bins
        made["input_features"] = features
        made["input_features_mask"] = torch.ones(
            PICTURES, frames, dtype=torch.bool if case.type.startswith("gemma") else torch.long
        )
        if case.type.startswith("granite_speech"):  # there it masks vectors, not frames
            del made["input_features_mask"]
            return made
        made["padding_mask"] = made["input_features_mask"]
        made["feature_attention_mask"] = made["input_features_mask"]
    if "input_values" in case.accepts:
        made["input_values"] = waveform(case)
    return made


def waveform(case: Case) -> Any:
    first = next((module for module in case.model.modules() if isinstance(module, nn.Conv1d)), None)
    if case.type.startswith(_CHANNELLED) or (case.size("audio_channels") == 1 and first is not None):
        return reals(PICTURES, 1, SAMPLES)
    return reals(PICTURES, 3840 if case.type.startswith(("muse_spark", "moonshine")) else SAMPLES)


def spectrogram(case: Case) -> Any:
    """Frames of features; features first where the first convolution over time says so."""
    bins = case.size("num_mel_bins", "input_feat_size", "input_feat_per_channel", "feature_size", "input_dim",
                     "feature_projection_input_dim", default=80, under=_TOWERS)  # fmt: skip
    bins *= case.size("num_stacked_frames", default=1)
    if case.type.startswith("gemma"):
        bins = 128
    if case.type.startswith("granite_speech5"):
        bins = 320
    positions = case.size("max_source_positions", under=_TOWERS)
    if case.type.startswith(_BINS_FIRST):
        return reals(PICTURES, bins, 100 if case.type.startswith("qwen3_asr") else FRAMES)
    conv = next((module for module in case.model.modules() if isinstance(module, nn.Conv1d)), None)
    if conv is not None and conv.in_channels == bins and positions is not None:
        return reals(PICTURES, bins, 2 * min(positions, 50))
    return reals(PICTURES, FRAMES, bins)
