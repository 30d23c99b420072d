"""What has to be there before the demo does any work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch

from graphclone.errors import SourceError


def require(extras: Sequence[str], libraries: Sequence[str]) -> None:
    """**Raises** `SourceError` if a library is not installed; it says how to install all of them."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise SourceError(
            "the demo cannot start",
            because=f"not installed: {', '.join(missing)}",
            attempt=f"pip install 'graphclone[{','.join(extras)}]'",
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread per operation inside: matrices this small are not worth more, and threads that share one wait for each other
    wherever the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
