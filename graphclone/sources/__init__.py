"""Where parents come from: `load("folder")`, `load("timm:NAME")`, `load("package.module:factory")`, `load("model.pt2")`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from graphclone.errors import SourceError
from graphclone.sources.inputs import Input, parse_input, with_inputs
from graphclone.sources.literals import assignments, literals
from graphclone.sources.parent import Parent, Request, alike, destination, shapes
from graphclone.sources.weights import check_finite, fill, read_state

__all__ = [
    "SOURCES",
    "Input",
    "Parent",
    "Source",
    "alike",
    "assignments",
    "destination",
    "load",
    "parse_input",
    "read_state",
    "shapes",
]


@dataclass(frozen=True)
class Source:
    """A kind of parent: how its spec is written, and the module here whose `load(Request)` reads it.

    The module is imported when a parent asks for it; `extra` names what to install if that fails.
    """

    form: str
    matches: Callable[[str], bool]
    module: str
    extra: str = ""


# The first that matches has the word; a folder comes last, since any text could name one.
SOURCES = (
    Source("timm:NAME", lambda spec: spec.startswith("timm:"), "timm_source", "pip install 'graphclone[timm]'"),
    Source("torchvision:NAME", lambda spec: spec.startswith("torchvision:"), "torchvision_source", "pip install torchvision"),
    Source("FILE.pt2", lambda spec: spec.endswith(".pt2"), "pt2"),
    Source("package.module:factory", lambda spec: ":" in spec and not Path(spec).exists(), "factory"),
    Source("FOLDER", lambda spec: True, "hf", "pip install 'graphclone[hf]'"),
)


def is_program(spec: str) -> bool:
    """Whether a parent is whatever a function of the user's own returns."""
    return next(source.module for source in SOURCES if source.matches(spec)) == "factory"


def load(
    spec: str,
    *,
    args: Mapping[str, object] | None = None,
    inputs: Sequence[str] = (),
    examples: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Parent:
    """Load a parent.

    `spec` is a Hugging Face folder, `timm:NAME`, `torchvision:NAME`, `package.module:factory` or a `.pt2` file. `args` go
    to the factory (a string is read as the literal that it spells). `inputs` add or replace example inputs, in the
    notation of `parse_input`; `examples` stand in place of all of them. `checkpoint` is a file of trained weights for a model
    that a factory makes.

    Raises:
        SourceError: the parent cannot be found or read, or nothing is known of its inputs.
        WeightsError: its weights hold NaN or infinite values.

    Example:
        >>> parent = load("timm:vit_tiny_patch16_224", args={"depth": 2}, checkpoint=Path("vit.safetensors"))  # doctest: +SKIP
    """
    source = next(each for each in SOURCES if each.matches(spec))
    parent = _import(source, spec).load(Request(spec, literals(args or {}), allow_pickle, trust_remote_code))
    if checkpoint is not None:
        if parent.program is not None:
            raise SourceError(f"cannot load '{checkpoint}' into '{spec}'", because="an exported program has its own weights")
        fill(parent.module, checkpoint, allow_pickle=allow_pickle)
    check_finite(parent.module, spec)
    parent = with_inputs(parent, inputs) if examples is None else replace(parent, args=(), kwargs=dict(examples))
    if not parent.args and not parent.kwargs:
        raise SourceError(
            f"nothing is known of the inputs of '{spec}'",
            because="a parent is read by running it once, and neither the model nor its factory has example_inputs()",
            attempt="--input 'input_ids=int64[2,11]:0..256' for each of its inputs",
        )
    return parent


@dataclass(frozen=True)
class _Loader:
    load: Callable[[Request], Parent]


def _import(source: Source, spec: str) -> _Loader:
    try:
        return _Loader(importlib.import_module(f"graphclone.sources.{source.module}").load)
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        others = " or ".join(each.form for each in SOURCES if each is not source)
        first = _first_cause(error)
        missing = first.name if isinstance(first, ModuleNotFoundError) else None
        raise SourceError(
            f"cannot load '{spec}' ({source.form})",
            because=f"'{missing}' is not installed" if missing else f"its library cannot be imported: {first}",
            attempt=f"{source.extra if missing else _MISFIT}; or another form of parent: {others}",
        ) from error


_MISFIT = (
    "builds that fit: a torchvision is made for one version of torch and one kind of device, and libraries import it where it is"
)


def _first_cause(error: BaseException) -> BaseException:
    """Of a chain of errors, each raised because of the one before."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
