"""The first-class call: fill a network that the user built with the weights of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from graphclone.calibration import Calibration
from graphclone.capture import capture
from graphclone.destination import plan_for
from graphclone.errors import SizeError, WeightsError
from graphclone.execute import fill
from graphclone.execute.destination import Filled
from graphclone.layout import Layout, analyze
from graphclone.passes import DropBlocks, Scale, Shrink, whole
from graphclone.plan import Plan
from graphclone.recipe import DEFAULT, Beginning, Recipe, begin, recipe_named
from graphclone.scores import Scores, score_weights

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Report:
    """What `subclone` did: the `plan`, and what came from where (`filled`). Printed, it is both.

    `axes`: of rotated streams, see `graphclone.recipe.Beginning`.
    """

    plan: Plan
    filled: Filled
    axes: Mapping[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(dict.fromkeys(f"{self.plan}\n{self.filled}".splitlines()))  # both have the plan's remarks


def plan(
    layout: Layout,
    *,
    width: Mapping[str, int | float] | None = None,
    depth: int | float | Mapping[str, int | float] | None = None,
    destination: Layout | None = None,
    scores: Scores | None = None,
    scale: bool = True,
) -> Plan:
    """What a child is made of, from widths and a depth, or from a destination.

    **Arguments**

    - `width`: factor name or pattern → number of units to keep, or a share (0.5) of the parent's;
    - `depth`: blocks to keep in each stack, or a share; per stack as a mapping;
    - `destination`: the layout of a module that the child has to fit, analysed with `analyze(trace, like=layout.blocks)`;
    - `scores`: what is kept first (`score_activations`, `score_weights`); without, units at even distances;
    - `scale`: weights × sqrt(d / d′), see `graphclone.passes.Scale`.

    **Raises** `UnknownNameError`, `FrozenError`, `SizeError`, `DestinationError`.
    """
    if destination is not None:
        return plan_for(layout, destination, scores, scale)
    if width is not None and not isinstance(width, Mapping):
        raise SizeError(
            f"`width` cannot be {width!r}",
            because="it says how many units of which factor are kept",
            attempt=f"width={{'residual': {width!r}}}",
        )
    made = whole(layout)
    scores = scores or Scores()
    made = DropBlocks(depth, scores=scores)(made, layout) if depth is not None else made
    made = Shrink(width or {}, scores)(made, layout)
    return Scale()(made, layout) if scale else made


def subclone(
    parent: nn.Module,
    destination: M | Callable[[], M],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    data: Iterable[Any] | None = None,
    scores: Scores | None = None,
    scale: bool = True,
    recipe: str | Recipe = DEFAULT,
) -> tuple[M, Report]:
    """Initialise `destination` from `parent` (weight subcloning, arXiv 2312.09299).

    **Arguments**

    - `destination`: a module of the parent's kind, smaller in width or depth (deeper is fine); or a function that makes one;
    - `args`, `kwargs`: example inputs, as both models take them;
    - `data`: calibration batches, each a mapping of keyword arguments, a tuple of positional ones, or a tensor. Without them units are
      ranked by the norm of their weights;
    - `scores`: ready-made scores instead;
    - `recipe`: how the child begins where there is data, by name or as a `graphclone.recipe.Recipe`: `full` drops the blocks of least
      influence, rotates the residual stream and fits what was cut in closed form; `paper` selects, as weight subcloning does.

    **Returns** the destination itself, filled, and a report of what came from where (with the plan).

    **Raises** `CaptureError`, `DestinationError`, `WeightsError`, `UnknownNameError`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipe_named(recipe)
    check_finite(parent)
    child: Any = destination if isinstance(destination, nn.Module) else destination()
    trace = capture(parent, args, kwargs)
    layout = analyze(trace)
    modes = {module: module.training for module in child.modules()}
    try:  # in the parent's mode: dropout and batch statistics are no difference between the two
        target = capture(child.train(parent.training), args, kwargs, check=False)
    finally:
        for module, mode in modes.items():
            module.training = mode
    goal = analyze(target, like=layout.blocks)
    if scores is None and data is not None:
        begun = begin(
            layout, Calibration.of(parent, data, layout), recipe, lambda ours, found: plan_for(ours, goal, found, scale)
        )
    else:
        begun = Beginning(plan_for(layout, goal, scores or score_weights(layout), scale))
    made = begun.plan
    return child, Report(made, fill(made, trace.state.__getitem__, child, begun.fitted), begun.axes)


def check_finite(model: nn.Module) -> None:
    """**Raises** `WeightsError` that names the parameters with NaN or infinite values, and the buffers with NaN (a mask may hold -inf)."""
    bad = [name for name, tensor in model.named_parameters() if not tensor.is_meta and not bool(_wide(tensor).isfinite().all())]
    bad += [name for name, tensor in model.named_buffers() if not tensor.is_meta and bool(_wide(tensor).isnan().any())]
    if bad:
        more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
        raise WeightsError(f"the parent's weights are not finite: {', '.join(bad[:4])}{more}", attempt="another checkpoint")


def _wide(tensor: Tensor) -> Tensor:
    """Eight-bit floats cannot be asked whether they are finite."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
