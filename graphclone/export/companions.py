"""What lies beside a child's weights, whichever road they came: its plan, its record, its card, and what it shares with its parent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

import graphclone
from graphclone.export.card import model_card
from graphclone.export.pytorch import save_state
from graphclone.export.record import AXES, PLAN, Record, digest_of_fitted
from graphclone.plan import Plan
from graphclone.verify import fitted_in

# Tokenizers (a test compares with what those of transformers read), processors, how text is generated, and the terms of use.
_SHARED = (
    "tokenizer*", "vocab*", "*_vocab.json", "merges.txt", "bpe.codes", "dict.txt", "emoji.json", "byte_maps.json", "word_*.json",
    "tekken.json", "*.model", "*.spm", "*.tiktoken", "*.tokenizer", "special_tokens_map.json", "added_tokens.json", "normalizer.json",
    "chat_template*", "additional_chat_templates/*.jinja", "preprocessor_config.json", "processor_config.json",
    "*_preprocessor_config.json", "audio_tokenizer_config.json", "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".index.json")


def accompany(
    output: Path,
    child: nn.Module,
    plan: Plan,
    record: Record,
    parent: Path | None = None,
    axes: Mapping[str, Tensor] | None = None,
    trained: str = "",
) -> None:
    """Write `plan.json`, `child.json`, `README.md`, and `axes.safetensors` where there are `axes`, into the existing folder `output`.

    `parent`: the parent's folder, if it has one: tokenizer, processors and licence are copied from it, programs where its configs
    refer to them, and where the child has no config of its own, its parent's as `parent_config.json`. `trained`: how the child was trained
    since it was made, for the card; `verify` then no longer takes its fitted tensors for those that were fitted.
    """
    if axes:
        save_state(dict(axes), output / AXES)
    if parent is not None:
        _copy(parent, output, own_config=record.kind == "folder")
    plan.save(output / PLAN)
    fitted = "" if trained else digest_of_fitted(fitted_in(plan, child))
    record = replace(record, version=graphclone.__version__, fitted=fitted or (trained if plan.fitted else ""))
    record.save(output)
    (output / "README.md").write_text(model_card(child, record, plan, parent, bool(axes), trained), encoding="utf-8")


def stored(folder: Path | None, name: str = "config.json") -> dict[str, object]:
    """A config as it stands in a folder; empty where there is none."""
    path = folder / name if folder is not None else None
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    return found


def _copy(parent: Path, output: Path, own_config: bool) -> None:
    programs = any(
        "auto_map" in stored(parent, f"{name}config.json") for name in ("", "tokenizer_", "processor_", "preprocessor_")
    )
    found = {path for pattern in _SHARED for path in parent.glob(pattern) if not path.name.endswith((*_WEIGHTS, ".py"))}
    for path in sorted([*found, *(parent.glob("*.py") if programs and own_config else ())]):
        if path.is_file():
            place = output / path.relative_to(parent)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
    if not own_config and (parent / "config.json").is_file():
        shutil.copyfile(parent / "config.json", output / "parent_config.json")
