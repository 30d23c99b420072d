"""Functions and tensors as the text of a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from graphclone.export.source import template
from graphclone.export.source.body import Function
from graphclone.export.source.signature import Signature


@dataclass(frozen=True, eq=False)
class Class:
    """The statements that `made` the tensors of a module, and its function in each mode; `tensors`, the child's names of what it holds.
    Two of one text are equal."""

    made: tuple[str, ...]
    functions: Mapping[str, Function]
    tensors: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Class) and (self.made, dict(self.functions)) == (other.made, dict(other.functions))

    def __hash__(self) -> int:
        return hash((self.made, *self.functions))

    @property
    def alone(self) -> bool:
        """Whether one function does for every mode."""
        return len(set(self.functions.values())) == 1

    def method(self, mode: str) -> str:
        """What of it is called: the module itself, whose own mode decides, if both functions take the same arguments."""
        return "" if len({each.arguments for each in self.functions.values()}) == 1 else f"._{mode}"


def class_text(name: str, it: Class, called: Signature | None = None, untrained: str = "") -> str:
    """`called`: how the root is called, whose arguments are checked; `untrained`: why it has no train mode."""
    return "\n".join([f"class {name}(Parts):", *_indented(_members(it, called, untrained))]) + "\n"


def _members(it: Class, called: Signature | None, untrained: str) -> Iterator[str]:
    yield from ("def __init__(self):", "    super().__init__()", *_indented(it.made))
    if untrained:
        yield "    self.eval()"
    first = next(iter(it.functions.values()))
    signature = ", ".join(["self", called.text if called is not None else ", ".join(first.arguments)])
    checks = called.checks if called is not None else ()
    if it.alone:
        yield from ("", f"def forward({signature}):", *_indented([*checks, *first.lines]))
    else:
        if it.method(""):
            assert called is None, "the two modes of a child are called alike"
        else:
            passed = ", ".join(first.arguments)
            both = f"return self._train({passed}) if self.training else self._eval({passed})"
            yield from ("", f"def forward({signature}):", *_indented([*checks, both]))
        for mode, each in it.functions.items():
            yield from ("", f"def _{mode}({', '.join(['self', *each.arguments])}):", *_indented(each.lines))
    if untrained:
        yield from ("", *template.UNTRAINED.format(reason=untrained).rstrip().splitlines())


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
