"""A folder with a mixture of experts, as `save_pretrained` writes one: its children, in the parent's class and as Python alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import graphclone as gc
from graphclone.export.source import load
from graphclone.sources import load as load_parent
from graphclone.verify import difference, outputs
from tests.cli.conftest import Run
from tests.cli.test_reloaded import shaken
from tests.export.test_grouped import mixtral


def rewritten(folder: Path, child: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """What the plan in a child's folder makes of the parent's graph, and the inputs that it takes."""
    parent = load_parent(str(folder))
    trace = gc.capture(parent.module, (), parent.kwargs)
    return gc.execute(gc.Plan.load(child / "plan.json"), parent.module, trace=trace), dict(parent.kwargs)


def test_a_child_of_its_class_is_reloaded_and_equals_the_graph(run: Run, tmp_path: Path) -> None:
    shaken(mixtral()).save_pretrained(tmp_path / "parent")
    smaller = ["hidden_size=12", "intermediate_size=12", "num_local_experts=3", "num_hidden_layers=1"]
    done = run("clone", "parent", "-o", "child", *(word for each in smaller for word in ("--set", each)))
    assert done.status == 0, done.err
    child, told = AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True, use_cache=False)
    assert not any(told.values())
    assert child.config.num_local_experts == 3
    graph, kwargs = rewritten(tmp_path / "parent", tmp_path / "child")
    assert difference(outputs(graph, ((), kwargs)), outputs(child.eval(), ((), kwargs))) < 1e-5


def test_a_rewritten_graph_is_python_that_agrees_and_is_verified(run: Run, tmp_path: Path) -> None:
    shaken(mixtral()).save_pretrained(tmp_path / "parent")
    asked = ["--width", "residual=0.5", "--width", "*.experts=3", "--width", "*.experts.hidden=9"]
    done = run("clone", "parent", "--graph", *asked, "-o", "child")
    assert done.status == 0, done.err
    graph, kwargs = rewritten(tmp_path / "parent", tmp_path / "child")
    model = load(tmp_path / "child")
    assert model.get_parameter("model.layers.0.mlp.experts.gate_up_proj").shape == (3, 18, 12)
    assert difference(outputs(graph, ((), kwargs)), outputs(model, ((), kwargs))) == 0.0
    done = run("verify", "child", "--parent", "parent")
    assert done.status == 0, done.out


def test_a_command_lists_experts_as_free(run: Run, tmp_path: Path) -> None:
    mixtral().save_pretrained(tmp_path / "parent")
    done = run("inspect", "parent")
    assert done.status == 0, done.err
    assert "model.layers.*.mlp.experts.hidden" in done.out
    assert [line.split()[0] for line in done.out.splitlines() if "model.layers.*.mlp.experts " in line] == ["experts"]
