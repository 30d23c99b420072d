"""A parent turned: the same function, its stream along other axes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphclone.errors import FrozenError
from graphclone.layout import Layout
from graphclone.rotation.meetings import TURNABLE, Meetings, meetings


@torch.no_grad()
def rotated(layout: Layout, found: Meetings, axes: Tensor) -> Layout:
    """The layout with weights that compute the same on a stream along `axes`, float64 [d, d] orthogonal: unit i is what it had along
    column i; units inside heads, along `axes` [heads, d, d]. Gains and offsets of norms are folded into what reads them, and set to one
    and zero.

    Where a norm subtracts the mean (`found.centred`), the function is the same only if `axes` takes what has mean zero to what has
    mean zero: see `mean_free`.
    """
    state = dict(layout.trace.state)
    wide = {name: state[name].detach().double() for name, _ in found.readers | found.writers}
    for (name, dim), (offset, bias) in found.offsets.items():
        shift = _along(wide[name], dim) @ state[offset].detach().double()
        wide[bias] = wide.get(bias, state[bias].detach().double()) + shift.flatten()
    for (name, dim), gain in found.gains.items():
        value = state[gain].detach().double() + 1 - found.neutral[gain]
        wide[name] = (_along(wide[name], dim) * value).movedim(-1, dim)
    for name, dim in found.writers if found.centred else ():
        wide[name] = wide[name] - wide[name].mean(dim, keepdim=True)
    for name, dim in found.readers | found.writers:
        wide[name] = found.places(layout, name, dim).turned(wide[name], axes if axes.dim() == 3 else axes[None])
    state.update({name: tensor.to(state[name].dtype).contiguous() for name, tensor in wide.items()})
    state.update({name: torch.full_like(state[name], value) for name, value in found.neutral.items()})
    state = {name: each.detach().requires_grad_(layout.trace.state[name].requires_grad) for name, each in state.items()}
    return replace(layout, trace=replace(layout.trace, state=state))


def turned_at_random(layout: Layout, seed: int) -> tuple[Layout, int]:
    """The layout with everything turned that may be, and how many factors these are."""
    generator, turned, count = torch.Generator().manual_seed(seed), layout, 0
    for factor in layout.factors:
        if factor.kind not in TURNABLE:
            continue
        try:
            found = meetings(layout, factor)
        except FrozenError:
            continue
        heads = found.heads.size if found.heads is not None else 1
        axes: Tensor = torch.linalg.qr(torch.randn(heads, factor.size, factor.size, generator=generator, dtype=torch.float64)).Q
        turned, count = rotated(turned, found, mean_free(axes[0], factor.size) if found.centred else axes), count + 1
    return turned, count


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
