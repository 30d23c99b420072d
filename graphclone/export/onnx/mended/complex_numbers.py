"""Complex numbers, which ONNX has not, as pairs of real ones. The exporter's own pairs know few ops, and multiply by a number wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


def _arithmetic(target: Any, of_complex: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """`of_complex`: the real and imaginary parts of two operands → those of the result."""

    @instead_of(target)
    def rewrite(left: Any, right: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(left, Tensor) and isinstance(right, float) and not left.is_floating_point() and not left.is_complex():
            return target(left.to(torch.get_default_dtype()), right, *rest, **options)  # `1.0 - mask`: the exporter forgets it
        if rest or options or not any(isinstance(each, complex) or _is_complex(each) for each in (left, right)):
            return NotImplemented
        return _joined(*of_complex(*_parts(left), *_parts(right)))


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _parts(value: Any) -> tuple[Any, Any]:
    if _is_complex(value):
        pair = torch.view_as_real(value)
        return pair.select(-1, 0), pair.select(-1, 1)
    return (value.real, value.imag) if isinstance(value, complex) else (value, 0.0)


def _joined(real: Tensor, imaginary: Tensor) -> Tensor:
    return torch.view_as_complex(torch.stack(torch.broadcast_tensors(real, imaginary), -1))  # type: ignore[no-untyped-call]


for _target in (aten.mul.Tensor, aten.mul.Scalar):
    _arithmetic(_target, lambda a, b, c, d: (a * c - b * d, a * d + b * c))
for _target in (aten.add.Tensor, aten.add.Scalar):
    _arithmetic(_target, lambda a, b, c, d: (a + c, b + d))
for _target in (aten.sub.Tensor, aten.sub.Scalar):
    _arithmetic(_target, lambda a, b, c, d: (a - c, b - d))
_arithmetic(aten.rsub.Scalar, lambda a, b, c, d: (c - a, d - b))


@instead_of(aten.exp.default)
def exponential(tensor: Tensor) -> Any:
    return polar(torch.exp(_parts(tensor)[0]), _parts(tensor)[1]) if tensor.is_complex() else NotImplemented


@instead_of(aten.polar.default)
def polar(length: Tensor, angle: Tensor) -> Tensor:
    return _joined(length * torch.cos(angle), length * torch.sin(angle))


@instead_of(aten.complex.default)
def complex_number(real: Tensor, imaginary: Tensor) -> Tensor:
    return _joined(real, imaginary)


def _bilinear(function: Callable[..., Tensor], left: Any, right: Any) -> Tensor:
    (a, b), (c, d) = _parts(left), _parts(right)
    if not _is_complex(left) or not _is_complex(right):  # then one of the imaginary parts is 0
        return _joined(function(a, c), function(b, c) if _is_complex(left) else function(a, d))
    return _joined(function(a, c) - function(b, d), function(a, d) + function(b, c))


@instead_of(aten.matmul.default)
def matmul(left: Tensor, right: Tensor) -> Any:
    return _bilinear(torch.matmul, left, right) if _is_complex(left) or _is_complex(right) else NotImplemented


@instead_of(aten.einsum.default)
def einsum(equation: str, operands: Sequence[Tensor], **options: Any) -> Any:
    if len(operands) != 2 or not any(map(_is_complex, operands)):
        return NotImplemented
    return _bilinear(lambda left, right: torch.einsum(equation, left, right), *operands)


@instead_of(aten.fft_irfft.default)
def irfft(tensor: Tensor, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    """ONNX Runtime has no inverse of a one-sided spectrum: the other side is its mirror image, conjugate."""
    pair, dim = torch.view_as_real(tensor), dim % tensor.dim()
    bins = pair.shape[dim]
    n = 2 * (bins - 1) if n is None else n
    if bins != n // 2 + 1:
        return NotImplemented
    mirrored = pair.narrow(dim, 1, n - bins).flip(dim)
    whole = torch.cat([pair, torch.stack([mirrored.select(-1, 0), -mirrored.select(-1, 1)], -1)], dim)
    return torch.view_as_real(torch.fft.ifft(torch.view_as_complex(whole), dim=dim, norm=norm)).select(-1, 0)


@instead_of(aten.unbind.int)
def unbind(tensor: Tensor, dim: int = 0) -> Any:
    if not tensor.is_complex():
        return NotImplemented
    return [torch.view_as_complex(each.contiguous()) for each in torch.view_as_real(tensor).unbind(dim % tensor.dim())]


def _structural(target: Any, change: Callable[..., tuple[Any, ...]]) -> None:
    """An op that only moves elements: it moves the pairs. `change`: its arguments with one more dim at the end."""

    @instead_of(target)
    def rewrite(tensor: Any, *args: Any, **options: Any) -> Any:
        if not _is_complex(tensor):
            return NotImplemented
        return torch.view_as_complex(target(torch.view_as_real(tensor), *change(tensor, *args)).contiguous())


def _dim(tensor: Tensor, dim: int = 0, *rest: Any) -> tuple[Any, ...]:
    return (dim % tensor.dim(), *rest)


_structural(aten.unsqueeze.default, lambda tensor, dim: (dim % (tensor.dim() + 1),))
_structural(aten.expand.default, lambda tensor, sizes: ([*sizes, 2],))
_structural(aten.reshape.default, lambda tensor, sizes: ([*sizes, 2],))
_structural(aten.repeat.default, lambda tensor, times: ([*times, 1],))
_structural(aten.select.int, _dim)
_structural(aten.zeros_like.default, lambda tensor: ())
_structural(aten.index.Tensor, lambda tensor, indices: (list(indices),))
_structural(aten.flatten.using_ints, lambda tensor, start=0, end=-1: (start % tensor.dim(), end % tensor.dim()))


@instead_of(aten.numpy_T.default)
def transposed(tensor: Tensor) -> Any:
    return tensor.permute(*reversed(range(tensor.dim()))) if tensor.is_complex() else NotImplemented
