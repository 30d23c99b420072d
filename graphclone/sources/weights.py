"""Weights on disk: are they whole, are they numbers, and do they fit the module."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from graphclone.errors import SourceError, WeightsError
from graphclone.sources.words import listed


def check_safetensors(path: Path) -> None:
    """Open a safetensors file without reading its tensors.

    Raises:
        SourceError: it is truncated (with the sizes expected and found) or not a safetensors file at all.
    """
    try:
        with safe_open(path, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        raise SourceError(
            f"cannot read '{path}'",
            because=_what_is_wrong(path) or f"safetensors says: {error}",
            attempt="copy or download the file again; git keeps large files as small pointers until `git lfs pull`",
        ) from error


def _what_is_wrong(path: Path) -> str:
    """A truncated file in numbers: a safetensors file says at its start how long it is. Empty if that is not the fault."""
    found = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return f"it is {found:,} bytes long, and its header alone takes more"
        length = int.from_bytes(start, "little")
        if 8 + length > found:
            return f"its header says that it is {length:,} bytes long, the whole file is {found:,}: truncated, or not safetensors"
        try:
            header = json.loads(file.read(length))
            expected = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
    return f"it is truncated: {expected:,} bytes expected, {found:,} found" if expected > found else ""


def read_state(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or with `allow_pickle` from a `torch.save` file.

    Even then nothing but tensors and plain containers is unpickled. Names that share one tensor (ties) are restored.

    Raises:
        SourceError: the file is missing, damaged, or a pickle that was not allowed.
    """
    if not path.is_file():
        raise SourceError(f"cannot read '{path}'", because="there is no such file")
    if path.suffix == ".safetensors":
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            ties = file.metadata() or {}
        return state | {name: state[kept] for name, kept in ties.items() if name not in state and kept in state}
    if not allow_pickle and not _pickled(path):
        told = "it is neither a .safetensors file nor one that torch.save writes"
        raise SourceError(f"cannot read '{path}'", because=told, attempt="a .safetensors file")
    if not allow_pickle:
        raise SourceError(
            f"refused to read '{path}'",
            because="it is a pickle, which can run any program when it is read",
            attempt="a .safetensors file, or --allow-pickle if you trust where it comes from",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise SourceError(
            f"cannot read '{path}'",
            because=f"torch.load(weights_only=True) says: {str(error).splitlines()[0]}",
            attempt="a file written by torch.save(model.state_dict(), path)",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SourceError(f"cannot use '{path}'", because="it holds something else than a state dict")
    return state


def _pickled(path: Path) -> bool:
    """Whether it looks like what torch.save writes: an archive, or before torch 1.6 a bare pickle."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(file) or (file.seek(0) == 0 and file.read(1) == b"\x80")


def fill(module: nn.Module, path: Path, *, allow_pickle: bool = False) -> None:
    """Load a checkpoint into a module; every parameter must be there, with its shape.

    Raises:
        SourceError: the file cannot be read, or its names or shapes are not the module's.
    """
    state, own = read_state(path, allow_pickle=allow_pickle), module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [
        f"{name} is {list(state[name].shape)} there and {list(own[name].shape)} here"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if missing or unexpected or misfits:
        raise SourceError(
            f"'{path}' is no checkpoint of this {type(module).__name__}",
            because=differences(missing, unexpected, misfits),
            attempt="--arg name=value for the settings that the checkpoint was made with",
        )
    module.load_state_dict(state)


def differences(missing: list[str], unexpected: list[str], misfits: list[str]) -> str:
    """What a checkpoint lacks, what it has too much, and what has another shape, as one line of an error."""
    parts = {"it lacks": missing, "it has in addition": unexpected, "with other shapes,": misfits}
    return "; ".join(f"{words} {listed(names)}" for words, names in parts.items() if names)


def check_finite(module: nn.Module, spec: str) -> None:
    """Refuse a parent with NaN or infinite parameters: a child would inherit them.

    Buffers may hold infinities (masks do), but no NaN.

    Raises:
        WeightsError: it names the tensors.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    bad = [f"{name} ({count})" for name, tensor in tensors if (count := _count_bad(tensor))]
    if bad:
        raise WeightsError(
            f"'{spec}' has weights that are NaN or infinite",
            because=f"in {listed(bad)} (how many values in parentheses)",
            attempt="an earlier checkpoint: a model that diverged has nothing to hand on",
        )


def _count_bad(tensor: Tensor) -> int:
    if tensor.is_meta or not tensor.is_floating_point():
        return 0
    bad = ~tensor.isfinite() if isinstance(tensor, nn.Parameter) else tensor.isnan()
    return int(bad.sum())
