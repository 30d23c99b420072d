"""Where things are printed, and what becomes of an exception: results on stdout, everything else on stderr."""

from __future__ import annotations

import _thread
import contextlib
import importlib.metadata
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.text import Text

from graphclone.errors import GraphcloneError

FAILED, WRONG_INPUT, DEFECT, INTERRUPTED = 1, 2, 70, 130
_ENDLESS = 10_000  # columns


class _Results(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # a reader that has seen enough: see `reporting`


def out() -> Console:
    """Results. Piped, a line is as long as it needs to be, so that no name is folded and `grep` finds it."""
    fitted = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _Results(highlight=False, width=None if fitted else _ENDLESS)


def err() -> Console:
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A line on stderr that says what takes so long, gone when it is done."""
    with err().status(Text(f"{what} …")):
        yield


@contextlib.contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Expected errors become their message and exit status 2; Ctrl-C becomes 130, and a line of its own text if it has one; a reader
    that left is no error."""
    debug = debug or bool(os.environ.get("GRAPHCLONE_DEBUG"))
    try:
        with contextlib.nullcontext() if debug else _own_warnings():
            yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except KeyboardInterrupt as stopped:
        err().print(str(stopped) or "interrupted, nothing was written", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more when it ends
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        status, text = _explained(error)
        err().print(text, soft_wrap=True)
        raise typer.Exit(status) from None


def interrupted_again(lost: sys.UnraisableHookArgs) -> None:
    """Python drops a Ctrl-C that comes while it clears an object away: here it comes again, a moment later."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _explained(error: Exception) -> tuple[int, Text]:
    """The exit status and the message that an exception becomes."""
    name = type(error).__name__
    if isinstance(error, GraphcloneError):
        return WRONG_INPUT, _message(name, str(error))
    if isinstance(error, ModuleNotFoundError) and (extra := _extra(error.name or "")):
        return WRONG_INPUT, _message(
            name, f"this needs '{error.name}'", "it is not installed", f"pip install 'graphclone[{extra}]'"
        )
    if isinstance(error, OSError) and error.strerror:
        return WRONG_INPUT, _message(name, f"cannot read or write '{error.filename or 'a file'}'", error.strerror)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"it was raised at {frame.filename}:{frame.lineno}, where nothing should be: this is a defect of graphclone"
    return DEFECT, _message(name, str(error), where, "the same command with --debug, and reporting what it prints")


def _message(name: str, what: str, because: str = "", attempt: str = "") -> Text:
    """The form that the errors of graphclone have by themselves."""
    rest = f"\n  because  {because}" * bool(because) + f"\n  try      {attempt}" * bool(attempt)
    return Text.assemble((f"{name}: ", "bold red"), what, rest)


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    """What graphclone has to say of a parent is a line on stderr; what libraries say to their developers is left out."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        err().print(f"note: {message}", markup=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"graphclone\.(cli|sources)\b")
        warnings.showwarning = show
        yield


def _extra(library: str) -> str | None:
    """The extra of graphclone's own metadata that brings a library."""
    name = {"sklearn": "scikit-learn"}.get(library.split(".")[0], library.split(".")[0])
    for requirement in importlib.metadata.requires("graphclone") or ():
        package, _, condition = requirement.partition(";")
        extra = condition.partition("extra ==")[2].strip().strip("'\"")
        if extra not in ("", "dev") and package.strip().startswith(name):
            return extra
    return None
