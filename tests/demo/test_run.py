"""The demo from end to end in four training steps: the real parents, the real data, every form of output."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from typer.testing import CliRunner

import graphclone as gc
from graphclone.cli.app import app
from graphclone.demo import ready, run
from graphclone.demo.curves import Curve, Score, speed_up
from graphclone.demo.task import TASKS, task_named
from graphclone.errors import OutputError, SourceError, UnknownNameError
from graphclone.verify import Report, Verdict

FILES = {"loss.png", "child", "child.onnx", "calibration.safetensors", "results.json"}


@dataclass(frozen=True)
class Ran:
    task: str
    folder: Path
    printed: str
    figures: Any


@pytest.fixture(scope="module", params=["text", "vision"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp(request.param) / "demo"
    console = Console(file=StringIO(), width=140)
    assert run.run_demo(folder, task=request.param, quick=True, console=console) == 0
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    return Ran(request.param, folder, printed, json.loads((folder / "results.json").read_text(encoding="utf-8")))


def test_everything_that_it_names_is_written_and_nothing_else(ran: Ran) -> None:
    assert {path.name for path in ran.folder.iterdir()} == FILES
    assert [path.name for path in ran.folder.parent.iterdir()] == ["demo"]
    assert all(name in ran.printed for name in FILES)


def test_the_plot_is_a_small_png(ran: Ran) -> None:
    data = (ran.folder / "loss.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


def test_every_oracle_has_passed_the_two_roads_among_them(ran: Ran) -> None:
    assert [verdict["oracle"] for verdict in ran.figures["oracles"]][-1] == "two roads"
    assert all(verdict["passed"] for verdict in ran.figures["oracles"])
    assert ran.printed.count("✓") == len(ran.figures["oracles"]) == 6


def test_the_parent_is_as_good_as_it_is_said_to_be(ran: Ran) -> None:
    assert ran.figures["parent"]["right"] > {"text": 0.65, "vision": 0.97}[ran.task]
    assert f"{ran.figures['parent']['loss']:.3f} {ran.figures['loss_unit']}" in ran.printed


_SHOWN: dict[str, Callable[[float], str]] = {"loss": "{:.3f}".format, "right": "{:.1%}".format}


def test_what_is_printed_is_what_results_json_says(ran: Ran) -> None:
    curves = ran.figures["curves"]
    rows = [cells for line in ran.printed.splitlines() if len(cells := line.split()) == 5 and cells[0].isdigit()]
    expected = [
        [str(step), *(f(curves[name][key][i]) for name in ("twin", "clone") for key, f in _SHOWN.items())]
        for i, step in enumerate(curves["twin"]["steps"])
    ]
    assert rows == expected
    assert ran.figures["speed_up"]["text"] in ran.printed
    assert f"largest difference {ran.figures['onnx_difference']:.1e}" in ran.printed
    assert f"{ran.figures['child']['parameters']:,} parameters" in ran.printed
    assert ran.figures["data"] in ran.printed


def test_the_speed_up_follows_from_the_curves_in_results_json(ran: Ran) -> None:
    clone, twin = (
        Curve(tuple(curve["steps"]), tuple(map(Score, curve["loss"], curve["right"])))
        for curve in (ran.figures["curves"][name] for name in ("clone", "twin"))
    )
    assert str(speed_up(clone, twin)) == ran.figures["speed_up"]["text"]


def test_the_written_child_is_the_users_own_class_with_the_demanded_config(ran: Ran) -> None:
    child = getattr(transformers, TASKS[ran.task].loader).from_pretrained(ran.folder / "child")
    for name, value in TASKS[ran.task].child.items():
        assert getattr(child.config, name) == value
    assert type(child).__name__ == json.loads((TASKS[ran.task].parent / "config.json").read_text())["architectures"][0]
    assert sum(parameter.numel() for parameter in child.parameters()) == ran.figures["child"]["parameters"]
    plan = gc.Plan.load(ran.folder / "child" / "plan.json")
    assert child.state_dict().keys() <= plan.tensors.keys(), "the plan says where each tensor came from"


def test_the_differences_are_those_of_one_and_the_same_model(ran: Ran) -> None:
    assert ran.figures["reload_difference"] <= 1e-5
    assert ran.figures["onnx_difference"] <= 1e-3


def test_the_command_that_is_printed_makes_the_same_clone(ran: Ran, tmp_path: Path) -> None:
    (line,) = (line.strip() for line in ran.printed.splitlines() if line.strip().startswith("graphclone clone"))
    _, *arguments, _ = shlex.split(line)
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "child")])
    assert result.exit_code == 0, result.output
    assert gc.Plan.load(tmp_path / "child" / "plan.json").keep == gc.Plan.load(ran.folder / "child" / "plan.json").keep


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(run, "_play", work)


def quiet() -> Console:
    return Console(file=StringIO(), width=140)


@pytest.mark.usefixtures("no_work")
def test_an_existing_folder_is_refused_before_any_work_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already"):
        run.run_demo(tmp_path, quick=True, console=quiet())
    assert (tmp_path / "mine.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("no_work")
def test_a_missing_library_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "find_spec", lambda name: None if name in ("onnxscript", "sklearn") else object())
    with pytest.raises(SourceError, match=r"not installed: onnxscript\n.*pip install 'graphclone\[hf,onnx\]'"):
        run.run_demo(tmp_path / "demo", quick=True, console=quiet())
    with pytest.raises(SourceError, match=r"not installed: onnxscript, sklearn\n.*'graphclone\[hf,onnx,vision\]'"):
        run.run_demo(tmp_path / "demo", task="vision", quick=True, console=quiet())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_work")
def test_an_unknown_task_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="text or vision"):
        run.run_demo(tmp_path / "demo", task="speech", console=quiet())


def test_ctrl_c_in_the_race_leaves_nothing_behind_and_an_older_demo_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "race", interrupted)
    older = tmp_path / "demo"
    older.mkdir()
    (older / "results.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        run.run_demo(older, task="vision", quick=True, overwrite=True, console=quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (older / "results.json").read_text() == "{}"


def test_a_refuted_clone_is_not_trained_not_written_and_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuted = Report((Verdict("permutation", False, 0.3),))
    monkeypatch.setattr(gc, "verify", lambda *args, **kwargs: refuted)
    console = quiet()
    assert run.run_demo(tmp_path / "demo", task="vision", quick=True, console=console) == 1
    assert "✗ permutation" in console.file.getvalue()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_threads_are_as_before_when_the_demo_is_done() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ready.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", TASKS)
def test_a_child_has_half_the_width_and_half_the_depth(name: str) -> None:
    it = task_named(name)
    config = json.loads((it.parent / "config.json").read_text())
    assert all(2 * int(str(value)) == config[field] for field, value in it.child.items())
    assert {"hidden_size", "num_hidden_layers"} <= it.child.keys()
