"""What torch's ONNX exporter cannot translate, or translates wrongly, written otherwise: ops of the graph, never models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import _disable_current_modes

from graphclone.capture import explicit
from graphclone.export import grouped
from graphclone.export.onnx import complex_numbers
from graphclone.export.onnx.rewritten import Rewrite, registered, rewritten

aten = torch.ops.aten

# op → the same in other ops, or NotImplemented where the exporter does well.
_REWRITES: dict[Any, Rewrite] = dict(complex_numbers.REWRITES)
_for = functools.partial(registered, _REWRITES)


def mended(program: ExportedProgram) -> ExportedProgram:
    """The program with every call rewritten that has to be."""
    nodes = [
        node for module in program.graph_module.modules() if isinstance(module, fx.GraphModule) for node in module.graph.nodes
    ]
    for node in nodes:
        if node.target is aten.repeat_interleave.self_Tensor:
            explicit(node)
    return rewritten(program, _REWRITES | dict.fromkeys((node.target for node in nodes if grouped.parts(node)), grouped.spread))


@_for(aten.scaled_dot_product_attention.default)
def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *rest: Any, **options: Any) -> Any:
    """The exporter knows (batch, heads, position, unit) only: other batch dims are folded into one, around it. And a position that may
    look nowhere (padding) gets zeros in torch, where a softmax over nothing would give it the mean of everything."""
    mask = options.pop("attn_mask", mask)
    if query.dim() != 4:
        leading = query.shape[:-2]
        if mask is not None:
            mask = _folded(mask.expand(*leading, *mask.shape[-2:]))
        found = scaled_dot_product_attention(_folded(query), _folded(key), _folded(value), mask, *rest, **options)
        return found.reshape(*leading, *found.shape[-2:])
    if mask is None or mask.dtype != torch.bool:
        return NotImplemented
    added = torch.where(mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
    found = scaled_dot_product_attention(query, key, value, added, *rest, **options)
    return torch.where(mask.any(-1, keepdim=True), found, 0.0)


def _folded(tensor: Tensor) -> Tensor:
    """(a b heads position unit) → ((a b) heads position unit); (heads position unit) → (1 heads position unit)."""
    return tensor.reshape(-1, *tensor.shape[-3:])


@_for(aten.conv3d.default)
def convolution(tensor: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Any:
    """Without a bias, the exporter makes one up, of complex numbers."""
    return (
        aten.conv3d.default(tensor, weight, weight.new_zeros(weight.shape[0]), *rest, **options)
        if bias is None
        else NotImplemented
    )


@_for(aten.cdist.default, aten._cdist_forward.default)
def distances(left: Tensor, right: Tensor, p: float = 2.0, mode: int | None = None) -> Any:
    """Of every row to every row, written out: ONNX has no such op."""
    if p not in (1.0, 2.0):
        return NotImplemented
    apart = left.unsqueeze(-2) - right.unsqueeze(-3)
    return apart.abs().sum(-1) if p == 1.0 else (apart * apart).sum(-1).sqrt()


@_for(aten.bucketize.Tensor)
def bucketize(values: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries lie below: ONNX cannot search."""
    values = values.unsqueeze(-1)
    below = boundaries.le(values) if right else boundaries.lt(values)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


@_for(aten.searchsorted.Tensor)
def search(
    boundaries: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """The same, in boundaries of each row's own."""
    if sorter is not None:
        return NotImplemented
    rows = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2)
    return bucketize(values, rows, out_int32=out_int32, right=right or side == "right")


@_for(aten.repeat_interleave.self_Tensor)
def repeated(tensor: Tensor, repeats: Tensor, dim: int | None = None, *, output_size: int | None = None) -> Any:
    """Each of a row a number of times, where it is known how many that are: the exporter takes no such number."""
    if output_size is None:
        return NotImplemented
    if dim is None:
        tensor, dim = tensor.flatten(), 0
    ends = repeats.expand(tensor.shape[dim]).cumsum(0)
    place = torch.arange(output_size, device=tensor.device)
    return tensor.index_select(dim, (ends <= place[:, None]).sum(-1))


