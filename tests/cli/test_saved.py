"""Folders that Python wrote (`gc.save`) are what the commands write, and each kind of child tells where it is from."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.export.record import Record
from graphclone.recipe import begin, recipe_named
from models_zoo.raw import EinsumGPT
from tests.cli.conftest import EINSUM, ROOT, Run

LLAMA = ROOT / "graphclone" / "demo" / "parents" / "byte-llama"


def test_what_python_saved_is_inspected_verified_and_exported_also_elsewhere(run: Run, tmp_path: Path) -> None:
    parent = AutoModelForCausalLM.from_pretrained(LLAMA, dtype="float32", attn_implementation="sdpa").eval()
    parent.config.use_cache = False
    trace = gc.capture(parent, kwargs={"input_ids": torch.randint(256, (3, 17))})
    plan = gc.plan(gc.analyze(trace), width={"residual": 0.5}, depth=2)
    assert gc.save(plan, parent, tmp_path / "saved", trace=trace, source=LLAMA) == ()
    shutil.move(tmp_path / "saved", tmp_path / "elsewhere" / "child")
    names = {path.name for path in Path("elsewhere/child").iterdir()}
    own = {"modeling.py", "model.safetensors", "plan.json", "child.json", "README.md"}
    assert names == own | {"parent_config.json"}
    assert "96" in run("inspect", "elsewhere/child").out
    verified = run("verify", "elsewhere/child", "--parent", LLAMA)
    assert verified.status == 0, verified.err + verified.out
    exported = run("export", "elsewhere/child", "--onnx", "child.onnx")
    assert exported.status == 0, exported.err
    told = {each.key: each.value for each in onnx.load(tmp_path / "child.onnx").metadata_props}
    assert told["graphclone_parent"] == "byte-llama"
    (digest,) = digests("elsewhere/child")
    assert digest in Path("elsewhere/child/README.md").read_text()
    assert told["graphclone_parent_sha256"] == f"model.safetensors:{digest}"


def digests(folder: str) -> list[str]:
    return list(Record.load(Path(folder)).hashes.values())


def test_a_rotated_child_is_saved_with_its_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parent = EinsumGPT(width=48, heads=8, head_dim=10, hidden=56, depth=4).eval()
    data = [(torch.randint(61, (5, 11)),) for _ in range(3)]
    layout = gc.analyze(gc.capture(parent, data[0]))
    calibration = Calibration.of(parent, data, layout)
    begun = begin(
        layout,
        calibration,
        recipe_named("full"),
        lambda ours, scores: gc.plan(ours, width={"residual": 24}, depth=2, scores=scores),
    )
    gc.save(begun.plan, parent, tmp_path / "child", fitted=begun.fitted, axes=begun.axes)
    plan, axes = gc.Plan.load(tmp_path / "child" / "plan.json"), load_file(tmp_path / "child" / "axes.safetensors")
    assert plan.rotated
    assert gc.distill_pairs(plan, axes)[0].taught(torch.ones(2, 48)).shape == (2, 24)


def test_a_hugging_face_child_tells_its_onnx_file_whose_child_it_is(run: Run, tmp_path: Path) -> None:
    made = run("clone", LLAMA, "--depth", "2", "-o", "child")
    assert made.status == 0, made.err
    assert run("export", "child", "--onnx", "child.onnx").status == 0
    told = {each.key: each.value for each in onnx.load(tmp_path / "child.onnx").metadata_props}
    assert told["graphclone_parent"] == "byte-llama"
    assert told["graphclone_parent_sha256"] == f"model.safetensors:{digests('child')[0]}"


def test_a_factorys_child_has_a_card(run: Run, tmp_path: Path) -> None:
    assert run("clone", *EINSUM, "--set", "depth=2", "-o", "child").status == 0
    card = (tmp_path / "child" / "README.md").read_text()
    assert "models_zoo.raw:EinsumGPT(width=48, heads=8, head_dim=10, hidden=56, depth=2)" in card
    assert digests("child")[0] in card
