"""The rivals: each makes a child of the task's sizes, from the parent or from nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

import graphclone as gc
from benchmarks.convergence.races import RACES, Race, Variant
from graphclone import sources
from graphclone.calibration import Calibration
from graphclone.demo.task import Batch, Data
from graphclone.destination import plan_for
from graphclone.execute import fill
from graphclone.layout import Layout
from graphclone.passes.drop_blocks import Choice, first
from graphclone.plan import Plan
from graphclone.recipe import PAPER, Recipe, begin
from graphclone.scores import Scores
from graphclone.sources import Parent

CALIBRATION = 1_000_003  # added to the seed: the batches that children are made on are not those that they learn from


@dataclass(frozen=True)
class Subject:
    """A variant with its parent, data, and a seed: of the random child, of calibration batches, of random choices."""

    variant: Variant
    parent: Parent
    data: Data
    seed: int

    @property
    def race(self) -> Race:
        return RACES[self.variant.task]

    def destination(self) -> nn.Module:
        return self.made(self.variant.child)

    def made(self, sizes: Mapping[str, int]) -> nn.Module:
        """A random child of these sizes, where the parent is."""
        return sources.destination(self.parent, {**self.race.settings, **sizes}, seed=self.seed).to(self.variant.device)

    @cached_property
    def labelled(self) -> list[Batch]:
        count = self.race.calibration * (self.variant.scale or 1)  # wider maps have more to be fitted to
        return list(itertools.islice(self.data.train(self.seed + CALIBRATION), count))

    @cached_property
    def batches(self) -> list[dict[str, torch.Tensor]]:
        return [batch.inputs for batch in self.labelled]

    @cached_property
    def layout(self) -> Layout:
        return gc.analyze(gc.capture(self.parent.module, kwargs=self.batches[0]))

    @cached_property
    def goal(self) -> Layout:
        return gc.analyze(gc.capture(self.destination().eval(), kwargs=self.batches[0]), like=self.layout.blocks)

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration.of(self.parent.module, self.batches, self.layout)


Arm = Callable[[Subject], nn.Module]
FULL = Recipe()


def random(subject: Subject) -> nn.Module:
    """The child's class, as it initialises itself."""
    return subject.destination()


def cloned(recipe: Recipe, scale: bool = True) -> Arm:
    def made(subject: Subject) -> nn.Module:
        begun = begin(
            subject.layout, subject.calibration, recipe, lambda layout, found: plan_for(layout, subject.goal, found, scale)
        )
        return filled(subject, begun.plan, begun.fitted)

    return made


def weight_selection(subject: Subject) -> nn.Module:
    """Units at even distances of the first layers, as they are ("Initializing Models with Larger Ones", arXiv 2311.18823, §3)."""
    return filled(subject, plan_for(subject.layout, subject.goal, kept_blocks(subject, first), False))


def kept_blocks(subject: Subject, choose: Choice) -> Scores:
    """Scores of blocks alone, by which those that `choose` names are kept."""
    blocks = {}
    for stack, goal in zip(subject.layout.blocks, subject.goal.blocks, strict=True):
        kept = choose(len(stack), len(goal))
        blocks[stack.name] = tuple(float(index in kept) for index in range(len(stack)))
    return Scores(blocks=blocks)


def consistent(subject: Subject) -> nn.Module:
    """Units drawn at random, the same wherever they occur; blocks and scales as the paper has them."""
    drawn = torch.Generator().manual_seed(subject.seed)
    units = {each.name: tuple(torch.rand(each.size, generator=drawn).tolist()) for each in subject.layout.factors}
    return filled(subject, plan_for(subject.layout, subject.goal, Scores(units), True))


def mis_coupled(subject: Subject) -> nn.Module:
    """The control: as the paper, but each matrix ranks its own rows and columns, by their norms, so that nothing meets its partner."""
    begun = begin(subject.layout, subject.calibration, PAPER, lambda layout, found: plan_for(layout, subject.goal, found, True))
    child, state = subject.destination(), subject.layout.trace.state
    filled(subject, begun.plan, into=child)
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            piece = begun.plan.tensors.get(name)
            if piece is not None and parameter.dim() > 1:
                parameter.copy_(_own_units(state[piece.source].detach(), parameter.shape) * piece.scale)
    return child


def _own_units(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Of each dim, the positions of the largest norms, in order."""
    for dim, size in enumerate(shape):
        if size != tensor.shape[dim]:
            norms = tensor.movedim(dim, 0).flatten(1).norm(dim=1)
            tensor = tensor.index_select(dim, norms.topk(size).indices.sort().values)
    return tensor


def torch_pruning(subject: Subject) -> nn.Module:
    """The parent without its middle blocks (which torch-pruning does not drop), halved by its MetaPruner, with the use of it that is the
    first to give a child of the size that runs, of those that `benchmarks.coverage` calls best."""
    import copy

    import models_zoo  # noqa: F401  (torch-pruning imports torchvision, whose ops are declared there)
    from benchmarks.side_by_side.theirs import BEST, prune

    depth, config = subject.variant.child["num_hidden_layers"], subject.parent.config
    halves = {name: getattr(config, name) / 2 for name in subject.variant.child}
    if {**halves, "num_hidden_layers": depth} != subject.variant.child:
        raise RuntimeError("torch-pruning is asked for halves only")
    shallow = subject.made({"num_hidden_layers": depth})
    shallow, _ = gc.subclone(subject.parent.module, shallow, kwargs=subject.data.few.inputs, data=subject.batches, recipe=PAPER)
    if hasattr(shallow, "pooler"):  # no loss here reads it, so it would stay as wide as it was, and fail
        shallow.pooler = None  # type: ignore[assignment]
    most = 1.05 * sum(each.numel() for each in subject.destination().parameters())
    why: Exception | None = None
    for use in BEST:
        child: Any = copy.deepcopy(shallow).eval()
        child.config._attn_implementation = use.attention
        try:
            prune(child, ((), dict(subject.data.few.inputs)), use)
            child(**subject.data.few.inputs)
        except Exception as error:  # what it raises is its own affair
            why = error
            continue
        if sum(each.numel() for each in child.parameters()) <= most:
            return child.train()
    raise RuntimeError(f"torch-pruning cannot halve it: {why or 'what runs is too large'}")


def filled(
    subject: Subject, plan: Plan, fitted: Mapping[str, torch.Tensor] | None = None, into: nn.Module | None = None
) -> nn.Module:
    child = subject.destination() if into is None else into
    fill(plan, subject.layout.trace.state.__getitem__, child, fitted or {})
    return child


ARMS: dict[str, Arm] = {
    "random": random,
    "weight selection": weight_selection,
    "mis-coupled": mis_coupled,
    "random but consistent": consistent,
    "paper": cloned(PAPER),
    "torch-pruning": torch_pruning,
    "full": cloned(FULL),
}
