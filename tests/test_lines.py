"""The lines of a model that its nodes come from: as torch itself would tell them."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.fx import config

import graphclone as gc
from graphclone.capture import source_line
from graphclone.errors import CaptureError


def halved(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)[:, : x.shape[-1] // 2]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)])
        self.gates = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        x = x + torch.arange(x.shape[1])[:, None]
        x[:, 1:] += x[:, :1].sin()
        x = torch.vmap(lambda row: row * row.sum())(x)
        return halved(x) @ self.gates.new_ones(4, 3) + self.gates.sum()


INPUTS = ((torch.randn(2, 5, 8),), {})


def told(nodes: object) -> list[str | None]:
    return [source_line(node.stack_trace) for node in nodes if node.op == "call_function"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "model",
    [Model(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.TransformerEncoderLayer(8, 2, 16)],
    ids=["own", "sequential", "torch's alone"],
)
def test_every_node_has_the_line_that_torch_would_write(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = told(gc.capture(model.eval(), *INPUTS, check=False).graph.nodes)
    monkeypatch.setattr("graphclone.eased.tell", lambda: None)
    monkeypatch.setattr("graphclone.eased.untold", contextlib.nullcontext)
    theirs = told(gc.capture(model, *INPUTS, check=False).graph.nodes)
    assert ours == theirs
    assert all(ours)


def test_torchs_switch_is_as_before_whatever_happens() -> None:
    class Refused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > nn.Linear(8, 1)(x).sum()) else -x

    for before in (False, True):
        config.do_not_emit_stack_traces = before
        try:
            with pytest.raises(CaptureError):
                gc.capture(Refused(), *INPUTS, check=False)
            assert config.do_not_emit_stack_traces is before
        finally:
            config.do_not_emit_stack_traces = False


def test_a_graph_within_a_model_has_the_line_that_calls_it() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 8), nn.GELU()))

        def forward(self, x: Tensor) -> Tensor:
            x = x.sin()
            return self.inner(x)

    sin, *inner = told(gc.capture(Around(), *INPUTS, check=False).graph.nodes)
    assert sin is not None
    file, _, line = sin.partition(":")
    assert set(inner) == {f"{file}:{int(line) + 1}"}
