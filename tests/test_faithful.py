"""Where a graph could silently differ from its model: dtypes, gradients, state, constants, chance. Kept, or said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphclone as gc
from graphclone.errors import CaptureError, DestinationError, PlanError, SizeError, WeightsError
from graphclone.execute.graph import Child
from graphclone.execute.memory import pick
from graphclone.passes import whole
from graphclone.subclone import check_finite
from graphclone.verify import outputs
from tests.zoo import subject

X = torch.randn(3, 11, 28, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two linear maps; what is odd comes in `between`."""

    def __init__(self, hidden: int = 20) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(28, hidden), nn.Linear(hidden, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))

    def between(self, y: Tensor) -> Tensor:
        return y


def child_of(model: nn.Module, *args: Any, width: dict[str, int] | None = None, **kwargs: Any) -> Child:
    trace = gc.capture(model, args, kwargs)
    return gc.execute(gc.plan(gc.analyze(trace), width=width or {}), model, trace=trace)


def assert_same_gradients(model: nn.Module) -> None:
    child = child_of(model, X)
    expected, found = model(X), child(X)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for result in (expected, found):
        result.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        ours = child.get_parameter(name).grad
        assert (ours is None) == (parameter.grad is None), name
        if ours is not None and parameter.grad is not None:
            torch.testing.assert_close(ours, parameter.grad)


# -- gradients -------------------------------------------------------------------------------------------------------


class NoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x)
        return self.b(y)


class NoGradThatMutates(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x)
            y[:, 0] = 0
        return self.b(y)


class Detached(Net):
    def between(self, y: Tensor) -> Tensor:
        return y.detach() + 0.5 * y


class Written(Net):
    """Slices are written: values, a number, a mask, another dtype and a broadcast value."""

    def between(self, y: Tensor) -> Tensor:
        y[:, 0] = y[:, 0] * 2
        y[..., -4:] *= 2
        y[y > 1] = 0
        y[:, 2:4].fill_(3)
        new = torch.zeros_like(y)
        new[:] = y
        new[:, 5] = y[:, 6].double()
        new[:, 7] = y[0, 8]
        return new


class Checkpointed(Net):
    def between(self, y: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(torch.relu, y, use_reentrant=False)  # type: ignore[no-any-return]


class Autocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.b(self.a(x).relu())
        return y.float()


@pytest.mark.parametrize("kind", [NoGrad, NoGradThatMutates, Detached, Written, Checkpointed, Autocast])
def test_a_child_has_its_parents_gradients(kind: type[Net]) -> None:
    torch.manual_seed(0)
    assert_same_gradients(kind())


def test_autocast_is_written_out_as_casts() -> None:
    trace = gc.capture(Autocast(), (X,))
    assert torch.bfloat16 in {node.meta["val"].dtype for node in trace.graph.nodes if node.op == "call_function"}
    assert (verdicts := gc.verify(Autocast(), (X,))).passed, verdicts


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Rounded(Net):
    def between(self, y: Tensor) -> Tensor:
        return StraightThrough.apply(y)  # type: ignore[no-any-return, no-untyped-call]


def test_a_backward_of_its_own_is_lost_and_the_plan_says_so() -> None:
    plan = gc.plan(gc.analyze(gc.capture(Rounded(), (X,))))
    assert any("'StraightThrough' has a backward of its own" in remark for remark in plan.remarks)
    assert not gc.capture(Checkpointed(), (X,)).remarks
    assert torch.autograd.Function.apply.__module__ == "torch.autograd.function", "torch is as it was"


# -- dtypes ----------------------------------------------------------------------------------------------------------


class Quantised(nn.Module):
    def __init__(self, hidden: int = 20) -> None:
        super().__init__()
        self.a = nn.Linear(28, hidden)
        self.w = nn.Parameter(torch.randint(-127, 127, (9, hidden), dtype=torch.int8), requires_grad=False)
        self.size = nn.Parameter(torch.rand(9))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.a(x), self.w.to(x.dtype)) * self.size


def test_integers_are_never_scaled_cast_or_trained() -> None:
    model = Quantised()
    layout = gc.analyze(gc.capture(model, (X,)))
    plan = gc.plan(layout, width={"hidden": 10})
    assert plan.tensors["w"].scale == 1
    assert any("'w'" in remark and "integers" in remark for remark in plan.remarks)
    child = gc.execute(plan, model).get_parameter("w")
    assert child.dtype == torch.int8
    assert not child.requires_grad
    assert torch.equal(child, model.w[:, list(plan.keep["hidden"])])
    filled, report = gc.subclone(model, Quantised(10), (X,))
    assert torch.equal(filled.w, model.w[:, list(report.plan.keep["hidden"])])
    assert gc.verify(model, (X,)).passed


