"""How the command ends: statuses, Ctrl-C, a kill, a reader that left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.conftest import PARENT, ROOT, SMALLER, start


def test_the_command_is_installed_and_says_what_it_can() -> None:
    done = subprocess.run([sys.executable, "-m", "graphclone", "-h"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("inspect", "clone", "verify", "export", "demo"))
    version = subprocess.run([sys.executable, "-m", "graphclone", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("graphclone 0.")


def test_an_unknown_command_is_an_error() -> None:
    done = subprocess.run([sys.executable, "-m", "graphclone", "frobnicate"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command" in done.stderr


def _when_it_works(process: subprocess.Popen[str], folder: Path) -> None:
    """The half-written folder is there: it is at work."""
    for _ in range(600):
        if any(".partial-" in path.name for path in folder.iterdir()) or process.poll() is not None:
            return
        time.sleep(0.05)


def test_ctrl_c_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    with start("clone", PARENT, *SMALLER, "-o", "child", cwd=tmp_path) as process:
        _when_it_works(process, tmp_path)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted, nothing was written" in err
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_half_written_child(tmp_path: Path) -> None:
    with start("clone", PARENT, *SMALLER, "-o", "child", cwd=tmp_path) as process:
        _when_it_works(process, tmp_path)
        process.kill()
        process.communicate(timeout=60)
    assert not (tmp_path / "child").exists()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    with start("inspect", PARENT, "--json", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_results_are_plain_text_when_piped() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphclone", "inspect", str(PARENT)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "\x1b[" not in done.stdout
    assert done.stderr.strip() == ""
