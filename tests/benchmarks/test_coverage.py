"""The real benchmark on one model: both tools, each attempt in its own process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")

from benchmarks import coverage
from benchmarks.side_by_side.reorder import permutation, zeroed
from benchmarks.side_by_side.roles import complaint, narrowed, shapes
from benchmarks.side_by_side.subjects import find
from benchmarks.side_by_side.theirs import BEST, PLAIN, Use, prune


def test_a_model_goes_through_both_tools_and_what_is_there_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "BEST", BEST[:2])  # of ten
    arguments = ["--models", "llama", "--limit", "120", "--output", str(tmp_path)]
    coverage.main(arguments)
    row = json.loads((tmp_path / "coverage.json").read_text())["models"]["llama"]
    assert row["graphclone"]["word"] == "full"
    assert row["best"]["word"] == "partial"
    assert row["best"]["roles"] == {"queries": "all", "keys and values": "none", "MLP": "all", "residual": "all"}
    assert len(row["attempts"]) == 2
    table = (tmp_path / "COVERAGE.md").read_text()
    assert "| llama | **full**" in table
    assert "keeps by design where query heads share them: llama." in table
    capsys.readouterr()
    coverage.main(arguments)
    assert "llama" not in capsys.readouterr().out
    assert (tmp_path / "COVERAGE.md").read_text() == table


def test_over_the_limit_is_told_so_and_the_process_is_gone() -> None:
    """With twice as many query heads as key/value heads, torch-pruning takes the halves of a rotary embedding for channels."""
    outcome = coverage.attempt("llama-2x", BEST[0].name, limit=3)
    assert (outcome["word"], outcome["reason"]) == ("hangs", "over 3 s")


def test_a_row_says_the_best_of_its_attempts() -> None:
    outcomes = [
        {"word": "wrong", "roles": {}},
        {"word": "partial", "roles": {"MLP": "all", "residual": "none"}},
        {"word": "partial", "roles": {"MLP": "all", "residual": "all"}},
    ]
    assert min(outcomes, key=coverage._rank) is outcomes[2]


def test_the_checks_tell_right_groups_from_wrong_ones() -> None:
    """Told of the heads, torch-pruning's groups of an encoder are right; told nothing, it mixes heads."""
    subject = find("vit")
    model, inputs = subject.build(), subject.inputs()
    for use, right in ((Use("best-whole-sdpa", "whole", "sdpa", False), True), (PLAIN, False)):
        child = subject.build()
        _, done = prune(child, inputs, use)
        assert not complaint(narrowed(shapes(model), shapes(child)))
        assert permutation(model, inputs, use, done).passed is right
        assert zeroed(model, inputs, use, done).passed is right


def test_a_role_that_no_parameter_plays_is_not_asked_for() -> None:
    net = nn.ModuleDict({"fc1": nn.Linear(8, 20), "fc2": nn.Linear(20, 8)})
    smaller = shapes(net) | {"fc1.weight": torch.Size((10, 8))}
    assert narrowed(shapes(net), smaller) == {"MLP": "all", "residual": "none"}
    assert complaint({"MLP": "all", "residual": "none"}) == "residual not narrowed"
