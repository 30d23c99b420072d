"""Draw a program: move after move, every value kept finite and of a moderate size."""

from __future__ import annotations

import math
import warnings
from random import Random
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher

from tests.programs import moves
from tests.programs.program import Program, finish
from tests.programs.world import MOST_DIMS, MOST_ELEMENTS, MOVES, Entry, World

WEIGHTS = [entry.weight for entry in MOVES]
SIZED = [entry.weight * (12 if entry.move.__module__ == moves.sized.__name__ else 1) for entry in MOVES]


def generate(rng: Random, longest: int = 12, opened: bool = False) -> Program:
    """A program of up to `longest` moves on one to three inputs, with one to three results. `opened`: a shorter one, whose first input is
    (batch, length, unit), with more moves that compute with sizes: what is given in a shape fixes it."""
    world = World(rng)
    if opened:
        world.values.append(world.input(rng.choice((2, 6, 11, 11)), rng.choice((8, 9, 16, 26)), rng.choice((3, 4, 5, 6))))
    for _ in range(rng.choice((0, 0, 1, 2) if opened else (1, 1, 1, 2, 2, 3))):
        sizes = [world.size() for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))]
        while math.prod(sizes) > 500:
            sizes[sizes.index(max(sizes))] = rng.choice((2, 3))
        world.values.append(world.input(*sizes))
    if rng.random() < 0.3:
        bound = world.size()
        world.values.append(world.integers(bound, *(world.size() for _ in range(rng.choice((1, 2))))))
    for _ in range(rng.randint(1, longest // 2) if opened else rng.randint(2, longest)):
        for _ in range(20):
            if _step(world, rng.choices(MOVES, SIZED if opened else WEIGHTS)[0]):
                break
    return _finished(world)


def _step(world: World, entry: Entry) -> bool:
    """Make a move if it can be made and comes to something."""
    try:
        x = world.value(entry.takes)
        with warnings.catch_warnings(), torch.no_grad(), enable_python_dispatcher(), world.recording():
            # torch gives some once per process: as errors they would make a move fail the first time only
            warnings.simplefilter("ignore")
            made = entry.move(world, x)
    except Exception:  # it does not fit, or torch says so in one of many ways
        return False
    kept = [each for value in ([made] if isinstance(made, Tensor) else made) for each in _moderate(world, value)]
    for each in kept:
        world.bequeath(x, each)
    world.values += kept
    return bool(kept)


def _moderate(world: World, value: Tensor) -> list[Tensor]:
    """The value, scaled by a constant where it is very large or small; nothing if it is degenerate."""
    if value.numel() == 0 or value.numel() > MOST_ELEMENTS or value.dim() > MOST_DIMS or id(value) not in world.recorder.nodes:
        return []
    if not value.is_floating_point():
        return [] if value.is_complex() else [value]
    largest = float(value.abs().max())
    if not torch.isfinite(value).all() or largest < 1e-9:
        return []
    if 0.05 < largest < 20:
        return [value]
    with torch.no_grad(), enable_python_dispatcher(), world.recording():
        return [value * float(f"{1 / largest:.1g}")]


def _finished(world: World) -> Program:
    nodes = world.recorder.nodes
    inputs = {id(each) for each in world.given.values()}
    made = [each for each in world.values if id(each) not in inputs]
    ends = [each for each in made if not nodes[id(each)].users] or made or world.values
    wanted = list(reversed(ends))[: world.rng.choice((1, 1, 1, 2, 2, 3))]
    if made and world.rng.random() < 0.1:
        wanted.append(world.rng.choice(made))
    wanted = [_closed(world, each) for each in wanted]
    given = {id(nodes[id(tensor)]): name for name, tensor in world.given.items()}
    return finish(world.recorder.graph, given, list(dict.fromkeys(nodes[id(each)] for each in wanted)))


def _closed(world: World, value: Tensor) -> Tensor:
    """Half of the results are read by one more matrix or summed, so that what they are made of lies inside of the program."""
    if not value.is_floating_point() or not value.dim() or value.shape[-1] > 100 or world.rng.random() < 0.5:
        return value
    with torch.no_grad(), enable_python_dispatcher(), world.recording():
        if world.rng.random() < 0.3:
            return value.sum(-1)
        weight = world.parameter(3, value.shape[-1])
        return torch.nn.functional.linear(value, weight)


@st.composite
def programs(draw: Any) -> Program:
    return generate(draw(st.randoms(use_true_random=False)))
