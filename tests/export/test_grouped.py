"""Experts that run in groups leave graphclone as plain torch and as ONNX: what they compute, how they train, children of children."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.integrations.moe  # noqa: F401  (declares the op that its experts run as on a CPU)
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

import graphclone as gc
from graphclone.export.grouped import HELPER, spread
from graphclone.export.onnx import Wanted, export_onnx
from graphclone.export.pytorch import save_graph
from graphclone.export.source import load, save_clone
from graphclone.verify import difference, outputs
from models_zoo.field import find

TOKENS = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(0))
Grouped = Callable[[Tensor, Tensor, Tensor], Tensor]


def helper() -> Grouped:
    """What is written into a child, run as it stands."""
    space: dict[str, Any] = {"torch": torch}
    exec(HELPER, space)
    found: Grouped = space["grouped_mm"]
    return found


def results(function: Grouped, rows: Tensor, matrices: Tensor, ends: list[int]) -> tuple[Tensor, ...]:
    """What a function computes, and its gradients."""
    rows, matrices = (each.detach().clone().requires_grad_() for each in (rows, matrices))
    found = function(rows, matrices.mT, torch.tensor(ends, dtype=torch.int32))
    (found**2).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert matrices.grad is not None
    return found.detach(), rows.grad, matrices.grad


@pytest.mark.parametrize("ends", [[3, 8, 9, 13], [0, 5, 5, 13], [13, 13, 13, 13], [0, 0, 0, 13]])
@pytest.mark.parametrize("function", [helper(), spread])
def test_it_is_the_op_and_so_are_its_gradients(function: Grouped, ends: list[int]) -> None:
    torch.manual_seed(0)
    rows, matrices = torch.randn(13, 7), torch.randn(4, 5, 7)
    expected = results(torch.ops.transformers.grouped_mm_fallback, rows, matrices, ends)
    torch.testing.assert_close(results(function, rows, matrices, ends), expected)


def test_rows_after_the_last_run_are_zero() -> None:
    rows, matrices, ends = torch.randn(13, 7), torch.randn(2, 7, 5), torch.tensor([4, 11])
    assert torch.equal(helper()(rows, matrices, ends), torch.ops.transformers.grouped_mm_fallback(rows, matrices, ends))


def mixtral() -> MixtralForCausalLM:
    """As it is loaded from a folder: nobody has said how its experts are to be computed."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=20,
        num_local_experts=5,
        initializer_range=0.3,
        use_cache=False,
    )
    return MixtralForCausalLM(config).eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[gc.Plan, nn.Module, Path]:
    """A child in odd sizes with fewer experts, which no grouped op of torch takes, and the folder that it is written into."""
    parent, folder = mixtral(), tmp_path_factory.mktemp("child") / "small"
    trace = gc.capture(parent, (), {"input_ids": TOKENS})
    assert any("grouped_mm" in str(node.target) for node in trace.graph.nodes)
    layout = gc.analyze(trace)
    width = dict.fromkeys(names(layout, "experts"), 3) | dict.fromkeys(names(layout, "hidden"), 13) | {"residual": 15}
    plan = gc.plan(layout, width=width)
    assert save_clone(plan, parent, folder, trace=trace) == ()
    return plan, gc.execute(plan, parent, trace=trace), folder


def names(layout: gc.Layout, kind: str) -> list[str]:
    return [factor.name for factor in layout.factors if factor.kind == kind and factor.frozen is None]


@pytest.mark.filterwarnings("ignore:this child is its parent's graph in eval mode")
def test_a_written_child_computes_what_its_graph_does_and_trains_like_it(small: tuple[gc.Plan, nn.Module, Path]) -> None:
    _, graph, folder = small
    model = load(folder)
    assert difference(outputs(graph, ((), {"input_ids": TOKENS})), outputs(model, ((), {"input_ids": TOKENS}))) == 0.0
    assert "grouped_mm(" in (folder / "modeling.py").read_text()
    gradients = []
    for each in (graph.train(), model.train()):
        each(input_ids=TOKENS).logits.square().mean().backward()
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    graph.eval()
    assert len(gradients[0]) == len(gradients[1])
    for found in gradients[1]:
        assert any(found.shape == each.shape and torch.allclose(found, each, atol=1e-6) for each in gradients[0])


ALONE = """
import sys, torch
from modeling import load
torch.save(load()(**torch.load("inputs.pt")).logits, "logits.pt")
assert "transformers" not in sys.modules and "graphclone" not in sys.modules
"""


def test_a_written_child_needs_torch_alone(small: tuple[gc.Plan, nn.Module, Path]) -> None:
    _, graph, folder = small
    torch.save({"input_ids": TOKENS}, folder / "inputs.pt")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(folder / "logits.pt"), graph(input_ids=TOKENS).logits)


def test_a_child_of_a_child_may_lose_experts_again(small: tuple[gc.Plan, nn.Module, Path]) -> None:
    _, _, folder = small
    model = load(folder)
    trace = gc.capture(model, (), {"input_ids": TOKENS})
    layout = gc.analyze(trace)
    assert [layout[name].size for name in names(layout, "experts")] == [3, 3]
    assert gc.verify(model, (), {"input_ids": TOKENS}).passed
    plan = gc.plan(layout, width=dict.fromkeys(names(layout, "experts"), 2))
    assert gc.execute(plan, model, trace=trace)(input_ids=TOKENS).logits.shape == (2, 11, 61)


def test_the_program_of_a_graph_has_ops_of_torch_alone(small: tuple[gc.Plan, nn.Module, Path], tmp_path: Path) -> None:
    _, graph, _ = small
    save_graph(graph, (), {"input_ids": TOKENS}, tmp_path / "child.pt2")
    program = torch.export.load(tmp_path / "child.pt2")
    spaces = {node.target.namespace for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert spaces == {"aten"}


@pytest.mark.parametrize("past", [False, True])
def test_the_file_of_a_model_with_experts_is_open_in_batch_and_sequence(past: bool, tmp_path: Path) -> None:
    done = export_onnx(mixtral(), (), {"input_ids": TOKENS}, tmp_path / "mixtral.onnx", Wanted(past=past))
    assert done.difference < 1e-4
    assert len(done.differences) == 3
    assert done.open.startswith("batch, sequence")


@pytest.mark.parametrize("name", ["odd/moe_sorted", "odd/moe_counted"])
def test_what_is_sorted_and_counted_is_exported(name: str, tmp_path: Path) -> None:
    entry = find(name)
    done = export_onnx(entry.build(), *entry.inputs(), tmp_path / "odd.onnx")
    assert done.difference < 1e-4
    assert "batch" in done.open
