"""How units are ranked: by what calibration data makes them do, by their weights, or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from graphclone import sources
from graphclone.calibration import Calibration
from graphclone.cli.options import Asked
from graphclone.cli.wanted import Wanted
from graphclone.errors import SourceError, WeightsError
from graphclone.layout import Layout
from graphclone.recipe import Seen, look, recipe_named
from graphclone.scores import Scores, score_weights
from graphclone.sources import Parent
from graphclone.sources.words import nearest

Batch = dict[str, Tensor]


def ranked(asked: Asked, wanted: Wanted, parent: Parent, layout: Layout) -> tuple[Seen, Calibration | None]:
    """The scores that the recipe asks for, and the data that they are of, if any.

    **Raises** `SourceError` that says what is wrong with the data.
    """
    if wanted.data is None:
        return Seen(Scores() if wanted.scores == "uniform" else score_weights(layout)), None
    state = sources.read_state(wanted.data, allow_pickle=asked.allow_pickle)
    examples = examples_of(state, wanted.data)
    check_names(state, parent, wanted.data)
    try:
        calibration = Calibration.of(parent.module, _batches(state, examples, wanted.batch), layout)
        return look(layout, calibration, recipe_named(wanted.begins)), calibration
    except WeightsError:
        raise
    except Exception as error:  # whatever an op raises on an input of another range, dtype or shape than it expects
        raise cannot_run(f"'{wanted.data}'", state, error) from error


def cannot_run(where: str, tensors: Mapping[str, Tensor], error: Exception) -> SourceError:
    """What to say of data on which the parent raised an error."""
    shapes = ", ".join(f"{name} {str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items())
    return SourceError(
        f"the parent cannot run on {where}",
        because=f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({shapes})",
        attempt="data as the parent was trained on, one tensor per input, with examples along dim 0",
    )


def examples_of(state: Mapping[str, Tensor], path: Path) -> int:
    """How many examples a file of data has.

    **Raises** `SourceError` where its tensors do not agree on that.
    """
    counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in state.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        found = ", ".join(f"{name} {count}" for name, count in counts.items()) or "it holds no tensors"
        raise SourceError(
            f"cannot use '{path}' as calibration data",
            because=f"all tensors have the same number of examples along dim 0, at least one: {found}",
        )
    return next(iter(counts.values()))


def check_names(state: Mapping[str, Tensor], parent: Parent, path: Path) -> None:
    """**Raises** `SourceError` for a tensor that is no input of the parent (one that takes anything by name would pass over it)."""
    parameters = inspect.signature(parent.module.forward).parameters.values()
    names = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if names and (unknown := sorted(set(state) - set(names))):
        raise SourceError(
            f"cannot use '{path}' as calibration data",
            because=f"the parent takes no input '{unknown[0]}', but ({', '.join(names)})",
            attempt=nearest(unknown[0], names) or "tensors named as the parent's inputs",
        )


def _batches(state: Mapping[str, Tensor], examples: int, size: int) -> Iterator[Batch]:
    for start in range(0, examples, size):
        yield {name: tensor[start : start + size] for name, tensor in state.items()}
