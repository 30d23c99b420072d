"""Single numbers: integers that the exporter computes as real ones, and functions that ONNX has not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


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


@instead_of(aten.erfinv.default)
def inverse_error(tensor: Tensor) -> Tensor:
    """Where the error function has this value: ONNX has the function alone."""
    unlikely = -torch.log((1 - tensor) * (1 + tensor))
    found = torch.where(unlikely < 5, _polynomial(unlikely - 2.5, _CENTRE), _polynomial(unlikely.sqrt() - 3, _TAILS)) * tensor
    return torch.where(tensor.abs() == 1, tensor * torch.inf, found)


def _polynomial(tensor: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's scheme, the highest power first."""
    return functools.reduce(lambda found, each: found * tensor + each, coefficients[1:], torch.full_like(tensor, coefficients[0]))


@instead_of(aten.pow.Tensor_Tensor, aten.pow.Tensor_Scalar, aten.pow.Scalar)
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


@instead_of(aten.sum.default, aten.sum.dim_IntList)
def total(tensor: Tensor, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Of integers, in halves of 32 bits, whose sums real numbers hold: the runtime goes by way of these here, too."""
    if tensor.dtype != torch.int64 or dtype not in (None, torch.int64):
        return NotImplemented
    low = tensor.remainder(1 << 32)
    halves = (tensor - low).to(torch.float64) / (1 << 32), low.to(torch.float64)
    first, second = (half.sum(dim, keepdim).to(torch.int64) for half in halves)
    return first * (1 << 32) + second


@instead_of(aten.div.Tensor_mode, aten.div.Scalar_mode)
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


@instead_of(aten.signbit.default)
def negative(tensor: Tensor) -> Any:
    """Of the two zeros one: the exporter asks whether a number is below them."""
    return (tensor < 0) | (tensor.reciprocal() < 0) if tensor.is_floating_point() else NotImplemented


@instead_of(aten.copysign.Tensor, aten.copysign.Scalar)
def signed(tensor: Tensor, sign: Any) -> Any:
    """The size of one number with the sign of another. (A product: where ONNX Runtime chooses, a zero has no sign.)"""
    if not tensor.is_floating_point() or (isinstance(sign, Tensor) and not sign.is_floating_point()):
        return NotImplemented
    if not isinstance(sign, Tensor):
        return tensor.abs() * math.copysign(1.0, sign)
    return tensor.abs() * torch.where(negative(sign), -1, 1).to(tensor.dtype)


@instead_of(aten.hypot.default)
def hypotenuse(left: Tensor, right: Tensor) -> Tensor:
    """Without squares of large numbers, which are infinite."""
    long, short = torch.maximum(left.abs(), right.abs()), torch.minimum(left.abs(), right.abs())
    share = torch.where((long > 0) & (long < torch.inf), short / long, 0)
    return long * (1 + share * share).sqrt()


def _ignoring_nan(target: Any, best: Callable[..., Tensor]) -> None:
    @instead_of(target)
    def rewrite(left: Tensor, right: Tensor) -> Tensor:
        if not (left.is_floating_point() or right.is_floating_point()):
            return best(left, right)
        return torch.where(left.isnan(), right, torch.where(right.isnan(), left, best(left, right)))


_ignoring_nan(aten.fmax.default, torch.maximum)
_ignoring_nan(aten.fmin.default, torch.minimum)
