"""Parents that are exported already: a `.pt2` file, as `torch.export.save` writes it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import pickle
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export import ExportedProgram

from graphclone.errors import SourceError
from graphclone.sources.parent import Parent, Request


def load(request: Request) -> Parent:
    """Read the program; its example inputs are the ones that it was exported with.

    Raises:
        SourceError: the file is missing, damaged, from another version of torch, or holds a pickle that was not allowed.
    """
    path = Path(request.spec).expanduser()
    if not path.is_file():
        raise SourceError(f"cannot find the parent '{path}'", because="there is no such file")
    if request.args:
        raise SourceError(f"'{path}' takes no arguments", because="an exported program is fixed; --arg is for factories")
    if not request.allow_pickle:
        _refuse_pickles(path)
    try:
        with _without_log():
            program = _read(path)
    except Exception as error:  # torch raises what the part of the archive at fault happens to raise
        raise SourceError(
            f"cannot read '{path}'",
            because=f"torch {torch.__version__} says: {(str(error).splitlines() or [type(error).__name__])[0]}",
            attempt="exporting it again with this version of torch: torch.export.save(program, path)",
        ) from error
    args, kwargs = program.example_inputs or ((), {})
    return Parent(program.module(), request.spec, tuple(args), dict(kwargs), program=program)


def _read(path: Path) -> ExportedProgram:
    """A program may return a type of transformers, which torch knows only once that library is imported."""
    try:
        return torch.export.load(path)
    except Exception:
        if find_spec("transformers") is None or "transformers.modeling_outputs" in sys.modules:
            raise
        importlib.import_module("transformers.modeling_outputs")
        return torch.export.load(path)


def _refuse_pickles(path: Path) -> None:
    """torch.export.load unpickles whatever asks for it: custom objects, tensor subclasses, odd example inputs."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = [name for name in names if name.rpartition("/")[2].startswith(("custom_obj_", "opaque_obj_"))]
            for name in names:
                if name.endswith("_config.json"):
                    entries = json.loads(archive.read(name)).get("config", {}).values()
                    pickled += [entry["path_name"] for entry in entries if entry.get("use_pickle")]
                elif name.endswith(".pt"):
                    pickled += [name] * (not _only_tensors(archive.read(name)))
    except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, OSError) as error:
        raise SourceError(
            f"cannot read '{path}'",
            because=f"it is damaged, or was not written by torch.export.save: {error}",
            attempt="copying it again",
        ) from error
    if pickled:
        raise SourceError(
            f"refused to read '{path}'",
            because=f"its part {pickled[0]} is a pickle, which can run any program when it is read",
            attempt="--allow-pickle if you trust where it comes from",
        )


def _only_tensors(data: bytes) -> bool:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """torch logs the whole traceback of what it then raises."""
    log = logging.getLogger("torch.export")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled
