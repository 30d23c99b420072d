"""What is alike in every block of a stack is one row: `layers.*.mlp.hidden`, 56, ×4. Such a name is a pattern that `--width` takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphclone.axes import Factor
from graphclone.layout import Layout


@dataclass(frozen=True)
class Alike:
    """Things that are the same in several blocks, under the pattern that their names have in common."""

    name: str
    members: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def times(self) -> str:
        return f"×{len(self)}" if len(self) > 1 else ""


def pattern(names: Sequence[str]) -> str:
    """`layers.*.mlp` of `layers.0.mlp` and `layers.1.mlp`; names of different lengths are told apart by their first one."""
    split = [name.split(".") for name in names]
    if len({len(parts) for parts in split}) > 1:
        return f"{names[0]} … {names[-1]}"
    return ".".join(parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*split, strict=True))


def block_patterns(layout: Layout) -> dict[str, str]:
    """Tensor → its name with the block's own part as `*`. Parameters are told by their place in the block, whatever they are called."""
    found: dict[str, str] = {}
    for stack in layout.blocks:
        for uses in zip(*(block.uses for block in stack.blocks), strict=False):
            names = [name for *_, name in uses]
            if len(set(names)) == len(names) > 1:
                found.update(dict.fromkeys(names, pattern(names)))
    inside = [(f"{block.name}.", f"{_folded(block.name)}.") for stack in layout.blocks for block in stack.blocks]
    for name in layout.parameters:
        for prefix, replaced in inside:
            if name not in found and name.startswith(prefix):
                found[name] = replaced + name[len(prefix) :]
    return found


def _folded(name: str) -> str:
    return ".".join([*name.split(".")[:-1], "*"])


def alike(layout: Layout, factors: Iterable[Factor]) -> list[Alike]:
    """Factors that have the same size, kind, state and places in every block, together."""
    patterns = block_patterns(layout)
    groups: dict[object, list[Factor]] = {}
    for factor in factors:
        places = tuple(sorted({(patterns.get(name, name), dim) for name, dim in factor.slots}))
        key = (factor.kind, factor.size, str(factor.frozen), places or factor.name)
        groups.setdefault(key, []).append(factor)
    return [Alike(pattern([factor.name for factor in group]), tuple(group)) for group in groups.values()]


def each(layout: Layout, factors: Iterable[Factor]) -> list[Alike]:
    """The same with one row per factor."""
    return [Alike(factor.name, (factor,)) for factor in factors]
