"""Children as a Hugging Face folder that `from_pretrained` reads, complete with tokenizer and plan."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import transformers

from graphclone.errors import OutputError
from graphclone.export.card import model_card
from graphclone.plan import Plan
from graphclone.sources.quiet import quiet

# What a folder holds beside config and weights: the tokenizer, the processors, and the terms of use.
_COMPANIONS = (
    "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "normalizer.json", "preprocessor_config.json", "processor_config.json", "*_preprocessor_config.json",
    "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


def save_hf(child: transformers.PreTrainedModel, parent_folder: Path | None, output: Path, plan: Plan) -> None:
    """Write `child` into the existing folder `output`: config, safetensors, generation config, a card and `plan.json`.

    What the child shares with its parent is copied from `parent_folder`: tokenizer, processors, licence, and where the
    class is a program in that folder, the program. The cache, which is off while a model is traced, is on again in the
    written config if the parent's has it on.

    Raises:
        OutputError: there is no folder `output`, or transformers cannot write the child into it.
    """
    if not output.is_dir():
        raise OutputError(f"cannot write into '{output}'", because="there is no such folder")
    stored = _stored(parent_folder)
    use_cache = getattr(child.config, "use_cache", None)
    try:
        if use_cache is not None:
            child.config.use_cache = stored.get("use_cache", type(child.config)().use_cache)
        with quiet(), _nothing_ignored(child):
            child.save_pretrained(output)
    except (ValueError, RuntimeError, OSError) as error:
        raise OutputError(f"cannot write '{output}'", because=f"transformers says: {error}") from error
    finally:
        if use_cache is not None:
            child.config.use_cache = use_cache
    if parent_folder is not None:
        patterns = [*_COMPANIONS, *(["*.py"] if "auto_map" in stored else [])]
        for path in sorted({path for pattern in patterns for path in parent_folder.glob(pattern)}):
            if path.is_file():
                shutil.copyfile(path, output / path.name)
    (output / "README.md").write_text(model_card(child, parent_folder, plan), encoding="utf-8")
    plan.save(output / "plan.json")


@contextlib.contextmanager
def _nothing_ignored(child: transformers.PreTrainedModel) -> Iterator[None]:
    """Tables that a class works out again when it is loaded (sinusoids) are units of the parent's in a clone: they are written too."""
    child._keys_to_ignore_on_save = None
    try:
        yield
    finally:
        del child._keys_to_ignore_on_save


def _stored(folder: Path | None) -> dict[str, object]:
    path = folder / "config.json" if folder is not None else None
    if path is None or not path.is_file():
        return {}
    stored: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return stored
