"""Children written to disk and read by a process without graphclone, and what is said of one that was spoilt on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models_zoo.roundtrip.folders import folder_of
from models_zoo.roundtrip.reader import read
from models_zoo.roundtrip.writer import Written, written

ROOT = Path(__file__).parent.parent.parent
NAME = "hf/gpt2/GPT2LMHeadModel"


def test_children_of_each_library_come_back(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "models_zoo.roundtrip", "-o", tmp_path]
    words += ["--only", "hf/(bert|mixtral)/|timm/swin_transformer/swin_tiny|torchvision/vit$"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "ROUNDTRIP.md").read_text()
    for source, count, sizes in (("hf", 2, " 2 half |"), ("timm", 1, ""), ("torchvision", 1, "")):
        assert f"| {source} | {count} | {count} | {count} | {count} (100.0%) | 100.0% |{sizes}" in page


@pytest.fixture
def child(tmp_path: Path) -> Path:
    assert written(NAME, tmp_path) == Written("half")
    folder = folder_of(tmp_path, NAME)
    assert read(folder, NAME)["difference"] <= 1e-5
    return folder


def test_another_weight_is_seen(child: Path) -> None:
    state = load_file(child / "model.safetensors")
    state["transformer.h.0.mlp.c_fc.weight"][0] += 0.1
    save_file(state, child / "model.safetensors", {"format": "pt"})
    assert read(child, NAME)["difference"] > 1e-5


def test_a_tensor_that_is_not_there_is_told(child: Path) -> None:
    state = load_file(child / "model.safetensors")
    del state["transformer.ln_f.weight"]
    save_file(state, child / "model.safetensors", {"format": "pt"})
    assert "missing_keys" in read(child, NAME)["why"]


def test_outputs_of_another_shape_differ(child: Path) -> None:
    asked = torch.load(child / "asked.pt", weights_only=False)
    torch.save({**asked, "expected": [each[..., :-1] for each in asked["expected"]]}, child / "asked.pt")
    assert read(child, NAME)["difference"] == float("inf")
