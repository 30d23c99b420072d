"""The axes that an ONNX file leaves open: asked of torch.export, named for a reader, and tried at other sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram

from graphclone.decided import deciding
from graphclone.dynamic import Open, left_open, resized
from graphclone.eased import eased
from graphclone.export.onnx.plain import Plain
from graphclone.export.onnx.refusing import assertions

Dims = tuple[dict[int, str], ...]

_TOLD = "the file refuses inputs whose values decide another computation than the example's"


def batch_and_sequence(plain: Plain) -> Dims:
    """Dim 0 of every input, and dim 1 of tokens, waveforms and spectrograms; the channels of an image are no sequence."""
    return tuple(
        {dim: name for dim, name in enumerate(("batch", "sequence")) if dim < tensor.dim() and (dim == 0 or tensor.dim() < 4)}
        for tensor in plain.inputs
    )


def batch_only(plain: Plain) -> Dims:
    return tuple({0: "batch"} if tensor.dim() else {} for tensor in plain.inputs)


def nothing(plain: Plain) -> Dims:
    return tuple({} for _ in plain.inputs)


@dataclass(frozen=True)
class Opened:
    """A program whose inputs have open axes.

    **Attributes**: `found`, what torch left open of what it was asked for (None: nothing); `names`, torch's symbol → the axis's name;
    `fixed`, in words, what the model does not leave open, and why; `trials`, inputs to try the file on.
    """

    program: ExportedProgram
    found: Open | None
    names: dict[str, str]
    fixed: tuple[str, ...]
    trials: tuple[tuple[Tensor, ...], ...]

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(self.names.values()))

    def single(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Inputs with a batch of one, which torch takes for a special case; None where the batch is not open."""
        if self.found is None:
            return None
        ones = {symbol: 1 for symbol in self.found.sizes if "batch" in self.names[str(symbol)]}
        return resized(replace(self.found, sizes={**self.found.sizes, **ones}), inputs) if ones else None


