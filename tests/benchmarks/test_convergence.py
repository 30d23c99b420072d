"""The race of all rivals, in a few steps; its page; and that it goes on where it was interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.convergence.grid import Grid
from benchmarks.convergence.page import reaching
from benchmarks.convergence.runs import Run

ROOT = Path(__file__).parent.parent.parent


def _command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.convergence", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_all_is_run_and_written_and_not_run_again(tmp_path: Path) -> None:
    words = [
        "--short",
        "--task",
        "vision",
        "--arm",
        "random",
        "mis-coupled",
        "full",
        "full + distillation",
        "--jobs",
        1,
        "-o",
        tmp_path,
    ]
    first = _command(*words)
    runs = json.loads((tmp_path / "convergence.json").read_text())
    assert not [each for each in runs.values() if "error" in each], runs
    assert len(first.stdout.splitlines()) == len(runs)
    page = (tmp_path / "CONVERGENCE.md").read_text()
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")][1:] == [
        "| random",
        "| mis-coupled",
        "| full",
        "| full + distillation",
    ]
    assert (tmp_path / "convergence-vision.png").stat().st_size > 5000
    lost = next(key for key in runs if key.startswith("vision | full | 4 steps") and key.endswith("seed 1"))
    (tmp_path / "convergence.json").write_text(json.dumps({key: each for key, each in runs.items() if key != lost}))
    assert [line.partition(": ")[0] for line in _command(*words).stdout.splitlines()] == [lost]
    again = json.loads((tmp_path / "convergence.json").read_text())
    assert again[lost]["loss"] == runs[lost]["loss"]


GRID = Grid((10, 40), (10, 40), (1.0, 2.0), (0.1, 0.0), (0, 1))


def _run(steps: int, lr: float, decay: float = 0.1, seed: int = 0) -> Run:
    return Run("text", "paper", steps, lr, decay, seed)


def test_the_best_rate_and_decay_of_the_first_seed_are_what_other_seeds_have() -> None:
    results: dict[str, dict[str, list[float]]] = {}
    waves = []
    while runs := GRID.next(results, "text", "paper"):
        waves.append(set(runs))
        for run in runs:  # short runs want the high rate, long ones the low; no decay is best
            results[run.key] = {"loss": [9.0, abs(run.lr - (2 if run.steps == 10 else 1)) + run.decay + run.seed]}
    assert waves == [
        {_run(10, 1), _run(10, 2), _run(40, 1), _run(40, 2)},
        {_run(40, 1, 0.0)},
        {_run(10, 2, 0.0), *(_run(40, 1, 0.0, 1), _run(10, 2, 0.0, 1))},
    ]
    assert [each["loss"][-1] for each in GRID.curves(results, "text", "paper", 10)] == [0.0, 1.0]


def test_a_budget_between_two_is_read_off_over_its_logarithm() -> None:
    ends = {10: [3.0], 40: [1.0, 1.0], 160: [0.5]}
    assert reaching(ends, 2.0) == pytest.approx(20)
    assert reaching(ends, 1.0) == pytest.approx(40)
    assert reaching(ends, 3.5) == 10
    assert reaching(ends, 0.1) is None
