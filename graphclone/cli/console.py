"""Where things are printed, and what becomes of an exception: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.text import Text

from graphclone.errors import GraphcloneError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class _Results(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # a reader that has seen enough: see `reporting`


def out() -> Console:
    """Results. Piped, they are as wide as they need to be, so that no name is cut."""
    return _Results(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def err() -> Console:
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A line on stderr that says what takes so long, gone when it is done."""
    with err().status(f"{what} …"):
        yield


@contextlib.contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Expected errors become their message and exit status 2; Ctrl-C becomes 130; a reader that left is no error."""
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # libraries speak to their developers
            yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        err().print("interrupted, nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more when it ends
        raise typer.Exit(0) from None
    except GraphcloneError as error:
        if debug or os.environ.get("GRAPHCLONE_DEBUG"):
            raise
        err().print(Text.assemble((f"{type(error).__name__}: ", "bold red"), str(error)), soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from None
    except ModuleNotFoundError as error:
        extra = _extra(error.name or "")
        if not extra or debug or os.environ.get("GRAPHCLONE_DEBUG"):
            raise
        err().print(
            f"this needs '{error.name}', which is not installed\n  try      pip install 'graphclone[{extra}]'", markup=False
        )
        raise typer.Exit(WRONG_INPUT) from None


def _extra(library: str) -> str | None:
    """The extra of graphclone's own metadata that brings a library."""
    name = {"sklearn": "scikit-learn"}.get(library.split(".")[0], library.split(".")[0])
    for requirement in importlib.metadata.requires("graphclone") or ():
        package, _, condition = requirement.partition(";")
        if "extra ==" in condition and package.strip().startswith(name):
            return condition.split("extra ==")[1].strip().strip("'\"")
    return None
