"""One line of notation is one test of a rule, and it is executed.

    ("linear", "b s i, o i, o -> b s o")
    ("cumsum", "a [b] -> a [b]", dict(dim=1))
    ("view", "(h d) -> h d", lambda x, n: x.view(n.h, n.d))

On the left stands what the rule has to find out about the operands, dim by dim, when each dim comes in as a factor of its own; on the
right what the results are made of. Letters are sizes (distinct primes, unless `| k=2` says another), `[c]` is frozen, `@v` are integers
that are positions on v, `@?v` integers below v of unknown meaning, `@bool` truth values. The op gets the operands and, if it is a
function, the sizes. A name that is no op's is the title of a program.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphclone import axes as algebra
from graphclone.axes import Axis, Factor
from graphclone.rules import Facts, Typed, rule_for
from graphclone.rules.op import RULES
from tests.rules.refuter import Rich, Shared, calls, known, record, refute, tied, typed

PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
_LETTER = re.compile(r"[a-z]\w*")


def terms(text: str) -> list[str]:
    """`b (h d) [c]` → its terms: the spaces outside of parentheses part them."""
    found, depth = [""], 0
    for letter in text.strip():
        depth += (letter in "([") - (letter in ")]")
        if letter == " " and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [term for term in found if term]


class Line:
    """`a (h d), n@a -> n (h d)` with sizes for its letters."""

    def __init__(self, text: str) -> None:
        text, _, given = text.partition("|")
        left, _, right = text.partition("->")
        self.operands, self.results = ([part.strip() for part in side.split(",")] for side in (left, right))
        letters = dict.fromkeys(word for word in _LETTER.findall(text) if word != "bool")
        sizes = dict(zip(letters, PRIMES, strict=False)) | {name: int(size) for name, size in re.findall(r"(\w+)=(\d+)", given)}
        self.factors: dict[str, Axis] = {name: Factor(size, name) for name, size in sizes.items()}
        self.sizes = SimpleNamespace(**{name: each.size for name, each in self.factors.items()})

    def size(self, term: str) -> int:
        return algebra.parse(term, self.factors.__getitem__).size

    def tensor(self, operand: str) -> Tensor:
        dims, _, domain = operand.partition("@")
        shape = [self.size(term) for term in terms(dims)]
        if domain == "bool":
            return torch.rand(shape) > 0.5
        return torch.randint(self.size(domain.removeprefix("?")), shape) if domain else torch.randn(shape)

    def typed(self, operand: str) -> Typed:
        dims, _, domain = operand.partition("@")
        axes = tuple(algebra.factor(self.size(term)) for term in terms(dims))
        positions = domain and domain != "bool" and not domain.startswith("?")
        return Typed(axes, algebra.factor(self.size(domain)) if positions else None)

    def __str__(self) -> str:
        """The line with its letters in order of appearance: two lines say the same when they print alike."""
        parts = (", ".join(map(_spaced, side)) for side in (self.operands, self.results))
        return _renamed(" -> ".join(parts))


def _spaced(operand: str) -> str:
    dims, _, domain = operand.partition("@")
    known_domain = domain and domain != "bool" and not domain.startswith("?")
    return " ".join(terms(dims)) + (f" @ {domain}" if known_domain else "")


def _renamed(text: str) -> str:
    order = {word: f"x{index}" for index, word in enumerate(dict.fromkeys(_LETTER.findall(text)))}
    return _LETTER.sub(lambda match: order[match[0]], text)


def _shown(typed: Any) -> str:
    def show(axis: Axis) -> str:
        return algebra.show(axis, lambda factor: f"f{factor.birth}")

    return ", ".join(
        " ".join(map(show, each.axes)) + (f" @ {show(each.domain)}" if each.domain is not None else "") for each in known(typed)
    )


Call = Callable[..., Any] | dict[str, Any]


def run(name: str, text: str, call: Call | None = None) -> tuple[str, str, Facts]:
    """What the line says and what the rules say, both with letters renamed."""
    torch.manual_seed(0)
    line = Line(text)
    operands = [line.tensor(operand) for operand in line.operands if operand]
    if callable(call):
        parameters = inspect.signature(call).parameters
        graph = record(lambda: call(*operands, **({"n": line.sizes} if "n" in parameters else {})), operands)
    else:
        op = getattr(torch.ops.aten, name.split(".")[0])
        graph = record(lambda: op(*operands, **(call or {})), operands)
    given = iter([line.typed(operand) for operand in line.operands if operand])
    facts = typed(graph, lambda _: next(given))
    rules = [rule_for(node.target) for node in calls(graph)]
    assert name not in RULES or name == "pointwise" or RULES[name] in rules, f"{name} was not called"
    assert not tied(graph)
    for each in (facts, *(typed(graph, reading) for reading in (Shared(), Rich(0), Rich(1), Rich(2)))):
        assert not refute(graph, each, seeds=2)
    inputs = ", ".join(_shown(facts.types[node]) for node in graph.nodes if node.op == "placeholder")
    result = _shown(facts.types[[node for node in calls(graph) if isinstance(node.target, torch._ops.OpOverload)][-1]])
    return str(line), _renamed(f"{inputs} -> {result}"), facts


Case = tuple[str, str] | tuple[str, str, Call]


def check(cases: Sequence[Case]) -> Any:
    """A test for each of the lines."""

    @pytest.mark.parametrize("case", cases, ids=lambda case: f"{case[0]}: {case[1]}")
    def test(case: Case) -> None:
        expected, found, _ = run(*case)
        assert found == expected

    test.cases = cases  # type: ignore[attr-defined]
    return test
