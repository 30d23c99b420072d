"""Parents that a Python factory makes: `package.module:factory`, importable from the current folder too."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from graphclone.errors import DestinationError, GraphcloneError, SourceError
from graphclone.sources.parent import Layers, Parent, Request
from graphclone.sources.words import nearest


def load(request: Request) -> Parent:
    """Call the factory (a function or a class; or take a module that is there already) for the parent.

    Example inputs come from `example_inputs` of the model, else from the function of that name beside the factory. They
    are a tensor, a tuple of positional ones, a dict of named ones, or a tuple and a dict.

    Raises:
        SourceError: there is no such module or factory, it raises, or what it makes is no module.
    """
    with _current_folder_importable():
        home, factory = _find(request.spec)
        if isinstance(factory, nn.Module):
            parent = Parent(factory.eval(), request.spec)
        else:
            parent = from_call(request.spec, factory, request.args)
        args, kwargs = _example_inputs(parent.module, home, request.spec)
    return replace(parent, args=args, kwargs=kwargs)


def from_call(
    spec: str, factory: Callable[..., object], arguments: Mapping[str, object], untrained: Mapping[str, object] | None = None
) -> Parent:
    """The parent that `factory(**arguments)` makes; destinations are made by calling it again with other arguments.

    Weights are random if the factory makes them so, but the same in every run. `untrained` are arguments that hold for
    destinations only, which start without trained weights.

    Raises:
        SourceError: the factory raises, or what it makes is no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module = factory(**arguments)
        except GraphcloneError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            called = frame.filename == __file__  # with arguments that it does not have
            raise SourceError(
                f"cannot make the model '{spec}'",
                because=f"it raised {type(error).__name__}: {error}"
                + ("" if called else f" (at {frame.filename}:{frame.lineno})"),
                attempt="--arg name=value, for the arguments that it has",
            ) from error
    if not isinstance(module, nn.Module):
        raise SourceError(
            f"cannot use '{spec}' as a model",
            because=f"it returned a {type(module).__name__}, not a torch.nn.Module",
        )

    def build(overrides: Mapping[str, object], layers: Layers) -> nn.Module:
        _check_names(spec, factory, overrides)
        with _current_folder_importable():
            made = factory(**{**arguments, **(untrained or {}), **overrides})
        if not isinstance(made, nn.Module):
            raise DestinationError(f"'{spec}' made a {type(made).__name__}", because="a destination is a torch.nn.Module")
        return made

    return Parent(module.eval(), spec, build=build, untrained=untrained or {})


def _find(spec: str) -> tuple[ModuleType, Any]:
    module_name, _, path = spec.partition(":")
    try:
        found: Any = (home := importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise SourceError(f"cannot import '{module_name}'", because=f"it needs '{error.name}', not installed") from error
        raise SourceError(
            f"cannot find the model '{spec}'",
            because=f"Python finds no module '{error.name or module_name}', neither installed nor in the current folder",
            attempt="package.module:factory, from the folder that holds the package",
        ) from error
    except Exception as error:
        raise SourceError(f"cannot import '{module_name}'", because=f"it raised {type(error).__name__}: {error}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            known = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
            raise SourceError(
                f"cannot find the model '{spec}'",
                because=f"'{module_name}' ({getattr(home, '__file__', 'built in')}) has no '{name}'",
                attempt=nearest(name, known),
            )
        found = getattr(found, name)
    if not callable(found):
        raise SourceError(f"cannot use '{spec}' as a model", because=f"it is a {type(found).__name__}, and cannot be called")
    return home, found


def _check_names(spec: str, factory: Callable[..., object], overrides: Mapping[str, object]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable written in C: it will complain itself
        return
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in overrides:
        if name not in parameters:
            raise DestinationError(
                f"cannot set '{name}'",
                because=f"'{spec}' takes ({', '.join(parameters)})",
                attempt=nearest(name, parameters),
            )


def _example_inputs(module: nn.Module, home: ModuleType, spec: str) -> tuple[tuple[object, ...], dict[str, object]]:
    made = getattr(module, "example_inputs", None)
    if made is None:
        made = getattr(home, "example_inputs", None)
    if callable(made):
        try:
            made = made()
        except Exception as error:
            raise SourceError(f"cannot make inputs for '{spec}'", because=f"example_inputs() raised {error!r}") from error
    match made:
        case None:
            return (), {}
        case Tensor():
            return (made,), {}
        case dict():
            return (), made
        case (tuple() | list() as args, dict() as kwargs):
            return tuple(args), kwargs
        case tuple() | list():
            return tuple(made), {}
    raise SourceError(
        f"cannot use the example inputs of '{spec}'",
        because=f"they are a {type(made).__name__}",
        attempt="a tensor, a tuple, a dict, or a tuple and a dict",
    )


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
