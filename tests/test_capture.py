"""Model → Trace: functional, with ties, without harm to the model; and what is said of a model that cannot be traced."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

import graphclone as gc
from graphclone.capture import source_line
from graphclone.errors import CaptureError
from graphclone.inputs import describe, example
from graphclone.verify import outputs
from models_zoo import tiny
from tests.zoo import subject


class Mutating(nn.Module):
    """In-place ops on values, a running statistic, a constant, no_grad and autocast inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).relu_()
        y.add_(1)
        y[:, 0] = 0
        with torch.no_grad():
            shift = torch.tensor([0.5]) * 2
        with torch.autocast("cpu", enabled=False):
            y = self.norm(y) + shift
        self.seen += y.mean(0)
        return y


def test_the_graph_mutates_nothing_and_computes_the_same() -> None:
    model, x = Mutating().eval(), torch.randn(5, 12)
    trace = gc.capture(model, (x,))
    targets = [node.target for node in trace.graph.nodes if node.op == "call_function"]
    assert not any(target._schema.is_mutable for target in targets if isinstance(target, torch._ops.OpOverload))
    assert not any("wrap_with" in str(target) for target in targets)
    child = gc.select(trace, gc.analyze(trace), {})
    torch.testing.assert_close(outputs(child, ((x,), {})), outputs(copy.deepcopy(model), ((x,), {})))


def test_a_model_is_left_as_it_was() -> None:
    model, x = Mutating().train(), torch.randn(5, 12)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace = gc.capture(model, (x,))
    gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace)(x)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_never_reaches_the_output_is_named() -> None:
    assert set(gc.capture(Mutating().eval(), (torch.randn(5, 12),)).unused) >= {"seen", "unused.weight", "unused.bias"}


def test_ties_are_one_tensor_with_two_names() -> None:
    it = subject("hf/gpt2")
    child = gc.execute(gc.plan(it.layout), it.model, trace=it.trace)
    assert it.trace.aliases["lm_head.weight"] == "transformer.wte.weight"
    assert "lm_head.weight" not in it.trace.state
    assert sum(p.numel() for p in child.parameters()) == sum(p.numel() for p in it.model.parameters())


def test_a_ready_made_program_can_be_captured() -> None:
    model, x = nn.Sequential(nn.Linear(12, 7), nn.GELU()), torch.randn(5, 12)
    program = torch.export.export(model, (x,))
    assert [factor.size for factor in gc.analyze(gc.capture(program)).factors] == [
        factor.size for factor in gc.analyze(gc.capture(model, (x,))).factors
    ]


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if super().forward(x).sum() > 0:
            return x
        return -x


class Entropies(nn.Linear):
    """A distribution checks its arguments by a branch on their values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=super().forward(x)).entropy()


class Indexing(nn.Linear):
    """A function of one position, for all of them at once, that reads a tensor there."""

    def forward(self, x: Tensor) -> Tensor:
        rows = super().forward(x)
        with TransformGetItemToIndex():
            return torch.vmap(lambda i: rows[i] * 2)(torch.arange(len(rows)))


@pytest.mark.parametrize("kind", [Entropies, Indexing])
def test_what_torch_does_beside_the_point_is_no_hindrance(kind: type[nn.Linear]) -> None:
    model, x = kind(4, 5), torch.randn(3, 4)
    checked = torch.distributions.Distribution._validate_args
    trace = gc.capture(model, (x,))
    assert torch.distributions.Distribution._validate_args is checked
    child = gc.select(trace, gc.analyze(trace), {})
    torch.testing.assert_close(outputs(child, ((x,), {})), outputs(model, ((x,), {})))


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.zeros(5, 5)


def test_a_single_input_that_is_in_no_tuple_is_told_so() -> None:
    with pytest.raises(CaptureError, match=r"cannot be a Tensor") as caught:
        gc.capture(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[arg-type]
    assert "(x,)" in str(caught.value)


def test_a_model_that_cannot_be_exported_is_told_where_and_what_to_do() -> None:
    with pytest.raises(CaptureError) as caught:
        gc.capture(Branching(4, 4), (torch.randn(3, 4),))
    text = str(caught.value)
    assert "torch.export cannot trace Branching" in text
    assert "test_capture.py:" in text
    assert "\n  try      another attention implementation" in text


@pytest.mark.parametrize(
    ("model", "kwargs", "because"),
    [
        (Failing(), {"x": torch.randn(3, 4)}, "it stops at test_capture.py:"),
        (Failing(), {}, "it raises TypeError"),
        (Failing(), {"nonsense": torch.randn(2, 3)}, "it raises TypeError"),
    ],
)
def test_inputs_that_the_model_itself_does_not_take_are_told_so(
    model: nn.Module, kwargs: dict[str, Tensor], because: str
) -> None:
    with pytest.raises(CaptureError, match="Failing does not run on the example inputs: ") as caught:
        gc.capture(model, (), kwargs)
    assert f"\n  because  {because}" in str(caught.value).replace(str(Path(__file__).parent) + "/", "")
    assert "\n  try      what its forward takes: (x: 'Tensor') -> 'Tensor'" in str(caught.value)


def test_a_source_line_is_the_users_not_torchs() -> None:
    stack = '  File "/home/me/model.py", line 12, in forward\n  File "/site/torch/nn/functional.py", line 9, in linear\n'
    assert source_line(stack) == "model.py:12"
    assert source_line(None) is None


@pytest.mark.parametrize("name", tiny.names())
def test_inputs_are_kept_as_data_and_made_again(name: str) -> None:
    it = subject(name)
    args, kwargs = example(it.trace.inputs)
    again = describe(args, kwargs)
    assert again == it.trace.inputs
    outputs(it.model, (args, kwargs))  # they run


class Remembers(nn.Module):
    """It keeps a table, outside of any module, that its first forward works out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(4, 3), SimpleNamespace()

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self.kept, "table"):
            self.kept.table = torch.arange(4) * 0.5
        return self.linear(x + self.kept.table)


def test_capture_leaves_nothing_of_its_own_in_the_model() -> None:
    model, x = Remembers(), torch.randn(2, 4)
    trace = gc.capture(model, (x,))
    assert not hasattr(model.kept, "table")
    assert model(x).shape == (2, 3)
    assert trace.state["linear.weight"].data_ptr() == model.linear.weight.data_ptr()  # the tensors are shared, not copied


class Lenient(nn.Module):
    """It takes any named input, and reads those that it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)

    def forward(self, ids: Tensor, **kwargs: Tensor) -> Tensor:
        embedded = self.embed(ids)
        return embedded + kwargs["shift"] if "shift" in kwargs else embedded


def test_values_that_a_model_cannot_take_are_told_though_its_graph_could_be_traced() -> None:
    ids = torch.tensor([[1, 9]])
    with pytest.raises(CaptureError, match="Lenient does not run on the example inputs: index out of range"):
        gc.capture(Lenient(), (ids,))
    with pytest.raises(CaptureError, match=r"Lenient does not run on the example inputs: (.|\n)*try      smaller integers"):
        gc.verify(Lenient(), (ids,))


def test_an_input_that_nothing_reads_is_told() -> None:
    ids, shift = torch.tensor([[1, 2]]), torch.ones(4)
    assert not gc.capture(Lenient(), (ids,), {"shift": shift}).remarks
    assert gc.capture(Lenient(), (ids,), {"shifts": shift}).remarks == (
        "the model never reads the input 'shifts': its forward takes (ids, kwargs)",
    )
