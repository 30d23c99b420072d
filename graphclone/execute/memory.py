"""The one road from parent tensors to child tensors: positions from the plan, in memory or tensor by tensor from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from graphclone.errors import PlanError
from graphclone.plan import Plan


def pick(tensor: Tensor, positions: Sequence[Sequence[int]], scale: float = 1.0) -> Tensor:
    """The given positions of each dim, times `scale`, as a tensor of its own.

    **Raises** `PlanError` for integers times anything: a scale would overflow or round them.
    """
    picked = tensor.detach()
    for dim, chosen in enumerate(positions):
        if chosen != range(picked.shape[dim]):
            picked = picked.index_select(dim, torch.as_tensor(chosen, dtype=torch.long, device=tensor.device))
    if scale != 1.0:
        if not (picked.is_floating_point() or picked.is_complex()):
            raise PlanError(f"the plan scales a tensor of {picked.dtype}", attempt="a plan that was made from this parent")
        wide = picked.float() if picked.element_size() == 1 else picked  # eight bits have no arithmetic of their own
        return (wide * scale).to(picked.dtype)
    return picked.clone() if picked.untyped_storage()._cdata == tensor.untyped_storage()._cdata else picked


def weights(
    plan: Plan, fetch: Callable[[str], Tensor], fitted: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The child's tensors one by one; `fetch` gives a parent's tensor by name, so nothing else has to be in memory. `fitted`: those that
    are computed from data (`Plan.fitted`), by the child's names.

    **Raises** `PlanError` when a tensor of the parent is missing or has another shape than the plan says.
    """
    if missing := [name for name in plan.fitted if name not in (fitted or {})]:
        raise PlanError(
            f"'{missing[0]}' is no selection of the parent's units",
            because=f"it was computed from data, as {len(plan.fitted)} tensors of this plan were, and a plan has no weights",
            attempt="the child itself, which holds them, or a recipe without rotation and refit",
        )
    for name, read_axes in positions(plan):
        if name in plan.fitted:
            yield name, _checked(fitted[name], [len(kept) for _, kept in read_axes], name)  # type: ignore[index]
            continue
        piece = plan.tensors[name]
        try:
            source = fetch(piece.source)
        except KeyError:
            raise PlanError(
                f"the plan needs the parent's tensor '{piece.source}' for '{name}', and the parent has none"
            ) from None
        expected = [size for size, _ in read_axes]
        if list(source.shape) != expected:
            raise PlanError(
                f"'{piece.source}' has the shape {list(source.shape)}, the plan was made for {expected}",
                attempt="the parent of the plan",
            )
        yield name, pick(source, [kept for _, kept in read_axes], piece.scale)


def _checked(tensor: Tensor, shape: list[int], name: str) -> Tensor:
    if list(tensor.shape) != shape:
        raise PlanError(f"'{name}' was fitted as {list(tensor.shape)}; the plan makes it {shape}")
    return tensor.detach().clone()


def positions(plan: Plan) -> Iterator[tuple[str, list[tuple[int, Sequence[int]]]]]:
    """For each tensor of the child: the size of each dim in the parent, and which of its positions the child has."""
    read = plan.selection()
    for name, piece in plan.tensors.items():
        found = [read(text) for text in piece.axes]
        yield name, [(size, piece.take.get(dim, kept)) for dim, (size, kept) in enumerate(found)]


def child_state(plan: Plan, state: Mapping[str, Tensor], fitted: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All of the child's tensors, ties under each of their names (as one tensor)."""
    made = dict(weights(plan, state.__getitem__, fitted))
    return {**made, **{alias: made[name] for alias, name in plan.aliases.items() if name in made}}
