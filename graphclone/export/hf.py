"""Children as a Hugging Face folder that `from_pretrained` reads, complete with tokenizer and plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import transformers
from torch import Tensor

from graphclone.errors import OutputError
from graphclone.export.companions import accompany, stored
from graphclone.export.record import Record, hashes
from graphclone.plan import Plan
from graphclone.sources.quiet import quiet


def save_hf(
    child: transformers.PreTrainedModel,
    parent_folder: Path | None,
    output: Path,
    plan: Plan,
    axes: Mapping[str, Tensor] | None = None,
    shard: str | None = None,
    trained: str = "",
) -> None:
    """Write `child` into the existing folder `output`: config, safetensors, generation config, and what lies beside them (see `accompany`).

    No file of weights is larger than `shard`, as in `5GB`; where there are several, `model.safetensors.index.json` says what is where.
    What the child shares with its parent is copied from `parent_folder`. The cache, which is off while a model is traced, is on again
    in the written config if the parent's has it on. `trained`: how the child was trained since it was made, for its card.

    Raises:
        OutputError: there is no folder `output`, or transformers cannot write the child into it.
    """
    if not output.is_dir():
        raise OutputError(f"cannot write into '{output}'", because="there is no such folder")
    config = stored(parent_folder)
    use_cache = getattr(child.config, "use_cache", None)
    try:
        if use_cache is not None:
            child.config.use_cache = config.get("use_cache", type(child.config)().use_cache)
        with quiet(), _nothing_ignored(child):
            child.save_pretrained(output, **({} if shard is None else {"max_shard_size": shard}))
    except (ValueError, RuntimeError, OSError) as error:
        raise OutputError(f"cannot write '{output}'", because=f"transformers says: {error}") from error
    finally:
        if use_cache is not None:
            child.config.use_cache = use_cache
    record = Record("folder", parent_folder.name if parent_folder is not None else "", hashes=hashes(parent_folder))
    accompany(output, child, plan, record, parent_folder, axes, trained)


@contextlib.contextmanager
def _nothing_ignored(child: transformers.PreTrainedModel) -> Iterator[None]:
    """Tables that a class works out again when it is loaded (sinusoids) are units of the parent's in a clone: they are written too."""
    child._keys_to_ignore_on_save = None
    try:
        yield
    finally:
        del child._keys_to_ignore_on_save
