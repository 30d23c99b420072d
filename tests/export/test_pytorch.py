from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn

from graphclone.errors import OutputError
from graphclone.export.pytorch import save_graph, save_state
from graphclone.sources import load, read_state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x))


def test_tied_weights_are_written_once_and_read_back_under_both_names(tmp_path: Path) -> None:
    model = Tied()
    save_state(model.state_dict(), tmp_path / "tied.safetensors", {"made by": "a test"})
    with safe_open(tmp_path / "tied.safetensors", "pt") as file:
        assert list(file.keys()) == ["embedding.weight"]
        assert file.metadata()["made by"] == "a test"
    state = read_state(tmp_path / "tied.safetensors")
    assert state["embedding.weight"] is state["head.weight"]
    assert torch.equal(state["head.weight"], model.head.weight)


def test_safetensors_own_reader_restores_ties_too(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    save_state(model.state_dict(), tmp_path / "tied.safetensors")
    load_model(other, tmp_path / "tied.safetensors")
    assert torch.equal(other.head.weight, model.head.weight)


def test_views_into_one_storage_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {
        "whole": whole,
        "half": whole[:6],
        "turned": whole.view(3, 4).T,
        "one": whole[:1],
        "empty": whole[:0],
        "none": whole[:0],
    }
    save_state(state, tmp_path / "views.safetensors")
    again = read_state(tmp_path / "views.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "views.safetensors").stat().st_size < 1000


def test_a_graph_is_a_parent_again(tmp_path: Path) -> None:
    model, tokens = Tied().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    save_graph(model, (tokens,), {}, tmp_path / "tied.pt2")
    parent = load(str(tmp_path / "tied.pt2"))
    assert torch.equal(parent.module(*parent.args), model(tokens))


def test_a_model_that_cannot_be_traced_is_not_written(tmp_path: Path) -> None:
    class Choosy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(OutputError, match=r"cannot write 'choosy\.pt2'\n  because  torch\.export says: "):
        save_graph(Choosy(), (torch.ones(2),), {}, tmp_path / "choosy.pt2")
    assert not (tmp_path / "choosy.pt2").exists()
