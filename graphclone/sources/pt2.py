"""Parents that are exported already: a `.pt2` file, as `torch.export.save` writes it."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import io
import json
import logging
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphclone.errors import SourceError
from graphclone.sources.parent import Parent, Request

_FUNCTIONS = frozenset(["abs", "max", "min", "pow", "round"])
_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
_ARITHMETIC = (
    ast.Name, ast.Load, ast.Constant, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop,
)  # fmt: skip


def load(request: Request) -> Parent:
    """Read the program; its example inputs are the ones that it was exported with.

    Raises:
        SourceError: the file is missing, damaged, from another version of torch, or holds a pickle that was not allowed.
    """
    path = Path(request.spec).expanduser()
    if not path.is_file():
        raise SourceError(f"cannot find the model '{path}'", because="there is no such file")
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
            names, odd = archive.namelist(), list[str]()
            pickled = [name for name in names if name.rpartition("/")[2].startswith(("custom_obj_", "opaque_obj_"))]
            for name in names:
                if name.endswith("_config.json"):
                    entries = json.loads(archive.read(name)).get("config", {}).values()
                    pickled += [entry["path_name"] for entry in entries if entry.get("use_pickle")]
                elif name.endswith(".json"):
                    odd += [text for text in _expressions(json.loads(archive.read(name))) if not _is_arithmetic(text)]
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
    if odd:
        raise SourceError(
            f"refused to read '{path}'",
            because=f"a size in it is written as {odd[0][:80]!r}, which torch would run as a program",
            attempt="--allow-pickle if you trust where it comes from",
        )


def _expressions(data: Any) -> Iterator[str]:
    """The sizes of a program that are formulas: torch has sympy evaluate their text."""
    if isinstance(data, dict):
        yield from (value for key, value in data.items() if key == "expr_str" and isinstance(value, str))
        data = list(data.values())
    if isinstance(data, list):
        for each in data:
            yield from _expressions(each)


def _is_arithmetic(text: str) -> bool:
    """Whether a formula has numbers, names, operators, and calls of functions that are no builtins of Python's but its arithmetic."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval").body))
    except (SyntaxError, ValueError, RecursionError):
        return False
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return (
        all(isinstance(node, _ARITHMETIC) for node in nodes)
        and all(
            isinstance(each, (bool, int, float)) or str(each).isidentifier() or _NUMBER.fullmatch(str(each)) for each in constants
        )
        and not any(name.startswith("_") or (hasattr(builtins, name) and name not in _FUNCTIONS) for name in names)
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