@_for(aten.isin.Tensor_Tensor)
def isin(values: Tensor, among: Tensor, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each value is equal to one of some others: torch would search them, which ONNX cannot."""
    found = (values.unsqueeze(-1) == among.reshape(-1)).any(-1)
    return found.logical_not() if invert else found


def _so_far(tensor: Tensor, dim: int, worst: float, best: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """The best so far, and where: ONNX has running sums only. Every position looks at all that come no later."""
    moved = tensor.movedim(dim, -1).unsqueeze(-2)
    place = torch.arange(moved.shape[-1], device=tensor.device)
    earlier = place <= place[:, None]
    found = best(torch.where(earlier, moved, worst), -1)
    where = torch.where(earlier & (moved == found.unsqueeze(-1)), place, 0).amax(-1)  # of equal ones the last
    return found.movedim(-1, dim), where.movedim(-1, dim)


def _range(tensor: Tensor) -> Any:
    return (torch.finfo if tensor.is_floating_point() else torch.iinfo)(tensor.dtype)


@_for(aten.cummax.default)
def running_maximum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _so_far(tensor, dim, _range(tensor).min, torch.amax)


@_for(aten.cummin.default)
def running_minimum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return _so_far(tensor, dim, _range(tensor).max, torch.amin)


@_for(aten.sort.stable)
def sort(tensor: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """ONNX has one way of sorting, in which what comes first stays first."""
    found: tuple[Tensor, Tensor] = aten.sort.default(tensor, dim, descending)
    return found


@_for(aten.argsort.default, aten.argsort.stable)
def argsort(tensor: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    found: Tensor = aten.sort.default(tensor, dim, descending)[1]
    return found


@_for(aten.detach.default)
def detached(tensor: Tensor) -> Tensor:
    """Nobody asks for gradients of a file; and the exporter knows no complex one."""
    return tensor


@_for(aten.index_put_.default)
def put_in_place(tensor: Tensor, *args: Any, **options: Any) -> Any:
    found = put(tensor, *args, **options)
    return found if found is NotImplemented else tensor.copy_(found)


@_for(aten.index_put.default)
def put(tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """`tensor[:, mask] = values`: the exporter knows masks over the first dims only. Each place looks up which value it gets."""
    *before, mask = indices
    if (
        not before
        or any(each is not None for each in before)
        or mask is None
        or mask.dtype != torch.bool
        or mask.dim() > 1
        or accumulate
    ):
        return NotImplemented
    dim = len(before) - tensor.dim()  # of the mask, from the last one on
    several = values.shape[dim] if values.dim() >= -dim else 1
    if not isinstance(several, int) or several != 1:
        values = values.index_select(dim, (mask.cumsum(0) - 1).clamp(min=0))
    return torch.where(mask.reshape(-1, *[1] * (-dim - 1)), values, tensor)


@_for(aten.squeeze.dim, aten.squeeze.dims)
def squeeze(tensor: Tensor, dims: int | Sequence[int]) -> Any:
    """torch leaves a dim that is not 1 as it is; ONNX refuses."""
    dims = [dims] if isinstance(dims, int) else list(dims)
    ones = [dim for dim in dims if isinstance(tensor.shape[dim], int) and tensor.shape[dim] == 1]
    if len(ones) == len(dims):
        return NotImplemented
    return tensor.squeeze(ones) if ones else tensor


# Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011), single precision: near the centre, and in the tails.
# fmt: off
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)
_TAILS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)
# fmt: on


@_for(aten.erfinv.default)
def inverse_error(tensor: Tensor) -> Tensor:
    """Where the error function has this value: ONNX has the function alone."""
    unlikely = -torch.log((1 - tensor) * (1 + tensor))
    found = torch.where(unlikely < 5, _polynomial(unlikely - 2.5, _CENTRE), _polynomial(unlikely.sqrt() - 3, _TAILS)) * tensor
    return torch.where(tensor.abs() == 1, tensor * torch.inf, found)


def _polynomial(tensor: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's scheme, the highest power first."""
    return functools.reduce(lambda found, each: found * tensor + each, coefficients[1:], torch.full_like(tensor, coefficients[0]))


@_for(aten.pow.Tensor_Tensor, aten.pow.Tensor_Scalar, aten.pow.Scalar)
def power(base: Any, exponent: Any) -> Any:
    """Of integers, by squaring: the runtime goes by way of real numbers, which have not all digits of a hash, and do not wrap around."""
    if not _are_integers(base, exponent):
        return NotImplemented
    dtype = torch.result_type(base, exponent)
    base = base.to(torch.int64) if isinstance(base, Tensor) else torch.full((), base, dtype=torch.int64)
    square, found, rest = base, torch.ones((), dtype=torch.int64), abs(exponent)
    for _ in range(63 if isinstance(exponent, Tensor) else exponent.bit_length()):
        if isinstance(rest, Tensor):
            found = torch.where(rest % 2 == 1, found * square, found)
        elif rest % 2:
            found = found * square
        square, rest = square * square, rest // 2
    if isinstance(exponent, Tensor):
        found = torch.where((exponent < 0) & (base.abs() != 1), 0, found)
    return found.to(dtype)


@_for(aten.sum.default, aten.sum.dim_IntList)
def total(tensor: Tensor, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Of integers, in halves of 32 bits, whose sums real numbers hold: the runtime goes by way of these here, too."""
    if tensor.dtype != torch.int64 or dtype not in (None, torch.int64):
        return NotImplemented
    low = tensor.remainder(1 << 32)
    halves = (tensor - low).to(torch.float64) / (1 << 32), low.to(torch.float64)
    first, second = (half.sum(dim, keepdim).to(torch.int64) for half in halves)
    return first * (1 << 32) + second


@_for(aten.div.Tensor_mode, aten.div.Scalar_mode)
def quotient(left: Tensor, right: Any, *, rounding_mode: str | None = None) -> Any:
    """Of integers, as integers: the exporter divides real numbers, and rounds."""
    if rounding_mode is None or not _are_integers(left, right):
        return NotImplemented
    floor = torch.floor_divide(left, right)
    if rounding_mode == "floor":
        return floor
    return floor + (((left < 0) != (right < 0)) & (floor * right != left)).to(floor.dtype)


def _are_integers(*values: Any) -> bool:
    return all(
        not (each.is_floating_point() or each.is_complex() or each.dtype == torch.bool)
        if isinstance(each, Tensor)
        else isinstance(each, int)
        for each in values
    )


@_for(aten.lstm.input)
def projected(
    tensor: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int, *rest: Any, **options: Any
) -> Any:
    """With a projection, step by step, of which the number has to be known: ONNX has none, and the exporter overlooks it."""
    length = tensor.shape[1 if rest[-1] else 0]  # `batch_first`
    if states[0].shape[-1] == states[1].shape[-1] or not isinstance(length, int):
        return NotImplemented
    return aten.lstm.input.decompose(tensor, states, weights, biased, layers, *rest, **options)


@_for(aten.signbit.default)
def negative(tensor: Tensor) -> Any:
    """Of the two zeros one: the exporter asks whether a number is below them."""
    return (tensor < 0) | (tensor.reciprocal() < 0) if tensor.is_floating_point() else NotImplemented


@_for(aten.as_strided.default)
def strided(tensor: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Any:
    """Looked up in the tensor as it lies in memory: the exporter takes every tensor to lie there in the order of its dims."""
    dims = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    lying = tensor.permute(dims)
    if not lying.is_contiguous():
        return NotImplemented
    place: Any = torch.zeros((), dtype=torch.int64, device=tensor.device)
    if storage_offset is not None:
        place = place + (storage_offset - tensor.storage_offset())
    for count, step in zip(size, stride, strict=True):
        place = place.unsqueeze(-1) + torch.arange(count, device=tensor.device) * step
    return lying.reshape(-1)[place]


@_for(aten.arange.start_step)
def stepped(start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """Of real numbers, each as torch rounds it: the runtime adds in single precision, and may come to one more or less of them."""
    if {type(start), type(end), type(step)} - {int, float} or not {type(start), type(end), type(step)} - {int}:
        return NotImplemented
    with _disable_current_modes():
        numbers = torch.arange(start, end, step, dtype=dtype).tolist()
    made = [torch.full((), each, dtype=torch.get_default_dtype() if dtype is None else dtype) for each in numbers]
    return torch.stack(made) if made else NotImplemented


@_for(aten._is_all_true.default)
def all_true(tensor: Tensor) -> Tensor:
    """What an assertion asks: nobody reads it in the end, but the exporter translates it."""
    return tensor.all()
