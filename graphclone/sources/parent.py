"""A trained model as a source hands it over, and the same class built again with other sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torch.export import ExportedProgram

from graphclone.errors import DestinationError, GraphcloneError
from graphclone.sources.literals import literals
from graphclone.sources.words import nearest

# For each list of layers: how many the parent has, and which of them the child is made of, in order.
Layers = Sequence[tuple[int, Sequence[int]]]
# Overrides, and the layers that are kept (empty: not decided yet) → a fresh module.
Build = Callable[[Mapping[str, object], Layers], nn.Module]


@dataclass(frozen=True, eq=False)
class Parent:
    """A parent: its module in eval mode, and example inputs that its forward accepts.

    `config` is the model's configuration as its author wrote it, where it has one. `program` is set for a `.pt2`
    file, which is captured already. `build` makes another of the same class, where there is a way to; `untrained` are the
    arguments that its factory then has otherwise, since what it makes is about to be filled; `fields` are the sizes that may be set and
    their values (None: worked out by the class), where the class tells them; `like` makes a model of this kind as another folder's or
    file's config has it.
    """

    module: nn.Module
    spec: str
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)
    config: object | None = None
    program: ExportedProgram | None = None
    build: Build | None = None
    untrained: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    like: Callable[[Path, Mapping[str, object]], nn.Module] | None = None


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, as each source receives it."""

    spec: str
    args: Mapping[str, object] = field(default_factory=dict)
    allow_pickle: bool = False
    trust_remote_code: bool = False


def destination(parent: Parent, overrides: Mapping[str, object], *, layers: Layers = (), seed: int = 0) -> nn.Module:
    """The parent's class with the fields of `overrides` changed: randomly initialised, in eval mode.

    `overrides` are fields of the config (Hugging Face) or arguments of the factory (all else); a string is read as the
    literal that it spells: `{"hidden_size": "96"}`. `layers` says which of the parent's layers the child's are, and decides
    what per-layer settings such as `layer_types` become; without it, what the class derives by itself is derived
    anew, and what was written out loses its middle. The same `seed` gives the same weights; the global random state is
    left as it was.

    Raises:
        DestinationError: nothing builds this parent (a `.pt2` file), a field is unknown, or the class refuses the values.
    """
    if parent.build is None:
        raise DestinationError(
            f"cannot build a destination from '{parent.spec}'",
            because="an exported program is one graph of fixed sizes: no class is left that could be built smaller",
            attempt="--width and --depth, which rewrite the graph itself",
        )
    build, values = parent.build, literals(overrides)
    settings = ", ".join(f"{name}={value}" for name, value in overrides.items())
    return _fresh(parent, lambda: build(values, layers), settings or "its own settings", seed)


def alike(parent: Parent, config: Path, overrides: Mapping[str, object] = MappingProxyType({}), *, seed: int = 0) -> nn.Module:
    """A model of the parent's kind with all the settings of another one: `config` is its folder or its config file, of which
    `overrides` are changed. As `destination`.

    Raises:
        DestinationError: this parent has no config, the file is of another kind of model, or the class refuses it.
    """
    if parent.like is None:
        raise DestinationError(
            f"cannot build a destination like '{config}'",
            because=f"'{parent.spec}' has no config that another one could take the place of",
            attempt="a Hugging Face folder as parent, or --set for a factory's arguments",
        )
    like, values = parent.like, literals(overrides)
    return _fresh(parent, lambda: like(config, values), f"the config of '{config}'", seed)


def _fresh(parent: Parent, build: Callable[[], nn.Module], settings: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build().eval()
        except GraphcloneError:
            raise
        except Exception as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            raise DestinationError(
                f"cannot build {type(parent.module).__name__} with {settings}",
                because=f"it raised {type(error).__name__}: {error}",
                attempt=nearest(unknown[1], inspect.signature(type(parent.module)).parameters)
                if unknown is not None
                else "values that belong together (heads that divide the width, a length for each stage)",
            ) from error


def shapes(parent: Parent, overrides: Mapping[str, object], layers: Layers = ()) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the parameters that `destination` would make, without memory for them where the class allows it; None where the
    class refuses these values."""
    for device in ("meta", "cpu"):  # some classes work numbers out of tensors while they are built
        try:
            with torch.device(device):
                made = destination(parent, overrides, layers=layers)
        except DestinationError:
            continue
        return {name: tuple(each.shape) for name, each in made.named_parameters(remove_duplicate=False)}
    return None
