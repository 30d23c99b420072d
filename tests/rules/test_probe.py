"""Ops that nobody wrote a rule for: what merely moves elements is found out by running it; the rest is frozen."""

from __future__ import annotations

import re

import pytest
import torch

from graphclone.rules import equation
from graphclone.rules.op import RULES, rule_for
from tests.rules.notation import check, run, terms

LIBRARY = torch.library.Library("probed", "DEF")  # the ops of a user; they live as long as this does


def op(schema: str, body: object) -> object:
    LIBRARY.define(schema)
    name = schema.partition("(")[0]
    LIBRARY.impl(name, body, "CompositeExplicitAutograd")
    return getattr(torch.ops.probed, name)


swap = op("swap(Tensor x) -> Tensor", lambda x: x.transpose(0, 1).contiguous())
half_turned = op("half_turned(Tensor x) -> Tensor", lambda x: torch.cat([x[..., 1:], x[..., :1]], -1))
skewed = op("skewed(Tensor x) -> Tensor", lambda x: torch.stack([row.roll(i, 0) for i, row in enumerate(x)]))
beside = op("beside(Tensor x, Tensor y) -> Tensor", lambda x, y: torch.cat([x, y], 0))
both = op("both(Tensor x) -> (Tensor, Tensor)", lambda x: (x.clone(), x.flip(0)))
ranked = op("ranked(Tensor x) -> Tensor", lambda x: x.sort(-1)[0])
doubled = op("doubled(Tensor x) -> Tensor", lambda x: 2 * x)
first_five = op("first_five(Tensor x, int n) -> Tensor", lambda x, n: x[:, :n].contiguous())
wrong_when_small = op("wrong_when_small(Tensor x) -> Tensor", lambda x: x.clone() if x.shape[0] > 3 else x.flip(0))
plus = op("plus(Tensor x, Tensor y) -> Tensor", lambda x, y: x @ y)

test_moves_are_read_off = check(
    [
        ("swap", "a b c -> b a c", swap),
        ("half turned", "a b [c] -> a b [d] | c=7 d=7", half_turned),
        ("skewed", "[a] [b] c -> [x] [y] c | a=3 x=3 b=5 y=5", lambda x: skewed(x)),
        ("beside", "[a] b, [c] b -> [d] b | a=3 c=4 d=7", beside),
        ("both", "[a] b -> [a] b, [c] b | a=3 c=3", both),
    ]
)

test_whatever_does_more_is_frozen = check(
    [
        ("ranked", "[a] [b] -> [c] [d] | a=3 c=3 b=5 d=5", ranked),
        ("doubled", "[a] [b] -> [c] [d] | a=3 c=3 b=5 d=5", doubled),
        ("a size as a number", "a [b] -> a [c] | b=7 c=5", lambda x: first_five(x, 5)),
        ("another thing when it is small", "[a] b -> [c] b | a=5 c=5", wrong_when_small),
    ]
)


def test_a_user_writes_a_rule_for_an_op_of_theirs_in_a_line() -> None:
    assert rule_for(plus.default) is None
    try:
        equation("probed::plus", "n k, k m -> n m")
        said, found, _ = run("plus", "n k, k m -> n m", plus)
        assert said == found
    finally:
        del RULES["probed::plus"]
        rule_for.cache_clear()


@pytest.mark.parametrize(
    "line",
    [
        ("permute", "a b c -> c a b", lambda x: torch.ops.aten.permute(x, [2, 0, 1])),
        ("pixel_shuffle", "b ([c] [r]) [h] [w] -> b [d] [y] [x] | c=2 r=4", lambda x: torch.ops.aten.pixel_shuffle(x, 2)),
        ("unfold", "a [b] -> a [n] [w]", lambda x: torch.ops.aten.unfold(x, 1, 2, 1)),
        ("select", "a [b] c -> a c", lambda x: torch.ops.aten.select(x, 1, 1)),
        ("flip", "a [b] -> a [b]", lambda x: torch.ops.aten.flip(x, [1])),
        ("expand", "a 1 -> a [n] | n=3", lambda x: torch.ops.aten.expand(x, [-1, 3])),
    ],
    ids=lambda line: line[0],
)
def test_the_probe_agrees_with_rules_written_by_hand(line: tuple[str, str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the probe leaves an input axis free, so does the rule."""
    name, text, call = line
    said, written, _ = run(name, text, call)
    del said
    monkeypatch.setitem(RULES, name, RULES["otherwise"])
    rule_for.cache_clear()
    try:
        _, probed, _ = run("probed", text, call)
    finally:
        monkeypatch.undo()
        rule_for.cache_clear()
    ours, theirs = ([_free(term) for term in terms(each.partition(" -> ")[0])] for each in (written, probed))
    assert len(ours) == len(theirs)
    assert any(theirs) or name in ("pixel_shuffle", "unfold")  # else nothing is compared
    assert all(rule or not found for rule, found in zip(ours, theirs, strict=True))


def _free(term: str) -> bool:
    """Whether a dim has a factor outside of brackets."""
    return bool(re.search(r"[a-z]", re.sub(r"\[[^\]]*\]", "", term)))
