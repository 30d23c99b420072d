"""The zoo's models, each built, captured and analysed once per run."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from torch import nn

import graphclone as gc
from graphclone.recipe import DEFAULT
from graphclone.subclone import Report
from models_zoo import tiny


@dataclass(frozen=True)
class Subject:
    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    trace: gc.Trace
    layout: gc.Layout

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.args, self.kwargs


@functools.cache
def subject(name: str) -> Subject:
    entry = tiny.get(name)
    model, (args, kwargs) = entry.build(), entry.inputs()
    trace = gc.capture(model, args, kwargs)
    return Subject(name, model, args, kwargs, trace, gc.analyze(trace))


@functools.cache
def clone(name: str, recipe: str = DEFAULT) -> tuple[nn.Module, Report]:
    """The zoo's own smaller destination, filled from the parent."""
    parent = subject(name)
    data = [parent.kwargs or parent.args]
    return gc.subclone(parent.model, tiny.get(name).smaller, parent.args, parent.kwargs, data=data, recipe=recipe)


def selected(name: str) -> tuple[nn.Module, Report]:
    """The same by selection alone, so that its plan needs nothing but the parent."""
    return clone(name, "paper")
