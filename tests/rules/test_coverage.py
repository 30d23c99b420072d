"""Every rule of the table is executed: by a line of notation, or by torch's samples of an op of that name."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from graphclone.rules.op import RULES
from tests.rules import test_indexing, test_shape, test_spatial, test_table
from tests.rules.refuter import calls, dtypes, functions, record, samples

MODULES = (test_table, test_shape, test_indexing, test_spatial)
LINES = {case[0] for module in MODULES for value in vars(module).values() for case in getattr(value, "cases", ())}
ELSEWHERE = {
    "pin_memory": "it needs an accelerator",
    "split": "capture writes the sizes of the pieces",
    "chunk": "capture writes the sizes of the pieces",
    "_grouped_mm": "its samples need an accelerator; test_dispatch runs its twin",
    "remainder.Scalar": "test_dispatch runs it; its samples divide by tensors",
    "unsafe_split": "capture writes the sizes of the pieces",
    "unsafe_chunk": "capture writes the sizes of the pieces",
    "where.default": "it is opaque, whatever it is given",
    "sym_size": "torch.export alone calls it, for open sizes: test_dynamic",
    "copy": "capture writes it as expand_as",
    "dropout_": "graphs are functional once they are captured",
    "copy_": "capture writes it, where a model writes a buffer: tests/export",
}


def _exists(name: str) -> bool:
    return name != "pointwise" and hasattr(torch.ops.aten, name.split(".")[0])


def _sampled(name: str) -> bool:
    """Whether samples of an op of this name call the ATen op of this name."""
    short = name.split(".")[0]
    for op in op_db:
        spellings = {op.name, op.aten_name, *(alias.name for alias in op.aliases)}
        if short not in spellings | {each.rpartition(".")[2] for each in spellings}:
            continue
        for dtype in dtypes(op):
            for function in functions(op):
                for sample in samples(op, dtype, 4):
                    try:
                        graph = record(lambda f=function, s=sample: f(s.input, *s.args, **s.kwargs))
                    except Exception:
                        continue
                    if any(getattr(node.target, "__name__", "").startswith(f"{name}.") for node in calls(graph)):
                        return True
    return False


@pytest.mark.parametrize("name", [name for name in RULES if _exists(name) and name not in LINES and name not in ELSEWHERE])
def test_samples_reach_each_rule_that_no_line_states(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _sampled(name)


def test_every_line_is_about_a_rule_that_there_is() -> None:
    assert set(LINES) <= set(RULES)
