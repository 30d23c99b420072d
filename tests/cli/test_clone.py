"""`graphclone clone`, `verify`, `export`: from a parent on disk to a checked child on disk, in each of its forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

import graphclone as gc
from graphclone.cli.children import built_as
from graphclone.cli.options import Asked
from graphclone.execute import fill
from graphclone.execute.destination import Filled
from graphclone.export import source
from graphclone.sources import Parent
from tests.cli.conftest import EINSUM, PARENT, ROOT, SMALLER, Run


def test_a_config_override_gives_a_folder_that_transformers_loads(run: Run, tmp_path: Path) -> None:
    done = run("clone", PARENT, *SMALLER, "-o", "child")
    assert done.status == 0, done.err
    assert "What came from where" in done.out
    child, loading = AutoModelForImageClassification.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert child.config.hidden_size == 48
    assert gc.Plan.load(tmp_path / "child" / "plan.json").size("residual") == 48
    verified = run("verify", "child", "--parent", PARENT)
    assert verified.status == 0
    assert "two roads" in verified.out


def test_widths_and_depth_give_a_graph_that_can_be_inspected_verified_and_exported(run: Run, tmp_path: Path) -> None:
    done = run("clone", PARENT, "--width", "residual=0.5", "--width", "*.mlp.hidden=100", "--depth", "2", "-o", "child")
    assert done.status == 0, done.err
    files = {"modeling.py", "model.safetensors", "child.json", "plan.json", "README.md", "parent_config.json"}
    assert {path.name for path in (tmp_path / "child").iterdir()} == files
    assert run("verify", "child", "--parent", PARENT).status == 0
    assert "48" in run("inspect", "child").out
    exported = run("export", "child", "--onnx", "child.onnx")
    assert exported.status == 0, exported.err
    assert "ONNX Runtime differs from PyTorch by" in exported.out
    assert run("export", "child", "--onnx", "child.onnx").status == 2


LLAMA = ROOT / "graphclone" / "demo" / "parents" / "byte-llama"
HALF = ["--width", "residual=0.5", "--width", "*.mlp.hidden=0.5", "--depth", "0.5"]


def test_widths_and_depth_give_the_parents_own_class_where_its_config_can_say_them(run: Run, tmp_path: Path) -> None:
    done = run("clone", LLAMA, *HALF, "-o", "child")
    assert done.status == 0, done.err
    assert "num_hidden_layers=4 hidden_size=96 intermediate_size=256" in done.out
    assert "✓ two roads" in done.out
    child, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert child.config.head_dim == 32
    assert run("verify", "child", "--parent", LLAMA).status == 0
    assert run("clone", LLAMA, *HALF, "--pt2", "-o", "graph").status == 0
    program, graph = torch.export.load(tmp_path / "graph" / "child.pt2").module(), source.load(tmp_path / "graph")
    ids = torch.arange(22).view(2, 11)
    torch.testing.assert_close(program(input_ids=ids).logits, child.eval()(input_ids=ids).logits)
    torch.testing.assert_close(graph(input_ids=ids).logits, child.eval()(input_ids=ids).logits)
    assert type(graph(input_ids=ids)).__name__ == "CausalLMOutputWithPast"


def test_a_number_of_parameters_chooses_balanced_sizes_and_shows_the_others(run: Run, tmp_path: Path) -> None:
    done = run("clone", LLAMA, "--params", "1M", "-o", "child")
    assert done.status == 0, done.err
    assert "--depth model.layers=5 --width residual=128" in done.out
    options = [line for line in done.out.splitlines() if "--depth model.layers=" in line]
    assert len(options) > 1, "the sizes that were chosen, and others of about as many parameters"
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert abs(child.num_parameters() - 1_000_000) < 100_000
    assert child.config.head_dim == 32
    assert "cannot read --params 'many'" in run("clone", LLAMA, "--params", "many", "-o", "other").err
    assert "one or the other" in run("clone", LLAMA, "--params", "1M", "--depth", "2", "-o", "other").err


def test_all_sizes_may_come_from_another_models_config(run: Run, tmp_path: Path) -> None:
    LlamaForCausalLM(AutoConfig.from_pretrained(LLAMA, hidden_size=96, num_hidden_layers=4)).save_pretrained(tmp_path / "small")
    done = run("clone", LLAMA, "--like", "small/config.json", "-o", "child")
    assert done.status == 0, done.err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "child").config.hidden_size == 96
    assert run("verify", "child", "--parent", LLAMA).status == 0
    assert "of type 'llama', the parent 'vit'" in run("clone", PARENT, "--like", "small", "-o", "other").err


def test_of_another_models_sizes_some_may_be_set(run: Run, tmp_path: Path) -> None:
    LlamaForCausalLM(AutoConfig.from_pretrained(LLAMA, hidden_size=96, num_hidden_layers=4)).save_pretrained(tmp_path / "small")
    done = run("clone", LLAMA, "--like", "small", "--set", "intermediate_size=128", "-o", "child")
    assert done.status == 0, done.err
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "child").config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (96, 4, 128)


def test_a_head_that_the_parent_has_not_is_as_its_class_initialises_it(run: Run, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(LLAMA, hidden_size=96, num_hidden_layers=4, num_labels=3, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "labels")
    done = run("clone", LLAMA, "--like", "labels", "-o", "child")
    assert done.status == 0, done.err
    assert "as its class initialised it: score.weight" in done.out
    count = sum(each.numel() for each in load_file(tmp_path / "child" / "model.safetensors").values())
    assert f"with what its class initialised, the child has {count:,} parameters" in done.out
    child = AutoModelForSequenceClassification.from_pretrained(tmp_path / "child")
    assert child.num_labels == 3
    verified = run("verify", "child", "--parent", LLAMA)
    assert verified.status == 0, verified.err
    assert "refilled" in verified.out
    with torch.no_grad():
        child.model.norm.weight.add_(0.1)
    child.save_pretrained(tmp_path / "child")
    assert run("verify", "child", "--parent", LLAMA).status == 1


def test_where_no_config_can_say_them_the_child_is_a_graph_and_the_reason_told(run: Run, tmp_path: Path) -> None:
    done = run("clone", PARENT, "--width", "residual=0.5", "-o", "child")
    assert done.status == 0, done.err
    assert "with the nearest, 'vit.layers.0.attention.q_proj.weight' is 48 × 48, and has to be 96 × 48" in done.out
    assert "no train mode" not in done.out
    assert "open sizes: pixel_values[0]" in done.out
    assert source.load(tmp_path / "child")(torch.randn(5, 1, 8, 8)).logits.shape == (5, 10), (
        "other batches than the example's two"
    )
    assert run("verify", "child", "--parent", PARENT).status == 0


def test_heads_that_no_shape_tells_of_are_found_by_what_the_plan_keeps(run: Run, tmp_path: Path) -> None:
    """48 units are six heads of 8 as well as three of 16, and tensors of the same shapes."""
    done = run("clone", PARENT, "--width", "residual=0.5", "--width", "*.heads=0.5", "-o", "child")
    assert done.status == 0, done.err
    assert "settings found for the parent's class: hidden_size=48 num_attention_heads=3\n" in done.out
    assert run("verify", "child", "--parent", PARENT).status == 0
    done = run("clone", PARENT, "--params", "150k", "-o", "balanced")
    assert "settings found for the parent's class:" in done.out, done.out
    assert run("verify", "balanced", "--parent", PARENT).status == 0


def test_widths_of_one_layer_are_no_setting_of_a_config_and_it_is_said_which(run: Run, tmp_path: Path) -> None:
    done = run("clone", LLAMA, "--width", "model.layers.1.mlp.hidden=64", "--depth", "4", "-o", "child")
    assert done.status == 0, done.err
    assert "the child is a rewritten graph: no settings of its config were found that give all sizes" in done.out
    assert "mlp" in done.out.partition("with the nearest, ")[2].splitlines()[0]
    assert (tmp_path / "child" / "modeling.py").exists()
    assert not (tmp_path / "child" / "config.json").exists()


FIXED = """
import torch
from torch import nn


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).view(3, 5, 8)
        return x


