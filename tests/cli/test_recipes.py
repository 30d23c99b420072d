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
        (["--decay", "-1"], "cannot train with a weight decay of -1"),
        (["--decay", "nan"], "cannot train with a weight decay of nan"),
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


@pytest.mark.parametrize(
    ("held_out", "told"),
    [
        ({"labels": torch.full((32,), 99)}, "the parent cannot run on 'held.safetensors'"),
        ({"pixels": torch.zeros(32, 1, 8, 8)}, "the parent takes no input 'pixels'"),
        ({"labels": None}, "the parent gives no loss"),
    ],
)
def test_what_is_held_out_is_looked_at_before_any_child_is_made(
    run: Run, images: Path, held_out: dict[str, torch.Tensor | None], told: str
) -> None:
    whole = {name: tensor[:32].clone() for name, tensor in load_file(images).items()} | held_out
    save_file({name: tensor for name, tensor in whole.items() if tensor is not None}, "held.safetensors")
    done = run("race", PARENT, "--data", images, "--held-out", "held.safetensors", *SMALLER, "-o", "race")
    assert done.status == 2
    assert told in done.err
    assert not Path("race").exists()


FACTORY = """
import torch


class Net(torch.nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.drop = torch.nn.Linear(4, width), torch.nn.Linear(width, 1), drop

    def forward(self, x, y):
        units = torch.relu(self.up(x))
        if self.training:
            units = torch.nn.functional.dropout(units, self.drop)
        return ((self.down(units).mean(1) - y) ** 2).mean()


def net(width=16, drop=0.0):
    return Net(width, drop)
"""


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dropping_net.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    drawn = torch.Generator().manual_seed(0)
    save_file({"x": torch.randn(64, 5, 4, generator=drawn), "y": torch.randn(64, 1, generator=drawn)}, tmp_path / "n.safetensors")
    return tmp_path / "n.safetensors"


def test_runs_of_a_parent_that_trains_otherwise_are_not_gone_on_with(run: Run, numbers: Path) -> None:
    """What differs is in no graph of eval mode; and what a factory takes, the data say."""
    words = ["race", "dropping_net:net", "--data", numbers, "--set", "width=8", "--steps", "30", "--batch", "8", "--lr", "0.01"]
    kept = Path("race.partial.jsonl")
    assert run(*words, "--arg", "drop=0.9", "-o", "race").status == 0
    dropped = json.loads(Path("race/race.json").read_text())["arms"]
    assert run(*words, "-o", "plain").status == 0
    plain = json.loads(Path("plain/race.json").read_text())["arms"]
    assert dropped["paper"]["loss"][0] == plain["paper"]["loss"][0]
    assert dropped["paper"]["loss"] != plain["paper"]["loss"]
    lines = []
    for arg in ("0.9", "0.0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Kept, "forget", lambda *_: None)  # as if it had been stopped at the end
            assert run(*words, "--arg", f"drop={arg}", "-o", "race", "--overwrite").status == 0
        lines.append(len(kept.read_text().split()))
    assert lines[1] == 2 * lines[0], "the second race used a run of the first"


def test_a_graph_takes_nothing_held_out_of_another_size(run: Run, numbers: Path) -> None:
    save_file({"x": torch.randn(16, 3, 4), "y": torch.randn(16, 1)}, "held.safetensors")
    words = ["--width", "up.out=8", "--arm", "paper", "--steps", "4", "--batch", "8", "--lr", "0.01", "-o", "race"]
    layout = run("inspect", "dropping_net:net", "--input", "x=float32[8,5,4]", "--input", "y=float32[8,1]")
    name = next(word for word in layout.out.split() if word.endswith("hidden"))
    words[1] = f"{name}=8"
    done = run("race", "dropping_net:net", "--data", numbers, "--held-out", "held.safetensors", *words)
    assert done.status == 2
    assert "'x' is [3, 4] there, and [5, 4] in the data" in done.err


def test_a_race_that_diverges_says_so_and_writes_json(run: Run, numbers: Path) -> None:
    words = ["race", "dropping_net:net", "--data", numbers, "--set", "width=8", "--steps", "30", "--batch", "8", "--lr", "1e30"]
    done = run(*words, "--arm", "random", "-o", "race")
    assert done.status == 0
    assert "no run of random ends at a finite loss" in done.err
    assert json.loads(Path("race/race.json").read_text(), parse_constant=pytest.fail)["arms"]["random"]["loss"][-1] is None
