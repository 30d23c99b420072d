"""The real command: in this process where a test is about what it says, in one of its own where it is about how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphclone.cli.app import app

ROOT = Path(__file__).parent.parent.parent
PARENT = ROOT / "graphclone" / "demo" / "parents" / "digits-vit"
EINSUM = ["models_zoo.raw:EinsumGPT", "--input", "int64[5,11]:0..61"]
EINSUM += [word for each in ("width=48", "heads=8", "head_dim=10", "hidden=56", "depth=4") for word in ("--arg", each)]
SMALLER = [
    "--set",
    "hidden_size=48",
    "--set",
    "num_hidden_layers=3",
    "--set",
    "num_attention_heads=3",
    "--set",
    "intermediate_size=96",
]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def command(*words: object) -> Done:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return command


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "graphclone", *map(str, words)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests in the background ignores it
    )
