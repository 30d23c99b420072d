"""Products: attention, linear maps, convolutions, recurrences, distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from graphclone.export.onnx.rewritten import instead_of

aten = torch.ops.aten


@instead_of(aten.scaled_dot_product_attention.default)
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


@instead_of(aten.conv3d.default)
def convolution(tensor: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Any:
    """Without a bias, the exporter makes one up, of complex numbers."""
    return (
        aten.conv3d.default(tensor, weight, weight.new_zeros(weight.shape[0]), *rest, **options)
        if bias is None
        else NotImplemented
    )


@instead_of(aten.cdist.default, aten._cdist_forward.default)
def distances(left: Tensor, right: Tensor, p: float = 2.0, mode: int | None = None) -> Any:
    """Of every row to every row, written out: ONNX has no such op."""
    if p not in (1.0, 2.0):
        return NotImplemented
    apart = left.unsqueeze(-2) - right.unsqueeze(-3)
    return apart.abs().sum(-1) if p == 1.0 else (apart * apart).sum(-1).sqrt()


@instead_of(aten.lstm.input)
def projected(
    tensor: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int, *rest: Any, **options: Any
) -> Any:
    """With a projection, step by step, of which the number has to be known: ONNX has none, and the exporter overlooks it."""
    length = tensor.shape[1 if rest[-1] else 0]  # `batch_first`
    if states[0].shape[-1] == states[1].shape[-1] or not isinstance(length, int):
        return NotImplemented
    return aten.lstm.input.decompose(tensor, states, weights, biased, layers, *rest, **options)


@instead_of(aten.matmul.default, aten.mv.default)
def with_vector(left: Tensor, right: Tensor) -> Any:
    """As a product with a matrix of one column: ONNX Runtime multiplies a transposed matrix and a vector as if it were not transposed."""
    if left.dim() < 2 or right.dim() != 1:
        return NotImplemented
    return torch.matmul(left, right.unsqueeze(-1)).squeeze(-1)


@instead_of(aten.addmv.default)
def added_to_vector(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = alpha * with_vector(left, right)
    return product + beta * added if beta else product  # what is not added may be no number


@instead_of(aten.linear.default)
def to_one_unit(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if weight.dim() != 1:
        return NotImplemented
    found = with_vector(tensor, weight) if tensor.dim() > 1 else torch.matmul(tensor, weight)
    return found if bias is None else found + bias


@instead_of(aten.einsum.default)
def einsum(equation: str, operands: Sequence[Tensor], *, path: Sequence[int] | None = None) -> Any:
    """With as many dims under each `...`: ONNX Runtime asks for that."""
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    if any("..." not in term for term in terms):
        return NotImplemented
    hidden = [operand.dim() - len(term) + 3 for operand, term in zip(operands, terms, strict=True)]
    if len(set(hidden)) == 1:
        return NotImplemented
    for index, (term, count) in enumerate(zip(terms, hidden, strict=True)):
        for _ in range(max(hidden) - count):
            operands = [*operands[:index], operands[index].unsqueeze(term.index("...")), *operands[index + 1 :]]
    return torch.einsum(equation, *operands)
