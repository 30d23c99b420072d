"""`--recipe` and `graphclone race`, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import graphclone as gc
from graphclone.calibration import Calibration, Look
from graphclone.demo.data import digits
from tests.cli.conftest import PARENT, SMALLER, Run


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
        assert "principal axes of the parent's stream" in Path("child/README.md").read_text()
    axes = load_file("child/axes.safetensors")["residual"]
    assert axes.shape == (96, 48)
    assert gc.distill_pairs(plan, {"residual": axes})[0].taught(axes.new_ones(2, 96)).shape == (2, 48)
    checked = run("verify", "child", "--parent", PARENT)
    assert checked.status == 0, checked.out + checked.err
    assert "two roads" in checked.out


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
        (["--batch", "100"], "too few examples for a race"),
    ],
)
def test_a_race_that_cannot_be_run_is_refused(run: Run, images: Path, words: list[str], told: str) -> None:
    done = run("race", PARENT, "--data", images, *SMALLER, *words, "-o", "race")
    assert done.status == 2
    assert told in done.err
    assert not Path("race").exists()
