"""Example inputs in a notation: `input_ids=int64[2,11]:0..256`, `pixel_values=float32[2,3,32,32]`, `float32[2,16]`."""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphclone.errors import SourceError
from graphclone.sources.parent import Parent
from graphclone.sources.words import nearest

_FORM = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<dtype>[a-z]+\d*)\s*\[(?P<shape>[\d,\s]*)\]"
    r"(?:\s*:\s*(?P<low>-?[\d.]+?)\s*\.\.\s*(?P<high>-?\d[\d.]*))?"
)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_WRITTEN = "[name=]dtype[size, size, …][:low..high], for example input_ids=int64[2,11]:0..256"


@dataclass(frozen=True)
class Input:
    """One example input: floating-point values are normal, or uniform in `low..high`; integers lie in `low..high - 1`."""

    name: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        span = "" if self.low is None else f":{self.low:g}..{self.high:g}"
        return f"{name}{str(self.dtype).removeprefix('torch.')}[{','.join(map(str, self.shape))}]{span}"

    def tensor(self, seed: int = 0) -> Tensor:
        """Random values; the same for the same name and `seed`. Integers without a span are 0 or 1, valid anywhere."""
        generator = torch.Generator().manual_seed(seed + zlib.crc32((self.name or "").encode()))
        if self.dtype.is_floating_point or self.dtype.is_complex:
            if self.low is None or self.high is None:
                return torch.randn(self.shape, generator=generator).to(self.dtype)
            return (torch.rand(self.shape, generator=generator) * (self.high - self.low) + self.low).to(self.dtype)
        low, high = (0, 2) if self.low is None or self.high is None else (int(self.low), int(self.high))
        return torch.randint(low, high, self.shape, generator=generator).to(self.dtype)


def parse_input(text: str) -> Input:
    """Read the notation: `parse_input("input_ids=int64[2,7]:0..256")`.

    Raises:
        SourceError: the text does not follow it, the dtype is unknown, or the span is empty.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise SourceError(f"cannot read the input '{text}'", because=f"an input is written {_WRITTEN}")
    dtype = _DTYPES.get(match["dtype"])
    if dtype is None:
        raise SourceError(
            f"cannot read the input '{text}'",
            because=f"torch has no dtype '{match['dtype']}'",
            attempt=nearest(match["dtype"], _DTYPES) or "int64, float32 or bool",
        )
    try:
        shape = tuple(int(size) for size in match["shape"].split(",") if size.strip())
        low, high = (None if match[end] is None else float(match[end]) for end in ("low", "high"))
    except ValueError as error:
        raise SourceError(f"cannot read the input '{text}'", because=f"an input is written {_WRITTEN}") from error
    if low is not None and high is not None and not low < high:
        raise SourceError(f"cannot read the input '{text}'", because=f"nothing lies in {low:g}..{high:g}: the end is excluded")
    return Input(match["name"], dtype, shape, low, high)


def with_inputs(parent: Parent, texts: Sequence[str]) -> Parent:
    """The parent with example inputs added or replaced: named ones by name, the unnamed ones as a whole.

    Raises:
        SourceError: an input cannot be read, or the model's forward takes none of that name.
    """
    inputs = [parse_input(text) for text in texts]
    unnamed = tuple(each.tensor(seed) for seed, each in enumerate(inputs) if each.name is None)
    args, kwargs = list(unnamed or parent.args), dict(parent.kwargs)
    names, open_ended = _arguments(parent.module)
    for each in inputs:
        if each.name is None:
            continue
        if each.name not in names and not open_ended:
            raise SourceError(
                f"'{parent.spec}' takes no input '{each.name}'",
                because=f"its forward takes ({', '.join(names)})",
                attempt=nearest(each.name, names),
            )
        place = names.index(each.name) if each.name in names else len(args)
        if place < len(args):
            args[place] = each.tensor()
        else:
            kwargs[each.name] = each.tensor()
    return replace(parent, args=tuple(args), kwargs=kwargs)


def _arguments(module: nn.Module) -> tuple[list[str], bool]:
    """The names that a module's forward takes, and whether it takes any other as well."""
    parameters = inspect.signature(module.forward).parameters.values()
    names = [
        parameter.name for parameter in parameters if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return names, any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
