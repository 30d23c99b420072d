"""The module and its weights as files, run once beside the graphs that they were made of."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import sys
from pathlib import Path

from torch import nn

from graphclone.errors import OutputError
from graphclone.export.pytorch import save_state
from graphclone.export.source.grammar import foreign
from graphclone.export.source.module import MODULE, WEIGHTS, Source, text

_count = itertools.count()


def save(it: Source, folder: Path) -> None:
    """Write `modeling.py` and `model.safetensors` into an existing folder.

    Raises:
        OutputError: something of the child cannot be said in Python; nothing is written then.
    """
    module = text(it, importlib.metadata.version("graphclone"))
    (folder / MODULE).write_text(module, encoding="utf-8")
    try:
        save_state(it.state, folder / WEIGHTS)
    except Exception as error:  # safetensors raises what its library in Rust happens to raise
        raise OutputError(f"cannot write '{WEIGHTS}'", because=f"safetensors says: {error}") from error


def load(folder: str | Path, *, trusted: bool = False) -> nn.Module:
    """The model of the module in a folder, in eval mode.

    Raises:
        OutputError: the module does what graphclone would not write, and may do anything; `trusted` runs it all the same.
    """
    folder = Path(folder)
    written = (folder / MODULE).read_text(encoding="utf-8")
    if not trusted and (why := foreign(written)):
        raise OutputError(
            f"will not run '{folder / MODULE}'",
            because=f"graphclone did not write it like this: {why}",
            attempt="--trust-remote-code if you trust where it comes from, or changed it yourself",
        )
    name = f"graphclone_child_{next(_count)}"
    spec = importlib.util.spec_from_file_location(name, folder / MODULE)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # pickle, and torch.compile, look it up there
    # What was read is what runs: Python's own loader takes bytecode from `__pycache__`, and decodes as a comment of the file tells it to.
    exec(compile(written, folder / MODULE, "exec", dont_inherit=True), module.__dict__)
    loaded: nn.Module = module.load()
    return loaded