def example_inputs():
    return torch.randn(3, 5, 8)
"""


def test_a_model_of_one_size_of_inputs_is_a_graph_of_that_size_with_a_remark(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fixed_sizes.py").write_text(FIXED)
    done = run("clone", "fixed_sizes:Fixed", "--depth", "2", "-o", "child")
    assert done.status == 0, done.err
    assert "it takes inputs of the example's sizes only" in done.out
    assert source.load(tmp_path / "child")(torch.ones(3, 5, 8)).shape == (3, 5, 8)
    assert run("verify", "child", "--parent", "fixed_sizes:Fixed").status == 0


def test_a_child_that_is_not_what_its_plan_says_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*args: Any) -> Filled:
        done = fill(*args)
        with torch.no_grad():
            next(args[2].parameters()).mul_(1.5)
        return done

    monkeypatch.setattr("graphclone.cli.writing.fill", spoilt)
    done = run("clone", LLAMA, *HALF, "-o", "child")
    assert done.status == 2
    assert "computes otherwise in these sizes than the plan" in done.err
    assert "--graph" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_dynamic_graph_takes_other_sizes_and_is_verified_and_exported_with_them(run: Run, tmp_path: Path) -> None:
    done = run("clone", *EINSUM, "--width", "residual=24", "--depth", "2", "--dynamic", "-o", "child")
    assert done.status == 0, done.err
    assert "open sizes: ids[0], ids[1] ≤ 37" in done.out
    child = source.load(tmp_path / "child")
    assert child(torch.randint(61, (7, 20))).shape == (7, 20, 61)
    verified = run("verify", "child", "--parent", *EINSUM)
    assert verified.status == 0, verified.out
    assert verified.out.count("two roads") == verified.out.count("permutation") == 2
    assert run("verify", *EINSUM, "--dynamic").out.count("permutation") == 2
    exported = run("export", "child", "--onnx", "child.onnx")
    assert exported.status == 0, exported.err
    assert [each.shape for each in InferenceSession(tmp_path / "child.onnx").get_inputs()] == [["batch", "sequence"]]
    refused = run("clone", *EINSUM, "--set", "width=24", "--dynamic", "-o", "other")
    assert refused.status == 2
    assert "--dynamic is of no use to --set" in refused.err


def test_an_export_says_what_it_is_and_is_timed_beside_its_parent(run: Run, tmp_path: Path) -> None:
    assert run("clone", LLAMA, *HALF, "--dynamic", "-o", "child").status == 0
    words = ["export", "child", "--onnx", "child.onnx", "--int8", "--opset", "19", "--bench", "--parent", LLAMA]
    words += ["--input", "input_ids=int64[3,13]:0..256"]
    exported = run(*words)
    assert exported.status == 0, exported.err
    assert "of its weights are int8" in exported.out
    assert exported.out.count("PyTorch ") == exported.out.count("ONNX Runtime ") == 3
    assert "its parent" in exported.out
    assert all("3×13" in line for line in exported.out.splitlines() if " ms " in line), "both are timed on the same inputs"
    model = onnx.load(tmp_path / "child.onnx")
    told = {each.key: each.value for each in model.metadata_props}
    assert told["graphclone_parent"] == "byte-llama"
    assert "residual: 192 → 96" in told["graphclone_plan"]
    written = (tmp_path / "child.onnx").read_bytes()
    assert not any(str(path).encode() in written for path in (ROOT, tmp_path))


def test_inputs_that_a_child_does_not_take_are_told_and_those_that_it_could(run: Run, tmp_path: Path) -> None:
    assert run("clone", LLAMA, *HALF, "--graph", "-o", "child").status == 0
    other = ["--input", "input_ids=int64[3,13]:0..256"]
    for words in (["export", "child", "--onnx", "child.onnx", *other], ["verify", "child", "--parent", LLAMA, *other]):
        done = run(*words)
        assert done.status == 2
        assert "does not run on the example inputs: 'input_ids' is [3, 13], and has to be [2, 11]" in done.err
    assert "the model's forward can take others too (attention_mask, " in run("export", LLAMA, "--onnx", "llama.onnx").out


def test_an_export_with_a_past_is_decoded_step_by_step(run: Run, tmp_path: Path) -> None:
    exported = run("export", LLAMA, "--onnx", "llama.onnx", "--with-past")
    assert exported.status == 0, exported.err
    assert "a prompt of 4 and then one by one" in exported.out
    assert "past_key_values.7.value" in [each.name for each in InferenceSession(tmp_path / "llama.onnx").get_inputs()]
    refused = run("export", PARENT, "--onnx", "vit.onnx", "--with-past")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["llama.onnx"]
    assert refused.status == 2
    assert "cannot export ViTForImageClassification with its past\n  because  it generates no text" in refused.err


def test_an_encoder_is_written_beside_its_decoder(run: Run, tmp_path: Path) -> None:
    config = T5Config(vocab_size=97, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    (tmp_path / "out").mkdir()
    exported = run("export", "t5", "--onnx", "out/t5.onnx", "--with-past", "--bench")
    assert exported.status == 0, exported.err
    assert "note: its encoder lies beside it, in t5.encoder.onnx; open axes there: batch, sequence" in exported.out
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["t5.encoder.onnx", "t5.onnx"]
    (tmp_path / "out" / "t5.onnx").unlink()
    again = run("export", "t5", "--onnx", "out/t5.onnx", "--with-past")
    assert again.status == 2
    assert "will not write" in again.err
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["t5.encoder.onnx"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fp16", "--int8"], "--fp16 and --int8 exclude each other"),
        (["--parent", PARENT], "--parent is not used"),
        (["--opset", "8"], "opset 8"),
    ],
)
def test_an_export_that_cannot_be_is_refused_with_a_reason(words: list[str], told: str, run: Run, tmp_path: Path) -> None:
    refused = run("export", PARENT, "--onnx", "vit.onnx", *words)
    assert refused.status == 2
    assert told in refused.err
    assert "because" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_is_a_program_is_a_parent_again_and_refused_once_it_does_something_else(run: Run, tmp_path: Path) -> None:
    first = run("clone", *EINSUM, "--width", "residual=24", "-o", "child")
    assert first.status == 0, first.err
    assert "the child is a rewritten graph: which arguments of its factory say its sizes, --set" in first.out
    again = run("clone", "child", "--width", "residual=12", "--depth", "2", "-o", "grandchild")
    assert again.status == 0, again.err
    assert run("verify", "grandchild", "--parent", "child").status == 0
    module = tmp_path / "child" / "modeling.py"
    module.write_text(module.read_text() + "\nopen('written', 'w').write('by a stranger')\n")
    refused = run("inspect", "child")
    assert refused.status == 2
    assert "graphclone did not write it like this: line" in refused.err
    assert not (tmp_path / "written").exists()
    assert run("inspect", "child", "--trust-remote-code").status == 0
    assert (tmp_path / "written").exists()


def test_what_python_cannot_say_is_refused_before_anything_is_written_or_is_a_pt2_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "customised.py").write_text(
        "from models_zoo.field import find\n\nentry = find('odd/custom_op')\nmodel = entry.build()\n\n\n"
        "def example_inputs():\n    args, kwargs = entry.inputs()\n    return args, kwargs\n"
    )
    refused = run("clone", "customised:model", "--width", "residual=0.5", "-o", "child")
    assert refused.status == 2
    assert "graphclone_zoo.bend" in refused.err
    assert not (tmp_path / "child").exists()
    done = run("clone", "customised:model", "--width", "residual=0.5", "--pt2", "-o", "child")
    assert done.status == 0, done.err
    assert "there is only a child.pt2" in done.out
    assert {path.name for path in (tmp_path / "child").iterdir()} == {"child.pt2", "child.json", "plan.json", "README.md"}
    assert run("inspect", "child").status == 0


def test_a_factory_gives_weights_and_a_record_of_how_to_build_it_again(run: Run, tmp_path: Path) -> None:
    done = run("clone", *EINSUM, "--set", "width=24", "--set", "depth=2", "-o", "child")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "child" / "child.json").read_text())["set"] == {"width": 24, "depth": 2}
    assert run("verify", "child", "--parent", *EINSUM).status == 0
    again = run("clone", "child", "--trust-remote-code", "--width", "residual=12", "-o", "grandchild")
    assert again.status == 0, again.err


def test_a_grandchild_is_built_by_the_factory_of_its_grandparent(run: Run, tmp_path: Path) -> None:
    run("clone", *EINSUM, "--set", "depth=2", "-o", "child")
    assert run("clone", "child", "--trust-remote-code", "--set", "width=24", "-o", "grandchild").status == 0
    record = json.loads((tmp_path / "grandchild" / "child.json").read_text())
    assert record["parent"] == "models_zoo.raw:EinsumGPT"
    assert record["arg"] == {"width": 48, "heads": 8, "head_dim": 10, "hidden": 56, "depth": 2}
    assert record["set"] == {"width": 24}
    assert run("verify", "grandchild", "--parent", "child", "--trust-remote-code").status == 0
    assert "takes no --arg" in run("inspect", "grandchild", "--arg", "width=2").err


def test_what_only_a_trained_parent_has_is_not_asked_of_its_child() -> None:
    parent = Parent(torch.nn.Identity(), "timm:some", untrained={"pretrained": False, "weights": None})
    record = built_as(Asked("timm:some", ["pretrained=true", "depth=4"], [], None, False, False), parent, {"depth": 2})
    assert {**record.arg, **record.set} == {"pretrained": False, "depth": 2}


def test_a_childs_plan_does_not_fit_another_parent(run: Run) -> None:
    run("clone", *EINSUM, "--set", "width=24", "-o", "child")
    done = run("verify", "child", "--parent", PARENT, "--trust-remote-code")
    assert done.status == 2
    assert "PlanError: the plan was made for another model" in done.err


def test_a_damaged_plan_is_told(run: Run, tmp_path: Path) -> None:
    run("clone", *EINSUM, "--set", "width=24", "-o", "child")
    (tmp_path / "child" / "plan.json").write_text("{")
    done = run("verify", "child", "--parent", *EINSUM)
    assert done.status == 2
    assert "plan.json is not a plan" in done.err


def test_a_child_that_is_not_its_plans_is_found_out(run: Run, tmp_path: Path) -> None:
    run("clone", PARENT, *SMALLER, "-o", "child")
    child = AutoModelForImageClassification.from_pretrained(tmp_path / "child")
    with torch.no_grad():
        child.classifier.weight.add_(0.1)
    child.save_pretrained(tmp_path / "child")
    done = run("verify", "child", "--parent", PARENT)
    assert done.status == 1
    assert "✗" in done.out
    assert "only a fresh clone can be verified" in done.err
    assert not json.loads(run("verify", "child", "--parent", PARENT, "--json").out)["passed"]


def test_calibration_data_ranks_units_by_activation(run: Run, tmp_path: Path) -> None:
    save_file({"pixel_values": torch.rand(20, 1, 8, 8)}, tmp_path / "data.safetensors")
    plans = {}
    for name, words in {
        "data": ["--data", "data.safetensors"],
        "weights": ["--scores", "weights"],
        "uniform": ["--scores", "uniform"],
    }.items():
        done = run("clone", PARENT, "--width", "residual=0.5", "--plan-only", "-o", f"{name}.json", *words)
        assert done.status == 0, done.err
        plans[name] = gc.Plan.load(tmp_path / f"{name}.json").keep["residual"]
    assert len(set(plans.values())) == 3
    assert plans["uniform"] == tuple(range(0, 96, 2))


BAD_DATA = {
    "out of range": ({"ids": torch.full((9, 12), 999)}, "IndexError"),
    "floats": ({"ids": torch.rand(9, 12)}, "float32[9, 12]"),
    "uneven": ({"ids": torch.zeros(9, 12).long(), "mask": torch.ones(8, 12).long()}, "ids 9"),
    "misnamed": ({"idz": torch.zeros(9, 12).long()}, "did you mean 'ids'"),
    "empty": ({}, "it holds no tensors"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_the_parent_cannot_take_is_told(name: str, run: Run, tmp_path: Path) -> None:
    tensors, complaint = BAD_DATA[name]
    save_file(tensors, tmp_path / "data.safetensors")
    done = run("clone", *EINSUM, "--depth", "2", "--data", "data.safetensors", "-o", "child")
    assert done.status == 2
    assert "SourceError" in done.err
    assert complaint in done.err
    assert not (tmp_path / "child").exists()


def test_without_scaling_no_weight_changes(run: Run, tmp_path: Path) -> None:
    run("clone", PARENT, "--width", "residual=0.5", "--plan-only", "-o", "plan.json", "--no-scale")
    assert {piece.scale for piece in gc.Plan.load(tmp_path / "plan.json").tensors.values()} == {1.0}


def test_only_the_plan_needs_no_folder(run: Run, tmp_path: Path) -> None:
    done = run("clone", PARENT, "--depth", "0.5", "--plan-only")
    assert done.status == 0
    assert "6 → 3 blocks" in done.out
    assert list(tmp_path.iterdir()) == []


def test_the_oracles_run_on_a_parent_by_itself(run: Run) -> None:
    done = run("verify", *EINSUM)
    assert done.status == 0
    assert done.out.count("✓") == 5


WRONG = {
    "wider": (["--set", "hidden_size=192"], ["DestinationError: the destination is wider than the parent", "192"]),
    "typo": (["--set", "hiden_size=48"], ["no such field", "did you mean 'hidden_size'"]),
    "frozen": (["--width", "vit.embeddings.fixed=3"], ["FrozenError", "because", "try"]),
    "too many": (["--width", "residual=97"], ["SizeError", "'residual' has 96 units"]),
    "no number": (["--width", "residual=many"], ["cannot read --width 'many'"]),
    "no name": (["--width", "0.5"], ["it is written NAME=N"]),
    "share": (["--depth", "1.5"], ["a share lies between 0 and 1"]),
    "no depth": (["--depth", "0"], ["cannot read --depth '0'", "at least one is left"]),
    "unknown": (["--width", "residul=0.5"], ["no factor is called 'residul'", "residual"]),
    "both": (["--width", "residual=0.5", "--set", "hidden_size=48"], ["one or the other"]),
    "neither": ([], ["nothing says how large the child is"]),
    "twice": (["--width", "residual=9", "--width", "residual=8"], ["--width residual is given twice"]),
    "no stack": (["--depth", "foo=2"], ["no stack is called 'foo'", "vit.layers"]),
    "image": (["--set", "image_size=16"], ["the child cannot run on the parent's inputs", "image size"]),
    "idle data": (["--depth", "2", "--scores", "uniform", "--data", "x.safetensors"], ["--data is of no use"]),
    "data gone": (["--depth", "2", "--data", "x.safetensors"], ["cannot read 'x.safetensors'"]),
    "no batch": (["--depth", "2", "--batch", "0"], ["a batch has at least one example"]),
    "no data": (["--depth", "2", "--scores", "activations"], ["needs calibration data"]),
    "scores": (["--depth", "2", "--scores", "magic"], ["no way 'magic'"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_with_advice_and_nothing_is_written(name: str, run: Run, tmp_path: Path) -> None:
    words, complaints = WRONG[name]
    done = run("clone", PARENT, *words, "-o", "child")
    assert done.status == 2
    assert [each for each in complaints if each not in done.err] == [], done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_width_that_does_not_divide_is_refused_in_the_words_of_its_class(run: Run, tmp_path: Path) -> None:
    done = run("clone", PARENT.parent / "byte-llama", "--set", "hidden_size=97", "-o", "child")
    assert done.status == 2
    assert "(97) is not a multiple of the number of attention heads (6)" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "mine.txt").write_text("mine")
    done = run("clone", PARENT, "--depth", "2", "-o", "child")
    assert done.status == 2
    assert "it exists already" in done.err
    assert (tmp_path / "child" / "mine.txt").read_text() == "mine"
    refused = run("clone", PARENT, "--depth", "2", "-o", "child", "--overwrite")
    assert "it is no folder that graphclone writes: 'mine.txt' lies in it" in refused.err
    assert (tmp_path / "child" / "mine.txt").read_text() == "mine"
    (tmp_path / "child" / "plan.json").write_text("{}")
    assert run("clone", PARENT, "--depth", "2", "-o", "child", "--overwrite").status == 0
    assert not (tmp_path / "child" / "mine.txt").exists()


def test_a_failure_with_overwrite_keeps_what_was_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "plan.json").write_text("of an older child")
    done = run("clone", PARENT, "--width", "residual=970", "-o", "child", "--overwrite")
    assert done.status == 2
    assert "cannot keep 970 of them" in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["child", "plan.json"]


@pytest.mark.parametrize("place", [PARENT, PARENT / "child", PARENT.parent])
def test_the_parents_own_folder_is_never_written_to(place: Path, run: Run) -> None:
    before = sorted(path.name for path in PARENT.parent.rglob("*"))
    done = run("clone", PARENT, "--depth", "2", "-o", place, "--overwrite")
    assert done.status == 2
    assert "lies there" in done.err
    assert sorted(path.name for path in PARENT.parent.rglob("*")) == before


def test_weights_that_are_no_numbers_are_refused(run: Run, tmp_path: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(PARENT)
    with torch.no_grad():
        model.classifier.bias[2] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    done = run("clone", "broken", "--depth", "2", "-o", "child")
    assert done.status == 2
    assert "WeightsError" in done.err
    assert "classifier.bias" in done.err


def test_a_truncated_checkpoint_is_refused_with_the_sizes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for path in PARENT.iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes()[: 500_000 if path.suffix == ".safetensors" else None])
    done = run("inspect", "broken")
    assert done.status == 2
    assert "truncated: 915,532 bytes expected, 500,000 found" in done.err


def test_a_pickle_is_refused_unless_asked_for(run: Run, tmp_path: Path) -> None:
    from models_zoo.raw import EinsumGPT

    torch.save(EinsumGPT(48, 8, 10, 56, 4).state_dict(), tmp_path / "weights.pt")
    refused = run("inspect", *EINSUM, "--checkpoint", "weights.pt")
    assert refused.status == 2
    assert "--allow-pickle" in refused.err
    assert run("inspect", *EINSUM, "--checkpoint", "weights.pt", "--allow-pickle").status == 0


def test_a_model_that_cannot_be_exported_is_told_where(run: Run, tmp_path: Path) -> None:
    (tmp_path / "branching_model.py").write_text(
        "import torch\n\n\nclass Model(torch.nn.Linear):\n    def forward(self, x):\n        if super().forward(x).sum() > 0:\n"
        "            return x\n        return -x\n\n    def example_inputs(self):\n        return torch.randn(3, 4)\n\n\n"
        "def make():\n    return Model(4, 4)\n"
    )
    done = run("inspect", "branching_model:make")
    assert done.status == 2
    assert "CaptureError" in done.err
    assert "branching_model.py:6" in done.err
    assert "torch.where" in done.err


def test_a_parent_that_is_not_there(run: Run) -> None:
    for words in (["inspect", "nowhere"], ["clone", "nowhere", "--depth", "2", "-o", "x"], ["verify", "nowhere"]):
        done = run(*words)
        assert done.status == 2
        assert "cannot find the model 'nowhere'" in done.err


def test_brackets_in_a_name_are_no_markup(run: Run, tmp_path: Path) -> None:
    (tmp_path / "[red] parent").symlink_to(PARENT)
    done = run("clone", "[red] parent", "--depth", "2", "-o", "[bold] child")
    assert done.status == 0, done.err
    assert "written to [bold] child" in done.out
    assert "--parent '[red] parent'" in done.err
    assert "[red] parent: 452,074 parameters" in run("inspect", "[red] parent").out


def test_a_task_that_the_demo_does_not_have(run: Run) -> None:
    done = run("demo", "--task", "audio")
    assert done.status == 2
    assert "text or vision" in done.err


def test_a_folder_without_a_plan_is_no_child(run: Run) -> None:
    done = run("verify", PARENT, "--parent", PARENT)
    assert done.status == 2
    assert "there is no plan.json in it" in done.err
    assert "to run the oracles on a model by itself" in done.err
    Path("neither").mkdir()
    assert "the folder that clone wrote" in run("verify", "neither", "--parent", PARENT).err


def test_data_that_are_not_there_are_told_before_anything_is_loaded(run: Run) -> None:
    done = run("clone", "no-parent-either", *HALF, "--data", "nowhere.safetensors", "-o", "child")
    assert done.status == 2
    assert "cannot read 'nowhere.safetensors'" in done.err


def test_a_folder_cannot_have_functions_called_that_nobody_trusted(run: Run, tmp_path: Path) -> None:
    assert run("clone", *EINSUM, "--set", "width=24", "-o", "child").status == 0
    record = json.loads((tmp_path / "child" / "child.json").read_text())
    record |= {"parent": "subprocess:getoutput", "arg": {"cmd": f"touch {tmp_path / 'ran'}"}, "set": {}}
    (tmp_path / "child" / "child.json").write_text(json.dumps(record))
    for words in (["inspect", "child"], ["verify", "child", "--parent", *EINSUM], ["export", "child", "--onnx", "a.onnx"]):
        done = run(*words)
        assert done.status == 2
        assert "will not call 'subprocess:getoutput'" in done.err
        assert "--trust-remote-code" in done.err
    assert not (tmp_path / "ran").exists()


def test_the_inputs_of_a_plan_import_nothing(run: Run, tmp_path: Path) -> None:
    assert run("clone", LLAMA, *HALF, "--graph", "-o", "child").status == 0
    plan = json.loads((tmp_path / "child" / "plan.json").read_text())
    evil = {"type": "collections.defaultdict", "children_spec": []}
    evil["context"] = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "a", "dict_context": []})
    plan["inputs"]["structure"] = json.dumps([1, evil])
    (tmp_path / "child" / "plan.json").write_text(json.dumps(plan))
    done = run("inspect", "child")
    assert done.status == 2
    assert "example inputs cannot be read" in done.err


def test_an_input_that_nothing_reads_is_told_before_anything_is_cloned(run: Run) -> None:
    done = run("inspect", LLAMA, "--input", "inputs_idz=int64[3,7]:0..256")
    assert done.status == 0, done.err
    assert "note: the model never reads the input 'inputs_idz': its forward takes (input_ids, " in done.out