def test_a_plan_that_scales_integers_is_refused() -> None:
    with pytest.raises(PlanError, match=r"scales a tensor of torch\.int8"):
        pick(torch.ones(3, dtype=torch.int8), [range(3)], 2.0)
    eight = pick(torch.ones(3, dtype=torch.float8_e4m3fn), [range(3)], 2.0)
    assert eight.dtype == torch.float8_e4m3fn
    assert eight.float().tolist() == [2, 2, 2]


def test_a_destination_with_another_kind_of_number_is_refused() -> None:
    other = Quantised(10)
    other.w = nn.Parameter(other.w.float())
    with pytest.raises(DestinationError, match=r"torch\.float32 in the destination, of torch\.int8"):
        gc.subclone(Quantised(), other, (X,))


def test_what_is_not_trained_in_the_parent_is_not_in_the_child() -> None:
    model = Net()
    model.a.requires_grad_(False)
    child = child_of(model, X)
    assert {name: p.requires_grad for name, p in child.named_parameters()} == {
        name: p.requires_grad for name, p in model.named_parameters()
    }


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(28, dtype=torch.complex64))
        self.o = nn.Parameter(torch.randn(28, 5))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w).abs() @ self.o


def test_complex_parameters_train_and_complex_inputs_are_saved() -> None:
    model, x = Complex(), torch.randn(3, 28, dtype=torch.complex64)
    plan = gc.plan(gc.analyze(gc.capture(model, (x,))), scores=gc.score_weights(gc.analyze(gc.capture(model, (x,)))))
    again = gc.Plan.loads(plan.dumps())
    assert again == plan
    child = gc.execute(again, model)
    assert child.get_parameter("w").requires_grad
    torch.testing.assert_close(child(x), model(x))
    assert gc.verify(model, (x,)).passed
    assert gc.score_activations(model, [x]).units


def test_double_precision_is_scored_and_cloned() -> None:
    model, x = Net().double(), X.double()
    child, report = gc.subclone(model, Net(10).double(), (x,), data=[x])
    assert {p.dtype for p in child.parameters()} == {torch.float64}
    assert set(gc.score_weights(gc.analyze(gc.capture(model, (x,)))).units) == set(report.plan.sizes)


# -- weights and scores that no child should be made of --------------------------------------------------------------


def test_scores_need_values_and_numbers() -> None:
    layout = gc.analyze(gc.capture(Net().to("meta"), (X.to("meta"),)))
    with pytest.raises(WeightsError, match="no values"):
        gc.score_weights(layout)
    with pytest.raises(WeightsError, match="'hidden' are not all numbers"):
        gc.Scores({"hidden": (1.0, float("nan"))})
    with pytest.raises(SizeError, match="no ranking of its 20 units"):
        gc.plan(layout, width={"hidden": 10}, scores=gc.Scores({"hidden": (1.0, 2.0)}))


def test_a_buffer_may_be_infinite_and_not_nan() -> None:
    model = nn.BatchNorm1d(5)
    check_finite(model)
    model.register_buffer("mask", torch.full((3,), float("-inf")))
    check_finite(model)
    assert model.running_mean is not None
    model.running_mean.fill_(float("nan"))
    with pytest.raises(WeightsError, match="running_mean"):
        check_finite(model)


# -- what a graph has fixed ------------------------------------------------------------------------------------------


class WithPlainInputs(Net):
    def forward(self, x: Tensor, n: int, share: float = 0.5, kind: str = "a", bias: Tensor | None = None) -> Tensor:  # type: ignore[override]
        y = self.b(self.a(x))[:, :n] * share
        return y if bias is None else y + bias


@pytest.mark.parametrize(
    ("name", "other"), [("n", 6), ("share", 0.25), ("kind", "b"), ("bias", torch.randn(9))], ids=lambda value: str(value)[:5]
)
def test_a_child_refuses_another_number_than_it_was_traced_with(name: str, other: object) -> None:
    given: dict[str, Any] = {"n": 5, "share": 0.5, "kind": "a", "bias": None}
    model = WithPlainInputs()
    child = child_of(model, X, **given)
    torch.testing.assert_close(child(X, **given), model(X, **given))
    with pytest.raises(AssertionError, match=f"traced with {name}="):
        child(X, **{**given, name: other})
    assert gc.verify(child, (X,), given).passed


class Conditional(Net):
    def between(self, y: Tensor) -> Tensor:
        return torch.cond(y.sum() > 0, torch.relu, torch.tanh, (y,))  # type: ignore[no-any-return]


def test_a_branch_in_the_graph_is_named_with_its_line() -> None:
    with pytest.raises(CaptureError, match=r"cannot be analysed: cond at test_faithful\.py:\d+"):
        gc.capture(Conditional(), (X,))


