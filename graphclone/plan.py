"""Plan: what the child is, as data. It needs no weights and no model; it prints, saves, loads and compares."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from graphclone import axes as algebra
from graphclone.errors import PlanError

FORMAT = 1
Literal = bool | int | float | str | None


@dataclass(frozen=True)
class Piece:
    """How one tensor of the child is made of one tensor of the parent.

    - `source`: the parent's tensor;
    - `axes`: what each of its dims is built of, in the notation of `graphclone.axes`, over the names of the plan's factors;
    - `scale`: what the selected values are multiplied by;
    - `take`: dim → positions to take there instead, for dims that hold whole blocks.
    """

    source: str
    axes: tuple[str, ...]
    scale: float = 1.0
    take: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a child is made of.

    - `sizes`: the parent's size of every factor that the notation names;
    - `keep`: factor → the positions that the child keeps, in their new order (a factor that is not here stays whole);
    - `stacks`: stack → for each block of the child, the index of the parent's block that it comes from (all stacks of the parent);
    - `streams`: stack → what the units of its stream are built of, in the notation of `graphclone.axes`;
    - `tensors`: the child's tensors, by the child's names;
    - `aliases`: further names of the child's tensors (ties);
    - `literals`: arguments in the graph that a destination has otherwise, such as numbers that it computes from its own sizes:
      node → argument → value;
    - `fitted`: tensors of the child whose values are computed from data, and no selection of the parent's (see `graphclone.recipe`);
    - `rotated`: residual streams, and insides of heads, whose units are no selection of the parent's but its first principal axes;
    - `inputs`: the example inputs that the parent was traced with (see `graphclone.inputs`), so that it can be traced again;
    - `remarks`: what a reader should know.
    """

    sizes: Mapping[str, int]
    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stacks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    streams: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Piece] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    literals: Mapping[str, Mapping[str, Literal]] = field(default_factory=dict)
    fitted: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def size(self, factor: str) -> int:
        """The child's size of a factor."""
        return len(self.keep[factor]) if factor in self.keep else self.sizes[factor]

    def selection(self) -> Callable[[str], tuple[int, Sequence[int]]]:
        """A function from an axis in the notation to its size in the parent, and which of its positions the child has."""
        factors = {name: algebra.Factor(size, name) for name, size in self.sizes.items()}
        keep = {factors[name]: kept for name, kept in self.keep.items()}

        @functools.cache
        def read(text: str) -> tuple[int, Sequence[int]]:
            axis = algebra.parse(text, lambda name: factors[name] if name in factors else algebra.factor(int(name)))
            return axis.size, algebra.select(axis, keep)

        return read

    def remark(self, text: str) -> Plan:
        return self if text in self.remarks else replace(self, remarks=(*self.remarks, text))

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(self.dumps())

    def dumps(self) -> str:
        return json.dumps({"graphclone_plan": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan. **Raises** `PlanError` that says what is wrong with the file."""
        try:
            return cls.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"cannot read the plan {path}", because=str(error)) from error
        except PlanError as error:
            raise PlanError(f"{path} is not a plan", because=str(error)) from error

    @classmethod
    def loads(cls, text: str) -> Plan:
        from pydantic import TypeAdapter, ValidationError

        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise PlanError(f"it holds a {type(data).__name__}, not an object")
            version = data.pop("graphclone_plan", None)
            if version != FORMAT:
                raise PlanError(f"its format is {version!r}, this graphclone reads {FORMAT}")
            return TypeAdapter(cls).validate_python(data, strict=False)
        except (ValueError, ValidationError) as error:
            raise PlanError(str(error)) from error

    def __str__(self) -> str:
        lines = [f"{name}: blocks {', '.join(map(str, blocks))}" for name, blocks in self.stacks.items()]
        lines += [f"{name}: {self.sizes[name]} → {len(kept)}" for name, kept in self.keep.items()]
        lines += [f"{len(self.tensors)} tensors, {sum(p.scale != 1 for p in self.tensors.values())} of them scaled"]
        lines += [f"{len(self.fitted)} tensors computed from data"] * bool(self.fitted)
        return "\n".join([*lines, *(f"note: {remark}" for remark in self.remarks)])
