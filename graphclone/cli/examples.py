"""What a race learns from, what is held out, and the loss that a model says it has on either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphclone import sources
from graphclone.cli.options import Asked
from graphclone.cli.ranking import cannot_run, check_names, examples_of
from graphclone.cli.wanted import Wanted
from graphclone.errors import GraphcloneError, SourceError
from graphclone.sources import Parent

_HELD_OUT = 8  # one example of so many, where no file says which

Batch = dict[str, Tensor]


def split_data(asked: Asked, wanted: Wanted, file: Path | None) -> tuple[Batch, list[Batch]]:
    """What is learnt from, and batches of what is not: of a `file`, or the last eighth of the data.

    **Raises** `SourceError`.
    """
    assert wanted.data is not None
    train = sources.read_state(wanted.data, allow_pickle=asked.allow_pickle)
    count = examples_of(train, wanted.data)
    if file is not None:
        held_out = sources.read_state(file, allow_pickle=asked.allow_pickle)
        examples_of(held_out, file)
    else:
        apart = count // _HELD_OUT
        held_out = {name: tensor[count - apart :] for name, tensor in train.items()}
        train = {name: tensor[: count - apart] for name, tensor in train.items()}
    least = min(examples_of(train, wanted.data), examples_of(held_out, wanted.data) if held_out else 0)
    if least < wanted.batch:
        raise SourceError(
            f"'{wanted.data}' has too few examples for a race",
            because=f"there are {count}, of which an eighth is held out: {least}, fewer than a batch of {wanted.batch}"
            if file is None
            else f"there are {least} on one side, fewer than a batch of {wanted.batch}",
            attempt="more data, --held-out FILE, or a smaller --batch",
        )
    whole = range(0, len(next(iter(held_out.values()))) // wanted.batch * wanted.batch, wanted.batch)
    return train, [{name: tensor[at : at + wanted.batch] for name, tensor in held_out.items()} for at in whole]


def check_held_out(parent: Parent, held_out: list[Batch], file: Path | None) -> None:
    """**Raises** `SourceError` where the parent cannot be run on what is held out, or gives no loss there."""
    if file is not None:
        check_names(held_out[0], parent, file)
    for batch in held_out:
        try:
            with torch.no_grad():
                loss_of(parent.module, batch, name="parent")
        except GraphcloneError:
            raise
        except Exception as error:  # whatever an op raises on an input of another range, dtype, shape or name than it expects
            where = f"'{file}'" if file is not None else "the examples that are held out"
            raise cannot_run(where, batch, error) from error


def check_sizes(train: Batch, held_out: list[Batch]) -> None:
    """**Raises** `SourceError`: a rewritten graph takes inputs of one size."""
    for name, each in held_out[0].items():
        if each.shape[1:] != train[name].shape[1:]:
            ours, theirs = list(train[name].shape[1:]), list(each.shape[1:])
            raise SourceError(
                f"what is held out has other sizes than the data: '{name}' is {theirs} there, and {ours} in the data",
                because="the child is a rewritten graph, which takes inputs of the sizes that it was captured with",
                attempt="held-out examples as long as the others, or sizes that the parent's class can have (--set)",
            )


def loss_of(model: nn.Module, batch: Batch, *, name: str) -> Tensor:
    """What the model itself calls its loss: `.loss` of its output, or a first output without dims.

    **Raises** `SourceError` where it has none.
    """
    found: Any = model(**batch)
    loss = getattr(found, "loss", None)
    if loss is None and isinstance(found, Mapping):
        loss = found.get("loss")
    if loss is None:
        loss = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(loss, Tensor) or loss.dim():
        raise SourceError(
            f"the {name} gives no loss",
            because="its output has no `.loss`, and its first one is no scalar",
            attempt="labels among the tensors of --data, named as the parent's forward names them",
        )
    return loss


def shuffled(data: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches; every example once, then again in another order."""
    order, count = torch.Generator().manual_seed(seed), len(next(iter(data.values())))
    while True:
        for at in torch.split(torch.randperm(count, generator=order), size):
            if len(at) == size:
                yield {name: tensor[at] for name, tensor in data.items()}
