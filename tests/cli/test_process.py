"""How the command ends: statuses, Ctrl-C, a kill, a reader that left."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import EINSUM, PARENT, SMALLER, Run, start


def test_the_command_says_what_it_can(run: Run) -> None:
    for words in (["-h"], ["--help"]):
        assert all(name in run(*words).out for name in ("inspect", "clone", "verify", "export", "demo"))
    assert run("--version").out == f"graphclone {importlib.metadata.version('graphclone')}\n"
    assert "Usage" in run().out + run().err
    assert run("frobnicate").status == 2
    assert "No such command" in run("frobnicate").err


def test_an_unknown_option_ends_the_real_command_with_an_error(tmp_path: Path) -> None:
    with start("inspect", "x", "--wy", "y", cwd=tmp_path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--why" in err


def _when_it_works(process: subprocess.Popen[str], folder: Path) -> None:
    """The half-written folder is there: it is at work."""
    for _ in range(600):
        if any(".partial-" in path.name for path in folder.iterdir()) or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    with start("clone", PARENT, *SMALLER, "-o", "child", cwd=tmp_path) as process:
        _when_it_works(process, tmp_path)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted, nothing was written" in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_an_object_is_cleared_away_is_not_lost() -> None:
    program = """
import sys, time
from graphclone.cli.console import interrupted_again
sys.unraisablehook = interrupted_again
class Cleared:
    def __del__(self):
        raise KeyboardInterrupt
try:
    Cleared()
    for _ in range(3000):
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "interrupted\n"


def test_a_kill_leaves_no_half_written_child(tmp_path: Path) -> None:
    with start("clone", PARENT, *SMALLER, "-o", "child", cwd=tmp_path) as process:
        _when_it_works(process, tmp_path)
        process.kill()
        process.communicate(timeout=60)
    assert not (tmp_path / "child").exists()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    with start("inspect", *EINSUM, "--json", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_results_are_plain_text_when_piped(tmp_path: Path) -> None:
    with start("inspect", *EINSUM, cwd=tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert "\x1b[" not in out
    assert "models_zoo.raw:EinsumGPT: " in out
    assert err == ""
