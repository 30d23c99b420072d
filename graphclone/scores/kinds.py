"""The ways to tell how much a unit matters, each a function of a few lines. A new one is an entry in one of these tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Statistic = Callable[[Tensor], Tensor]  # [tokens, n] → [n]
Part = Callable[[Tensor, Tensor], Tensor]  # activations [tokens, n] and the norms of the weights that read them [n] → [n]
Gradient = Callable[[Tensor, Tensor], Tensor]  # a weight and its gradient → one number for each element
Merge = Callable[[Sequence[Tensor]], Tensor]  # what the places of a factor say, [units] each → [units]


def mean_abs(x: Tensor) -> Tensor:
    """Weight subcloning, arXiv 2312.09299, §3.2."""
    return x.abs().mean(0)


def variance(x: Tensor) -> Tensor:
    return x.var(0, correction=0)


def rms(x: Tensor) -> Tensor:
    return x.square().mean(0).sqrt()


def largest(x: Tensor) -> Tensor:
    return x.abs().amax(0)


STREAM: Mapping[str, Statistic] = {"mean_abs": mean_abs, "variance": variance, "rms": rms, "max": largest}


def contribution(x: Tensor, w: Tensor) -> Tensor:
    """Mean |activation| times the norm of the outgoing weights: what the unit adds to the sums that it is part of."""
    return mean_abs(x) * w


def wanda(x: Tensor, w: Tensor) -> Tensor:
    """|w| · ‖x‖ over all that a unit touches (Wanda, arXiv 2306.11695, §3), per token."""
    return rms(x) * w


def _alone(statistic: Statistic) -> Part:
    """Whatever reads the unit."""
    return lambda x, _: statistic(x)


UNITS: Mapping[str, Part] = {
    "contribution": contribution,
    "wanda": wanda,
    **{name: _alone(statistic) for name, statistic in STREAM.items()},
}


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """w · g, the first-order change of the loss when the weight becomes zero (arXiv 1906.10771, §3.1); summed before its size counts."""
    return weight * gradient


def fisher(weight: Tensor, gradient: Tensor) -> Tensor:
    """(w · g)², with the gradient's square for the second derivative."""
    return (weight * gradient).square()


GRADIENTS: Mapping[str, Gradient] = {"taylor": taylor, "fisher": fisher}


def mean(places: Sequence[Tensor]) -> Tensor:
    """The raw sum, by number: places of large values say most."""
    return torch.stack(list(places)).mean(0)


def even_mean(places: Sequence[Tensor]) -> Tensor:
    """Each place's numbers as shares of their sum, so that all say as much."""
    return torch.stack([each / each.sum().clamp_min(torch.finfo(each.dtype).tiny) for each in places]).mean(0)


def rank_mean(places: Sequence[Tensor]) -> Tensor:
    """The mean rank."""
    return torch.stack([each.argsort().argsort().double() for each in places]).mean(0)


def most(places: Sequence[Tensor]) -> Tensor:
    """The most that any place says."""
    return torch.stack(list(places)).amax(0)


PLACES: Mapping[str, Merge] = {"mean": mean, "even_mean": even_mean, "rank_mean": rank_mean, "max": most}
