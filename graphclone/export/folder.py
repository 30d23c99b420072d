"""Outputs that are there as a whole or not at all: written to a temporary sibling, renamed at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from graphclone.errors import OutputError

# One of these is in every folder that is written here: of a child, a race, the demo.
_MARKS = {"config.json", "plan.json", "race.json", "results.json"}


@contextlib.contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which becomes `target` when the block ends well.

    With `overwrite` an existing `target` is replaced, and only then: until the last moment it stays as it was. An
    exception (or Ctrl-C) removes what was written; a killed process leaves nothing but a `.NAME.partial-…` beside it.

    Raises:
        OutputError: `target` exists without `overwrite`, is the current folder or lies above it, holds something but no model or race,
            or cannot be written.
    """
    with _replacing(target, overwrite, Path.mkdir) as partial:
        yield partial


@contextlib.contextmanager
def new_file(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write a file to, which becomes `target` when the block ends well; it keeps the suffix of `target`.

    Raises:
        OutputError: `target` exists without `overwrite`, is a folder, or cannot be written.
    """
    if target.is_dir():
        raise OutputError(f"cannot write the file '{target}'", because="a folder of that name exists")
    with _replacing(target, overwrite, lambda path: None) as partial:
        yield partial
        if not partial.is_file():
            raise OutputError(f"cannot write '{target}'", because="nothing was written")


@contextlib.contextmanager
def new_files(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """As `new_file`, for a file that may have others beside it, which begin with its name (`NAME.onnx.data`, `NAME.encoder.onnx`).

    Raises:
        OutputError: as `new_file`, for any of them.
    """
    with new_file(target, overwrite) as partial, tempfile.TemporaryDirectory(prefix=partial.name, dir=partial.parent) as folder:
        written = Path(folder) / target.name  # the name that it will have: the file names its data by it
        yield written
        for other in sorted(set(Path(folder).iterdir()) - {written}):  # moved first
            with new_file(target.with_name(other.name), overwrite) as place:
                os.rename(other, place)
        if written.is_file():
            os.rename(written, partial)


@contextlib.contextmanager
def _replacing(target: Path, overwrite: bool, make: Callable[[Path], None]) -> Iterator[Path]:
    target = Path(os.path.abspath(target.expanduser()))  # not resolve(): a link is replaced, not what it points to
    if _exists(target) and not overwrite:
        raise OutputError(
            f"will not write '{target}'",
            because="it exists already",
            attempt="another name, or --overwrite (overwrite=True) to replace it",
        )
    if overwrite and any(place.is_relative_to(target) for place in (Path.cwd(), Path.home())):
        raise OutputError(f"will not overwrite '{target}'", because="the current folder or your home lies in it")
    if overwrite and (names := _strange(target)):
        raise OutputError(
            f"will not overwrite '{target}'",
            because=f"it is no folder that graphclone writes: '{names[0]}' lies in it",
            attempt="another name, or removing it first",
        )
    partial = target.with_name(f".{target.stem}.partial-{secrets.token_hex(4)}{target.suffix}")
    try:  # from here on: Ctrl-C may come as soon as there is something
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            make(partial)
        except OSError as error:
            raise OutputError(f"cannot write '{target}'", because=f"{error.strerror}: '{error.filename}'") from error
        yield partial
        _share(partial)
        _move(partial, target, overwrite)
    finally:  # nothing is left here once it has moved
        _remove(partial)


def _strange(target: Path) -> list[str]:
    """What lies in a folder that holds neither a model nor a race; of a link, the link alone is replaced."""
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() and not target.is_symlink() else []
    return [] if _MARKS & set(names) else names


def _share(partial: Path) -> None:
    """The modes that files usually have here: safetensors writes its own for the owner only."""
    umask = os.umask(0)
    os.umask(umask)
    for path in [partial, *partial.rglob("*")]:
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~umask)


def _move(partial: Path, target: Path, overwrite: bool) -> None:
    """Rename; a folder that stands in the way is renamed first, restored if that fails, and removed last."""
    aside = target.with_name(f".{target.name}.replaced-{secrets.token_hex(4)}")
    try:
        if _exists(target):
            if not overwrite:
                raise OutputError(f"will not write '{target}'", because="it came to exist while its contents were written")
            os.rename(target, aside)
        try:
            os.rename(partial, target)
        except BaseException:
            if _exists(aside):
                os.rename(aside, target)
            raise
    except OSError as error:
        raise OutputError(f"cannot write '{target}'", because=f"{error.strerror}") from error
    _remove(aside)


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
