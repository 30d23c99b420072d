"""The model types of transformers that have a model class, and their classes, richest first."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PARTS = Path(__file__).with_name("parts.json")  # what `find_parts` found

# A type's richest class is the one found first in these auto-mappings; the bare model comes last.
_RICHEST_FIRST = (
    "TEXT_TO_WAVEFORM", "TEXT_TO_SPECTROGRAM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "CAUSAL_LM",
    "ZERO_SHOT_OBJECT_DETECTION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION",
    "INSTANCE_SEGMENTATION", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION", "PRETRAINING",
    "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "CTC", "AUDIO_CLASSIFICATION", "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING",
)  # fmt: skip
_LAST = ("MULTIPLE_CHOICE", "DECISION", "BACKBONE", "IMAGE", "TEXT_ENCODING", "")

_PREFERRED = {
    "flava": "FlavaModel",
    "sapiens2": "Sapiens2Model",
    "videomae": "VideoMAEForVideoClassification",
}  # where the richest one wants targets of a training loss


def _rank(mapping: str) -> tuple[int, str]:
    if mapping in _RICHEST_FIRST:
        return _RICHEST_FIRST.index(mapping), mapping
    return (50 + _LAST.index(mapping) if mapping in _LAST else 30), mapping


@cache
def classes() -> dict[str, tuple[str, ...]]:
    """For each model type, the names of its classes, richest first: of transformers' auto-mappings, and of parts that they leave out."""
    parts = {model_type: tuple(names) for model_type, names in json.loads(PARTS.read_text()).items()}
    return dict(sorted({**parts, **mapped()}.items()))


@cache
def mapped() -> dict[str, tuple[str, ...]]:
    """The classes in transformers' auto-mappings."""
    from transformers.models.auto import modeling_auto  # seconds, so not at the top

    suffix = "_MAPPING_NAMES"
    mappings = {
        name.removeprefix("MODEL").removeprefix("_FOR").removesuffix(suffix).removeprefix("_"): names
        for name, names in vars(modeling_auto).items()
        if name.startswith("MODEL") and name.endswith(suffix)
    }
    found: dict[str, dict[str, None]] = {}
    for mapping in sorted(mappings, key=_rank):
        for model_type, value in mappings[mapping].items():
            for name in (value,) if isinstance(value, str) else value:
                found.setdefault(model_type, {})[name] = None
    for model_type, name in _PREFERRED.items():
        found[model_type] = {name: None} | found[model_type]
    return {model_type: tuple(names) for model_type, names in found.items()}


def default_config(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]()


def model_class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)
