"""What an entry of the zoo is, and the randomness that makes its weights tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Unbuildable(Exception):
    """A model that cannot be built here: the message says why (a file from the network, a size the class does not take)."""


@dataclass(frozen=True)
class Tiny:
    """A tiny random model: `build` the parent, example `inputs` for it, and a `smaller` destination of the same class.

    Sizes differ by role (vocabulary, stream, MLP, heads, head_dim …), and no input size equals a model size, so that
    an axis taken for another one is found out by its size. `smaller` halves the stream, the MLP, the heads and the
    depth, and keeps everything else: head_dim, vocabulary, image, and the ratio of query heads to key heads. It is
    None where the class has no such sizes to give. `others`: destinations in which not everything is halved; `again`:
    one of the parent's own sizes.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    smaller: Callable[[], nn.Module] | None = None
    others: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    again: Callable[[], nn.Module] | None = None

    def destinations(self) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
        """All that are smaller, by what they have half of, the smallest first."""
        if self.smaller is not None:
            yield "half", self.smaller
        yield from self.others.items()


def seeded(make: Callable[[], nn.Module], seed: int) -> Callable[[], nn.Module]:
    """`make`, shaken and in eval mode; always the same weights, and the caller's random state is left alone."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return shake(make()).eval()

    return build


def entry(
    name: str, parent: Callable[[], nn.Module], child: Callable[[], nn.Module] | None, inputs: Callable[[], Inputs]
) -> Tiny:
    return Tiny(name, seeded(parent, 0), inputs, seeded(child, 1) if child else None)


@torch.no_grad()
def shake(model: nn.Module) -> nn.Module:
    """Make every parameter tell each of its positions from the others.

    A fresh model hides mistakes: norms of ones, biases and tables of zeros, state matrices whose rows are all alike
    survive any permutation, and matrices of standard deviation 0.02 leave attention uniform. Codebooks, which are
    buffers that training fills, start with all their entries alike, so that every vector gets the same code.
    """
    gains = {id(module.weight) for module in model.modules() if isinstance(module, _NORMS)}
    for parameter in model.parameters():  # a tied parameter comes once
        if parameter.numel() == 0:
            continue
        noise = torch.randn_like(parameter)
        low, high = parameter.aminmax()
        if low != high and id(parameter) not in gains:  # random already: bring it to the scale of a trained matrix
            scale = 0.7 * (max(parameter.shape) / parameter.numel()) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * noise)
        elif low == 0:  # biases, class tokens, position tables, norms that add one by themselves
            parameter.add_(0.1 * noise)
        else:  # norms; what starts near 0, as a layer scale does, is brought up so that its branch is heard
            parameter.copy_(max(float(low), 0.3) * (1 + 0.2 * noise))
    kept = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in kept and buffer.is_floating_point() and buffer.ndim > 1 and not buffer.any():
            buffer.normal_()
    return model


def integers(below: int, *shape: int, seed: int = 0) -> Tensor:
    """Random int64 in [0, below)."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def reals(*shape: int, seed: int = 0) -> Tensor:
    """Random float32, standard normal."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
