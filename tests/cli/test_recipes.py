"""`--recipe` and `graphclone race`, through the real command."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import graphclone as gc
from graphclone.calibration import Calibration, Look
from graphclone.cli.kept import Kept, key
from graphclone.cli.kept import Run as Done
from graphclone.demo.data import digits
from graphclone.export.record import digest
from tests.cli.conftest import PARENT, SMALLER, Run, start


@pytest.fixture
def images(tmp_path: Path) -> Path:
    train = digits().train
    save_file(
        {"pixel_values": train.pixel_values[:128].contiguous(), "labels": train.labels[:128].contiguous()},
        tmp_path / "i.safetensors",
    )
    return tmp_path / "i.safetensors"


@pytest.mark.parametrize(
    "sizes", [SMALLER, ["--width", "residual=0.5", "--depth", "0.5"], ["--width", "residual=0.5", "--graph"]]
)
def test_a_full_beginning_is_written_and_verified(run: Run, images: Path, sizes: list[str]) -> None:
    made = run("clone", PARENT, *sizes, "--data", images, "--batch", "32", "--recipe", "full", "-o", "child")
    assert made.status == 0, made.err
    assert "its first principal axes" in made.out
    assert "computed from data" in made.out
    plan = gc.Plan.load("child/plan.json")
    assert plan.rotated == ("residual",)
    if sizes is SMALLER:  # a Hugging Face folder
        assert "are principal axes of the parent's" in Path("child/README.md").read_text()
    axes = load_file("child/axes.safetensors")["residual"]
    assert axes.shape == (96, 48)
    assert gc.distill_pairs(plan, {"residual": axes})[0].taught(axes.new_ones(2, 96)).shape == (2, 48)
    checked = run("verify", "child", "--parent", PARENT)
    assert checked.status == 0, checked.out + checked.err
    assert f"{len(plan.fitted)} of them as they are" in checked.out
    weights = load_file("child/model.safetensors")
    name = next(name for name in plan.fitted if name in weights)
    save_file(weights | {name: weights[name] * 1.01}, "child/model.safetensors", {"format": "pt"})
    trained = run("verify", "child", "--parent", PARENT)
    assert trained.status == 1, trained.out + trained.err
    assert "✗  fitted" in trained.out


@pytest.mark.parametrize("recipe", ["paper", "full"])
def test_the_parent_is_looked_at_once(run: Run, images: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, each = [], Calibration.each

    def counted(calibration: Calibration, *looks: Look, gradients: bool = False) -> None:
        passes.append(looks)
        each(calibration, *looks, gradients=gradients)

    monkeypatch.setattr(Calibration, "each", counted)
    made = run("clone", PARENT, *SMALLER, "--data", images, "--batch", "32", "--recipe", recipe, "-o", "child")
    assert made.status == 0, made.err
    assert len(passes) == 1


def test_a_recipe_that_cannot_be_followed_is_refused_before_any_work(run: Run, images: Path) -> None:
    without = run("clone", PARENT, *SMALLER, "--recipe", "full", "-o", "child")
    assert without.status == 2
    assert "--recipe full needs calibration data" in without.err
    unknown = run("clone", PARENT, *SMALLER, "--data", images, "--recipe", "magic", "-o", "child")
    assert unknown.status == 2
    assert "paper or full" in unknown.err
    assert not Path("child").exists()


def test_a_race_says_which_beginning_is_best(run: Run, images: Path) -> None:
    words = [
        "race",
        PARENT,
        "--data",
        images,
        *SMALLER,
        "--steps",
        "6",
        "--batch",
        "16",
        "--lr",
        "1e-3",
        "--lr",
        "2e-3",
        "-o",
        "race",
    ]
    done = run(*words)
    assert done.status == 0, done.err
    told = json.loads(Path("race/race.json").read_text())["arms"]
    assert list(told) == ["random", "paper", "full"]
    for each in told.values():
        assert each["steps"] == [0, 1, 2, 3, 4, 5, 6]
        assert min(each["ends"].values()) == each["loss"][-1] == each["ends"][f"{each['lr']:g}"]
        assert each["parameters"] == told["random"]["parameters"]
    assert told["full"]["loss"][0] < told["random"]["loss"][0]
    assert Path("race/loss.png").stat().st_size > 5000
    assert run(*words).status == 2  # the folder is there
    again = run(*words, "--overwrite")
    assert again.status == 0
    assert json.loads(Path("race/race.json").read_text())["arms"] == told


def test_a_race_that_was_stopped_goes_on(run: Run, images: Path, tmp_path: Path) -> None:
    words = ["race", PARENT, "--data", images, *SMALLER, "--steps", "20", "--batch", "16", "--lr", "1e-3", "--seeds", "2"]
    kept = tmp_path / "race.partial.jsonl"
    with start(*words, "-o", "race", cwd=tmp_path) as process:
        for _ in range(6000):  # a busy machine takes its time
            if kept.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "of 6 runs are kept in 'race.partial.jsonl': the same command goes on with the others" in err
    assert not Path("race").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"i.safetensors", kept.name}
    first = kept.read_text()

    other = run(*words, "--decay", "0.2", "--arm", "paper", "-o", "race")  # another race, to the same folder
    assert other.status == 0, other.err
    assert "going on" not in other.err
    assert kept.read_text().strip() == first.strip()

    done = run(*words, "-o", "race", "--overwrite")
    assert done.status == 0, done.err
    assert f"going on: {first.count('parameters')} of 6 runs are done and kept in 'race.partial.jsonl'" in done.err
    whole = run(*words, "-o", "whole")
    assert "going on" not in whole.err
    assert Path("race/race.json").read_text() == Path("whole/race.json").read_text()
    assert {path.name for path in Path("race").iterdir()} == {path.name for path in Path("whole").iterdir()}
    told = json.loads(Path("race/race.json").read_text())
    assert told["seeds"] == 2
    assert told["arms"]["random"]["deviation"][0] > 0  # two random children
    assert told["arms"]["full"]["deviation"][0] == 0  # one parent, one way to begin
    assert told["arms"]["full"]["deviation"][-1] > 0
    assert "±" in done.out


def test_a_line_that_was_cut_off_is_no_run(tmp_path: Path) -> None:
    kept = Kept.beside(tmp_path / "race")
    kept.add({"seed": 0}, Done(7, {0: 1.5, 2: 0.25}))
    kept.path.write_text(kept.path.read_text() + '\n{"of": {"seed": 1}, "par')
    kept.add({"seed": 2}, Done(7, {0: 1.0}))
    assert kept.read() == {key({"seed": 0}): Done(7, {0: 1.5, 2: 0.25}), key({"seed": 2}): Done(7, {0: 1.0})}
    kept.forget([{"seed": 0}])
    assert len(kept.read()) == 1
    kept.forget([{"seed": 2}])
    assert not kept.path.exists()


def test_a_digest_tells_values_names_and_types_apart() -> None:
    zero = {"a": torch.zeros(4)}
    others = [{"b": zero["a"]}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}, {"a": torch.ones(4)}]
    assert digest(zero) == digest({"a": torch.zeros(8)[::2]})
    assert len({digest(each) for each in [zero, *others]} | {digest(zero, "text")}) == 6
    assert digest({"a": torch.ones((), dtype=torch.bfloat16)}) != digest({"a": torch.zeros((), dtype=torch.bfloat16)})


def test_a_race_of_graphs_has_no_random_child_and_says_why(run: Run, images: Path) -> None:
    words = [
        "race",
        PARENT,
        "--data",
        images,
        "--width",
        "vit.layers.0.mlp.hidden=0.5",
        "--steps",
        "2",
        "--lr",
        "1e-3",
        "-o",
        "race",
    ]
    refused = run(*words)
    assert refused.status == 2
    assert "only a class knows how it is initialised" in refused.err
    assert not Path("race").exists()
    assert run(*words, "--arm", "paper").status == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arm", "fastest"], "no way to begin is called 'fastest'"),
        (["--lr", "0"], "cannot train at the rates 0"),
        (["--steps", "0"], "at least one step"),
        (["--seeds", "0"], "one seed"),
        (["--batch", "100"], "too few examples for a race"),
    ],
)
def test_a_race_that_cannot_be_run_is_refused(run: Run, images: Path, words: list[str], told: str) -> None:
    done = run("race", PARENT, "--data", images, *SMALLER, *words, "-o", "race")
    assert done.status == 2
    assert told in done.err
    assert not Path("race").exists()


def test_a_race_without_labels_is_refused_before_any_child_is_made(run: Run, images: Path) -> None:
    save_file({"pixel_values": load_file(images)["pixel_values"]}, "bare.safetensors")
    done = run("race", PARENT, "--data", "bare.safetensors", *SMALLER, "-o", "race")
    assert done.status == 2
    assert "the parent gives no loss" in done.err
    assert "labels among the tensors of --data" in done.err
