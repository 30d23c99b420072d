from __future__ import annotations

import logging
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from graphclone.errors import OutputError
from graphclone.export.onnx import export_onnx


def dims(values: list[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
    """Names and sizes of a graph's inputs or outputs; an open size has a name."""
    return {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


class Mixer(nn.Module):
    """Two images and a number in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Tensor | None]:
        mixed = self.dropout(self.linear(left) + self.linear(right) * scale)
        return {"mixed": mixed, "nothing": None, "positive": mixed > 0}


def test_a_language_model_is_open_in_batch_and_sequence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=97, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40)
    model = LlamaForCausalLM(config).eval()
    model.config.use_cache = True
    tokens = torch.randint(97, (2, 11))
    difference = export_onnx(model, (), {"input_ids": tokens}, tmp_path / "llama.onnx")
    assert 0 < difference < 1e-4
    graph = onnx.load(tmp_path / "llama.onnx").graph
    assert dims(graph.input) == {"input_ids": ["batch", "sequence"]}
    assert dims(graph.output) == {"logits": ["batch", "sequence", 97]}
    assert model.config.use_cache is True
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_names_are_those_of_the_model_and_numbers_are_built_in(tmp_path: Path) -> None:
    model = Mixer()
    export_onnx(model, (torch.randn(2, 5),), {"right": torch.randn(2, 5), "scale": 0.5}, tmp_path / "mixer.onnx")
    graph = onnx.load(tmp_path / "mixer.onnx").graph
    assert dims(graph.input) == {"left": ["batch", 5], "right": ["batch", 5]}
    assert dims(graph.output) == {"mixed": ["batch", 3], "positive": ["batch", 3]}
    assert model.training


def test_a_model_of_one_size_is_exported_at_that_size_with_a_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 15).flip(1)

    with caplog.at_level(logging.WARNING, "graphclone"):
        assert export_onnx(Fixed(), (torch.randn(2, 3, 5),), {}, tmp_path / "fixed.onnx") == 0
    assert dims(onnx.load(tmp_path / "fixed.onnx").graph.input) == {"x": [2, 3, 5]}
    assert "cannot be exported with batch left open" in caplog.text


def test_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(OutputError) as caught:
        export_onnx(Choosy(), (torch.ones(1, 3),), {}, tmp_path / "choosy.onnx")
    assert str(caught.value).startswith("cannot export Choosy as ONNX\n  because  with nothing left open: Could not guard on")


def test_outputs_that_differ_are_not_trusted(tmp_path: Path) -> None:
    class Wild(nn.Module):
        """Random, so no two runs agree."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x) + x

    with pytest.raises(OutputError, match=r"output differs by .* between ONNX Runtime and PyTorch"):
        export_onnx(Wild(), (torch.ones(2, 3),), {}, tmp_path / "wild.onnx")
