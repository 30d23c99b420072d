"""Example inputs as data: what comes back, and what is not written down or read."""

from __future__ import annotations

import collections
import json
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from graphclone.errors import PlanError
from graphclone.inputs import describe, example


def test_tuples_lists_and_dicts_come_back() -> None:
    args: tuple[Any, ...] = (torch.arange(6).view(2, 3), [torch.randn(2), None], {"a": (torch.ones(1, dtype=torch.bool), 3)})
    again, kwargs = example(json.loads(json.dumps(describe(args, {"mask": torch.zeros(2, 2)}))))
    assert torch.equal(again[0], args[0])
    assert pytree.tree_structure(again) == pytree.tree_structure(args)
    assert kwargs["mask"].shape == (2, 2)


def test_what_torch_would_import_to_read_it_is_not_written() -> None:
    assert describe((collections.defaultdict(list, {"a": torch.ones(1)}),), {}) == {}


@pytest.mark.parametrize("structure", ["", "[1]", "{", '[1, {"type": "os.path", "context": null, "children_spec": []}]'])
def test_another_structure_is_refused(structure: str) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        example({"leaves": [], "structure": structure})
