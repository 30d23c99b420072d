"""What becomes of an exception, and what may be heard of a warning."""

from __future__ import annotations

import errno
import warnings

import pytest
import typer
from rich.text import Text

from graphclone.cli.console import DEFECT, INTERRUPTED, WRONG_INPUT, err, out, reporting
from graphclone.errors import FrozenError


def ended(error: BaseException, debug: bool = False) -> int:
    with pytest.raises(typer.Exit) as left, reporting(debug):
        raise error
    return left.value.exit_code


ERRORS = {
    "expected": (
        FrozenError("no", because="it is [c]", attempt="yes"),
        WRONG_INPUT,
        "FrozenError: no\n  because  it is [c]\n  try      yes",
    ),
    "system": (
        OSError(errno.ENOSPC, "No space left on device", "child"),
        WRONG_INPUT,
        "'child'\n  because  No space left on device",
    ),
    "missing": (ModuleNotFoundError("no timm", name="timm"), WRONG_INPUT, "try      pip install 'graphclone[timm]'"),
    "deep": (ModuleNotFoundError("no x", name="onnxscript.function_libs"), WRONG_INPUT, "pip install 'graphclone[onnx]'"),
    "renamed": (ModuleNotFoundError("no x", name="sklearn.datasets"), WRONG_INPUT, "pip install 'graphclone[vision]'"),
    "defect": (KeyError("weight"), DEFECT, "KeyError: 'weight'"),
    "interrupt": (KeyboardInterrupt(), INTERRUPTED, "interrupted, nothing was written"),
    "pipe": (BrokenPipeError(), 0, ""),
}


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "pipe"])
def test_an_exception_becomes_a_message_and_a_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, status, said = ERRORS[name]
    assert ended(error) == status
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_defect_says_where_it_is_and_how_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    ended(KeyError("weight"))
    said = capsys.readouterr().err
    assert "test_console.py:" in said
    assert "--debug" in said


@pytest.mark.parametrize("by", ["option", "environment"])
def test_debugging_shows_the_whole_traceback(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("GRAPHCLONE_DEBUG", "1")
    with pytest.raises(FrozenError), reporting(by == "option"):
        raise FrozenError("no")


def test_a_status_passes_through() -> None:
    assert ended(typer.Exit(1)) == 1


def test_graphclones_own_warnings_are_heard_and_those_of_libraries_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(False):
        warnings.warn_explicit("'x' holds weights that nobody uses", UserWarning, "a.py", 1, "graphclone.cli.children")
        warnings.warn_explicit("the API will change", UserWarning, "b.py", 1, "torch.nn")
        warnings.warn_explicit("soon gone", DeprecationWarning, "c.py", 1, "graphclone.cli.children")
    assert capsys.readouterr().err == "note: 'x' holds weights that nobody uses\n"


def test_a_pipe_takes_lines_of_any_length(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out().print("x " * 400)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    err().print(Text("red", style="red"))
    assert "\x1b[31m" not in capsys.readouterr().err
