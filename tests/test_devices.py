"""A parent on another device: whatever meets its tensors is made where they are. Pretended, since the machines that run this have one
device: tensors are marked as elsewhere, marks are handed on, and what was made without a device may not meet what is marked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import graphclone as gc
from graphclone import sources
from graphclone.calibration import Calibration
from graphclone.demo.task import TASKS
from graphclone.destination import plan_for
from graphclone.execute import fill
from graphclone.recipe import PAPER, Recipe, begin

_CROSS = {"aten::copy_", "aten::_local_scalar_dense"}  # may go from one device to another
_INDEXED = {"aten::index", "aten::index_put_"}  # positions may lie on the CPU


class Marks:
    """Which storages are elsewhere; they are kept alive, so that none is taken for another."""

    def __init__(self) -> None:
        self.storages: dict[int, UntypedStorage] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def put(self, values: Any, elsewhere: bool = True) -> None:
        for each in _tensors(values):
            storage = each.untyped_storage()
            if elsewhere:
                self.storages[storage._cdata] = storage
            else:
                self.storages.pop(storage._cdata, None)


class _Calls(TorchFunctionMode):
    """What a call says of devices, which is gone once torch has filled in the default."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        if name in ("cpu", "to"):
            like = [each for each in args[1:] if isinstance(each, Tensor)]
            devices = [each for each in (*args[1:], kwargs.get("device")) if isinstance(each, torch.device)]
            if name == "cpu" or like or devices:
                result = result.clone() if result is args[0] else result
                self.marks.put(result, elsewhere=name == "to" and (bool(devices) or like[0] in self.marks))
        elif kwargs.get("device") is not None:
            self.marks.put(result)
        return result


class _Ops(TorchDispatchMode):
    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks
        self.met: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result, given = func(*args, **(kwargs or {})), _tensors((args, kwargs))
        name = func._schema.name
        sides = {each in self.marks for each in given if each.dim()}
        if len(sides) == 2 and name not in _CROSS and not (name in _INDEXED and given[0] in self.marks):
            self.met.add(name)
        if name != "aten::copy_" and any(each in self.marks for each in given):
            self.marks.put(result)
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(values) if isinstance(each, Tensor)]


@contextmanager
def elsewhere(*values: Any) -> Iterator[set[str]]:
    """Pretend that these are on another device; the ops at which they meet what is not."""
    marks = Marks()
    marks.put(values)
    with _Calls(marks), _Ops(marks) as ops:
        yield ops.met


@pytest.mark.parametrize("recipe", [PAPER, Recipe(), replace(PAPER, match=True)], ids=["paper", "full", "matched"])
def test_a_child_is_begun_where_its_parent_is(recipe: Recipe) -> None:
    task = TASKS["vision"]
    parent, data = sources.load(str(task.parent)), task.data(1)
    batches = [{"pixel_values": each.inputs["pixel_values"][:8]} for each in itertools.islice(data.train(0), 2)]
    layout = gc.analyze(gc.capture(parent.module, kwargs=batches[0]))
    child = sources.destination(parent, task.child)
    goal = gc.analyze(gc.capture(child, kwargs=batches[0]), like=layout.blocks)
    calibration = Calibration.of(parent.module, batches, layout)
    with elsewhere(dict(layout.trace.state), dict(child.state_dict(keep_vars=True)), batches) as met:
        begun = begin(layout, calibration, recipe, lambda ours, found: plan_for(ours, goal, found, True))
        fill(begun.plan, layout.trace.state.__getitem__, child, begun.fitted)
    assert not met


def test_the_pretence_notices() -> None:
    there = torch.ones(3)
    with elsewhere(there) as met:
        assert not met
        there + torch.ones(3, device=there.device)
        there[torch.tensor([0, 2])]
        torch.ones(3).add_(there.cpu())
        assert not met
        there * 2 + torch.ones(3)
    assert met == {"aten::add"}
