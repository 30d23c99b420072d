"""A parent turned: the same function, its stream along other axes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphclone.layout import Layout
from graphclone.rotation.meetings import Meetings


@torch.no_grad()
def rotated(layout: Layout, meetings: Meetings, axes: Tensor) -> Layout:
    """The layout with weights that compute the same on a stream along `axes`, float64 [d, d] orthogonal: unit i is what it had along
    column i. Gains and offsets of norms are folded into what reads them, and set to one and zero.

    Where a norm subtracts the mean (`meetings.centred`), the function is the same only if `axes` takes what has mean zero to what has
    mean zero: see `mean_free`.
    """
    state = dict(layout.trace.state)
    wide = {name: state[name].detach().double() for name, _ in meetings.readers | meetings.writers}
    for (name, dim), (offset, bias) in meetings.offsets.items():
        shift = _along(wide[name], dim) @ state[offset].detach().double()
        wide[bias] = wide.get(bias, state[bias].detach().double()) + shift.flatten()
    for (name, dim), gain in meetings.gains.items():
        value = state[gain].detach().double() + 1 - meetings.neutral[gain]
        wide[name] = (_along(wide[name], dim) * value).movedim(-1, dim)
    for name, dim in meetings.writers if meetings.centred else ():
        wide[name] = wide[name] - wide[name].mean(dim, keepdim=True)
    for name, dim in meetings.readers | meetings.writers:
        wide[name] = (_along(wide[name], dim) @ axes).movedim(-1, dim)
    state.update({name: tensor.to(state[name].dtype).contiguous() for name, tensor in wide.items()})
    state.update({name: torch.full_like(state[name], value) for name, value in meetings.neutral.items()})
    state = {name: each.detach().requires_grad_(layout.trace.state[name].requires_grad) for name, each in state.items()}
    return replace(layout, trace=replace(layout.trace, state=state))


def mean_free(axes: Tensor, width: int) -> Tensor:
    """The axes with the mean taken out, for a child of `width` units whose norms subtract it: float64 [d, d] orthogonal.

    With U the first k - 1 axes of a stream of mean zero, 1 the vector of ones and B [k, k - 1] an orthonormal basis of what is
    orthogonal to it, the first k columns are U Bᵀ + 1 1ᵀ / √(d k): what they make of the stream has mean zero as well.
    """
    d = len(axes)
    ones, small = axes.new_ones(d, 1), axes.new_ones(width, 1)
    basis = _complete(small / width**0.5)[:, 1:]
    first = _complete(torch.cat([ones / d**0.5, axes[:, : width - 1]], 1)[:, :width])[:, 1:width]
    kept = first @ basis.T + ones @ small.T / (d * width) ** 0.5
    return _complete(kept)


def _complete(columns: Tensor) -> Tensor:
    """Orthonormal columns, and what they lack to be a basis."""
    q, r = torch.linalg.qr(torch.cat([columns, torch.eye(len(columns)).to(columns)], 1), mode="reduced")
    signs: Tensor = torch.where(r.diagonal() < 0, -1.0, 1.0)
    basis: Tensor = q * signs
    return basis


def _along(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, -1)
