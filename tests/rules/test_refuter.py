"""No sample of torch's own refutes a rule, and a wrong rule would be refuted.

`known_failures.json` lists {op: reason} what cannot be mended. It may only shrink.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from graphclone import axes as algebra
from graphclone.axes import UNIT, product
from graphclone.rules import Op, Typed, elementwise, identity, mixing, rule_for
from graphclone.rules import op as registry
from graphclone.rules.table import apply_equation, read_equation
from tests.rules.refuter import bare, calls, record, refute, title, trials, typed

KNOWN = json.loads((Path(__file__).parent / "known_failures.json").read_text())
OPS = {title(op): op for op in op_db}


@pytest.mark.parametrize("name", OPS)
def test_no_sample_refutes_the_rules(name: str) -> None:
    wrong, _ = trials(OPS[name])
    if name in KNOWN:
        assert wrong, f"{name} passes now: take it off known_failures.json"
    else:
        assert not wrong, "\n".join(wrong[:6])


def test_known_failures_are_ops_with_a_reason() -> None:
    assert set(KNOWN) <= set(OPS)
    assert all(KNOWN.values())
    assert len(OPS) == len(op_db)


# -- the refuter can fail: each of these rules is wrong, and found out ----------------------------------------------


def _as_it_is(op: Op) -> Any:
    return op.axes(op.first)


def _twice(op: Op) -> Any:
    return [_as_it_is(op)] * 2


def _mm_of_two_axes(op: Op) -> Any:
    return apply_equation(op, ("self", "mat2"), *read_equation("n a, b m -> n m"))


def _linear_that_keeps_the_bias_apart(op: Op) -> Any:
    op.shape_only("bias")
    return apply_equation(op, ("input", "weight"), *read_equation("... i, o i -> ... o"))


def _embedding_without_domain(op: Op) -> Any:
    v, d = op.axes("weight")
    op.contract(v)
    return (*op.axes("indices"), d)


def _cat_without_segments(op: Op) -> Any:
    op.reads("tensors")
    axes, dim = op.lists("tensors")[0], op.dim("dim", 9) if op["dim"] >= 0 else op["dim"]
    fresh = algebra.factor(op.shape()[dim])
    return tuple(fresh if index == dim % len(axes) else axis for index, axis in enumerate(axes))


def _gather_from_anywhere(op: Op) -> Any:
    for axis in op.axes("self"):
        op.contract(axis)
    return op.axes("index")


def _mean_as_a_sum(op: Op) -> Any:
    return registry.RULES["sum"](op)


def _view_in_digits_of_its_own(op: Op) -> Any:
    op.reads("self")
    axes = tuple(algebra.factor(size) for size in op.shape())
    op.sizes("size" if "size" in op.args else "shape", axes)
    return axes


def _copies_inside(op: Op) -> Any:
    op.reads("self")
    copies = [algebra.factor(n) for n in op["repeats"]]
    op.sizes("repeats", copies)
    axes = (UNIT,) * (len(copies) - len(op.axes("self"))) + op.axes("self")
    return tuple(product(axis, copy) for axis, copy in zip(axes, copies, strict=True))


def _free_classes(op: Op) -> Any:
    op.reads("self")
    return (*op.axes("self"), algebra.factor(op.shape()[-1]))


def _writes_in_any_order(op: Op) -> Any:
    for axis in op.axes("src"):
        op.contract(axis)
    op.index("index", op.axes("self")[op.dim("dim", 9)] if op.axes("self") else UNIT)
    for axis in op.axes("index"):
        op.contract(axis)
    return op.axes("self")


def _best_in_any_order(op: Op) -> Any:
    op.reads("self")
    values, positions = (each for each in _RIGHT["topk"](op))
    fresh = tuple(algebra.factor(axis.size) for axis in values.axes)
    return [Typed(fresh), Typed(fresh, positions.domain)]


def _attention_that_is_never_causal(op: Op) -> Any:
    op.args["is_causal"] = False
    return _RIGHT["scaled_dot_product_attention"](op)


def _convolution_in_one_group(op: Op) -> Any:
    op.args["groups"] = 1
    for axis in op.axes("weight"):
        op.contract(axis)
    return (*op.axes("input")[:-3], op.axes("weight")[0], *(op.positional(n) for n in op.shape()[-2:]))


def _norm_of_each_unit(op: Op) -> Any:
    op.sizes("normalized_shape", op.axes("input")[-len(op["normalized_shape"]) :])
    return _RIGHT["pointwise"](op)


def _size_left_as_it_was(op: Op) -> Any:
    op.reads("self")
    return tuple(algebra.factor(n) for n in op.shape())


_RIGHT = dict(registry.RULES)
_WRONG = {
    "an order does not matter to cumsum": ("cumsum", "cumsum", _as_it_is),
    "an order does not matter to flip": ("flip", "flip", _as_it_is),
    "an order does not matter to roll": ("roll", "roll", _as_it_is),
    "an order does not matter to tril": ("tril", "tril", _as_it_is),
    "an order does not matter to sort": ("sort", "sort", _twice),
    "mm sums over two axes": ("mm", "mm", _mm_of_two_axes),
    "a bias has an axis of its own": ("nn.functional.linear", "linear", _linear_that_keeps_the_bias_apart),
    "embedding reads any row": ("nn.functional.embedding", "embedding", _embedding_without_domain),
    "cat forgets where its segments lie": ("cat", "cat", _cat_without_segments),
    "softmax is elementwise": ("softmax", "softmax", _as_it_is),
    "layer_norm is elementwise": ("nn.functional.layer_norm", "layer_norm", _norm_of_each_unit),
    "gather reads any position": ("gather", "gather", _gather_from_anywhere),
    "a mean only adds up": ("mean", "mean", _mean_as_a_sum),
    "a view has new digits": ("reshape", "reshape", _view_in_digits_of_its_own),
    "repeat puts copies side by side": ("repeat", "repeat", _copies_inside),
    "one_hot has any classes": ("nn.functional.one_hot", "one_hot", _free_classes),
    "two writes to one place may change places": ("scatter", "scatter", _writes_in_any_order),
    "topk gives its best in any order": ("topk", "topk", _best_in_any_order),
    "is_causal means nothing": (
        "nn.functional.scaled_dot_product_attention",
        "scaled_dot_product_attention",
        _attention_that_is_never_causal,
    ),
    "a convolution has one group": ("nn.functional.conv2d", "conv2d", _convolution_in_one_group),
    "expand does not say its size": ("expand", "expand", _size_left_as_it_was),
}


def _forget() -> None:
    for cached in (rule_for, elementwise, identity, mixing):
        cached.cache_clear()


@pytest.fixture
def forget() -> Iterator[None]:
    yield
    _forget()


@pytest.mark.parametrize("claim", _WRONG)
@pytest.mark.usefixtures("forget")
def test_a_wrong_rule_is_refuted(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, op, wrong = _WRONG[claim]
    monkeypatch.setitem(registry.RULES, op, wrong)
    _forget()
    found, _ = trials(OPS[name])
    assert any(op in each and "a rule raises" not in each for each in found)


@pytest.mark.usefixtures("forget")
def test_an_op_that_forgets_an_operand_is_safe_in_the_closed_world(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(5, 3), torch.randn(7, 3)
    monkeypatch.setitem(registry.RULES, "linear", lambda op: (op.axes("input")[0], op.axes("weight")[0]))
    _forget()
    graph = record(lambda: torch.nn.functional.linear(x, w), [x, w])
    facts = typed(graph, bare)
    assert algebra.show(facts.types[calls(graph)[0]].axes[0]) == "5"
    assert [algebra.show(facts.types[node].axes[1]) for node in graph.nodes if node.op == "placeholder"] == ["[3]", "[3]"]
    assert refute(graph, facts) == []