class Caching(Net):
    """Keeps what it makes of a parameter when it runs, and drops that when it is set to train."""

    forgets = True

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(7))
        self.places = torch.arange(20) % 7
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Caching:
        if mode and self.forgets:
            self.kept = {}
        return super().train(mode)

    def between(self, y: Tensor) -> Tensor:
        if self.training:
            return y + self.bias[self.places]
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias[self.places]
        return y + self.kept["bias"]


class CachingForGood(Caching):
    forgets = False


@pytest.mark.parametrize("grad", [True, False])
def test_a_parameter_that_an_earlier_run_made_a_constant_of_is_found(grad: bool) -> None:
    model, stubborn = Caching().eval(), CachingForGood().eval()
    with torch.set_grad_enabled(grad):
        model(X), stubborn(X)
    trace = gc.capture(model, (X,))
    assert "bias" in trace.parameters
    assert not model.training
    with pytest.raises(CaptureError, match=r"plain tensor that was made of (the parameter 'bias'|trainable tensors)"):
        gc.capture(stubborn, (X,))


class Viewing(Net):
    def __init__(self) -> None:
        super().__init__()
        self.turned = self.b.weight.detach().t()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) @ self.turned + self.b.bias


def test_a_constant_that_is_a_view_of_a_parameter_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"made of the parameter 'b\.weight'"):
        gc.capture(Viewing(), (X,))


class OneMemory(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Parameter(self.b.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) @ self.again


def test_parameters_in_one_memory_are_told_and_ties_are_not() -> None:
    assert any(
        "'b.weight' and 'again'" in remark or "'again' and 'b.weight'" in remark
        for remark in gc.capture(OneMemory(), (X,)).remarks
    )
    assert subject("hf/gpt2").trace.remarks == ()


class WithTower(Net):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Linear(50, 50)


def test_a_model_that_is_dead_in_large_part_is_said_to_be() -> None:
    plan = whole(gc.analyze(gc.capture(WithTower(), (X,))))
    assert plan.remarks == (
        "77% of the parameters have no effect on the example inputs (tower.weight, tower.bias): no child learns of them",
    )
    assert str(plan.remarks[0]) in str(plan)


# -- state and chance ------------------------------------------------------------------------------------------------


class Counting(Net):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) * self.calls


class CountingInPlace(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return Net.forward(self, x) * self.calls


@pytest.mark.parametrize("kind", [Counting, CountingInPlace])
def test_verifying_leaves_buffers_as_they_were_and_says_that_they_move(kind: type[Counting]) -> None:
    model = kind()
    for _ in range(2):
        verdicts = gc.verify(model, (X,))
        assert verdicts.passed, verdicts
        assert float(model.calls) == 0
    assert any("changes its buffers as it runs (calls)" in remark for remark in verdicts.remarks)


def test_running_statistics_in_train_mode_stay_and_it_is_said() -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(20)

        def between(self, y: Tensor) -> Tensor:
            return self.norm(y.mT).mT  # type: ignore[no-any-return]

    assert any("norm.running_mean" in remark for remark in gc.capture(Normed().train(), (X,)).remarks)
    assert gc.capture(Normed().eval(), (X,)).remarks == ()


class Dropping(Net):
    def between(self, y: Tensor) -> Tensor:
        return F.dropout(y, 0.5, self.training)


def test_oracles_on_a_model_that_draws_random_numbers_say_so() -> None:
    verdicts = gc.verify(Dropping().train(), (X,))
    assert not verdicts.passed
    assert "aten.dropout.default at test_faithful.py" in str(verdicts)
    assert "eval mode" in str(verdicts)
    verdicts = gc.verify(Dropping().eval(), (X,))
    assert verdicts.passed
    assert not verdicts.remarks


class DropsItsMask(nn.Module):
    """Runs without its causal mask where an attention mask is all ones, and exports with it, as one library's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(28, 28), nn.Linear(28, 28)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.q(x)
        causal = torch.compiler.is_exporting() or not bool(mask.all())
        return self.o(F.scaled_dot_product_attention(q, q, q, is_causal=causal))


def test_a_graph_that_differs_from_its_model_is_found_out() -> None:
    args = (X, torch.ones(3, 11, dtype=torch.bool))
    verdicts = gc.verify(DropsItsMask(), args)
    assert next(verdict.oracle for verdict in verdicts.verdicts if not verdict.passed) == "identity"
    _, report = gc.subclone(DropsItsMask(), DropsItsMask(), args)
    assert any("the graph differs from the model" in remark for remark in report.plan.remarks)
    _, report = gc.subclone(Net(), Net(10), (X,))
    assert not report.plan.remarks


def test_remarks_travel_with_the_plan() -> None:
    plan = gc.plan(gc.analyze(gc.capture(Rounded(), (X,))))
    assert json.loads(plan.dumps())["remarks"]
    assert outputs(gc.execute(plan, Rounded()), ((X,), {}))