def _trials(program: ExportedProgram, found: Open | None, inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Three sets: the example, a larger one and one of other sizes; of other values where nothing is open."""
    yield inputs
    if found is not None:
        yield resized(replace(found, sizes=found.other), inputs)
        yield resized(replace(found, sizes=_smaller(found)), inputs)
        return
    module = program.module()
    for seed in (1, 2):
        yield next((each for each in _shuffled(inputs, seed) if _takes(module, each)), inputs)


def _takes(module: Any, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the program runs on these inputs: it refuses those whose values decide another computation than the example's."""
    try:
        module(*(each.clone() for each in inputs))
    except Exception:  # whatever a model raises
        return False
    return True


def _smaller(found: Open) -> dict[Any, int]:
    """Each open size less by one, or else more by one, where the model allows it; what was equal stays equal."""
    sizes = dict(found.sizes)
    for old in sorted(set(sizes.values())):
        for new in (old - 1, old // 2, old + 1, 2 * old):
            trial = {symbol: new if found.sizes[symbol] == old else size for symbol, size in sizes.items()}
            if new > 1 and found.allows(trial):
                sizes = trial
                break
    return sizes


def _shuffled(inputs: tuple[Tensor, ...], seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of the same shape: other examples first, and real values in another order along the last dim. Then whole numbers as they
    are: a graph may refuse others, in which they decide what is computed (the height of an image)."""
    generator = torch.Generator().manual_seed(seed)
    made = [each.roll(seed, 0) if each.dim() else each for each in inputs]
    real = [
        each[..., torch.randperm(each.shape[-1], generator=generator)] if each.dim() and each.is_floating_point() else each
        for each in made
    ]
    yield tuple(real)
    yield tuple(each if each.is_floating_point() else given for each, given in zip(real, inputs, strict=True))


def opened(plain: Plain, dims: Dims) -> Opened:
    """The program with as many of these dims open as the model allows."""
    asked = tuple(dict.fromkeys(open_, Dim.AUTO) for open_ in dims)
    try:
        program = _exported(plain, {"tensors": asked} if any(dims) else None)
    except Exception:  # values that decide sizes, for one: as in the example then, and the file asserts it
        if any(dims):
            raise
        with deciding(plain, plain.inputs, {}):
            program = _exported(plain, None)
    every = [node for node in program.graph.nodes if node.op == "placeholder"]
    places = every[len(every) - len(plain.inputs) :]  # parameters come first
    found = left_open(dict(zip(plain.names, (node.meta.get("val") for node in places), strict=True)), program)
    names = _names(found, plain, dims) if found else {}
    told = [_TOLD] if assertions(program.graph) else []
    fixed = (*told, *_fixed(program, plain, dims, found))
    return Opened(program, found, names, fixed, tuple(_trials(program, found, plain.inputs)))


def _exported(plain: Plain, shapes: Any) -> ExportedProgram:
    with eased(plain, []):
        return torch.export.export(plain, tuple(each.clone() for each in plain.inputs), dynamic_shapes=shapes, strict=False)


def _names(found: Open, plain: Plain, dims: Dims) -> dict[str, str]:
    """A name for each symbol. Sizes that are equal in the example, of the same kind of input, have one: the model may broadcast them."""
    names: dict[str, str] = {}
    kinds: dict[tuple[object, ...], str] = {}
    sizes = [
        (size, dim, name, tensor, open_)
        for name, tensor, shape, open_ in zip(plain.names, plain.inputs, found.shapes, dims, strict=True)
        for dim, size in enumerate(shape or ())
        if not isinstance(size, int)
    ]
    for size, dim, name, tensor, open_ in sorted(sizes, key=lambda each: not each[0].is_Symbol):
        for symbol in sorted(size.free_symbols, key=str):
            axis = open_.get(dim, f"{name}_{dim}")
            kind = (axis, tensor.shape[dim], tensor.is_floating_point())
            if str(symbol) not in names:
                stem = re.sub(r"_?(input_)?(ids|values|features)$", "", name) or name
                kinds.setdefault(kind, f"{stem}_{axis}" if axis in kinds.values() else axis)
                names[str(symbol)] = kinds[kind]
    return names


def _fixed(program: ExportedProgram, plain: Plain, dims: Dims, found: Open | None) -> Iterator[str]:
    shapes = found.shapes if found else [tuple(each.shape) for each in plain.inputs]
    for index, (name, shape, open_) in enumerate(zip(plain.names, shapes, dims, strict=True)):
        for dim in open_:
            if shape is not None and isinstance(shape[dim], int):
                yield f"{name}[{dim}] stays {shape[dim]}{_why(program, index, dim)}"


def _why(program: ExportedProgram, index: int, dim: int) -> str:
    """The place in the model that needs this size, from the guard that fixed it."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    environment = next((value.fake_mode.shape_env for value in values if isinstance(value, FakeTensor)), None)
    symbol = getattr(environment, "source_to_var", {}).get(f"L['tensors'][{index}].size()[{dim}]")
    if environment is None or symbol is None:
        return ""
    for guard in environment.guards:
        symbols = guard.expr.free_symbols
        alike = any(each == symbol or environment.replace(each) == environment.replace(symbol) for each in symbols)
        if alike and len(symbols) == 1 and guard.expr.is_Equality:
            return f": {_place(str(guard.sloc))} needs {guard.expr.args[-1]}"
    return ""


def _place(where: str) -> str:
    """`modeling_foo.py:123` of a guard's place, unless it lies within torch, which names its files from its own folder on; a child that
    was captured at this size checks it itself."""
    found = re.search(r"([\w./-]+\.py):(\d+)", where)
    if found is None or (Path(torch.__file__).parent / found[1]).is_file():
        return "an operator"
    if Path(found[1]).parts[-2:-1] == ("graphclone",):
        return "the graph, as it was captured,"
    return f"{Path(found[1]).name}:{found[2]}"
