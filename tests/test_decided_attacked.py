"""Wrong graphs that an attack on decided values had found: each has to agree with its model, or to be refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphclone import analyze, capture, select
from graphclone.errors import CaptureError

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
IDS, OTHERS = torch.tensor([1, 2]), torch.tensor([3, 2])


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def model(forward: Callable[..., Any]) -> nn.Module:
    return type("Attack", (Base,), {"forward": forward})()


def child_of(module: nn.Module, *inputs: Any) -> nn.Module:
    trace = capture(module, inputs)
    return select(trace, analyze(trace), {})


def if_after_a_write(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    y = self.mlp(x).clone()
    y[:, 0] = 0
    return y * 2 if ids.sum() > 3 else y


def if_in_autocast(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.mlp(x).float()
        if ids.sum() > 3:
            y = y * 3
    return y * 2 if ids.sum() > 3 else y


def if_without_gradients(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.mlp(x).clone()
        y += 1
        if ids.sum() > 3:
            y = y * 2
    return y


@pytest.mark.parametrize("forward", [if_after_a_write, if_in_autocast, if_without_gradients])
def test_functionalisation_loses_no_check(forward: Callable[..., Any]) -> None:
    child = child_of(model(forward), X, IDS)
    child(X, IDS)
    with pytest.raises(RuntimeError, match="cannot take others"):
        child(X, OTHERS)
    assert not torch.is_autocast_enabled("cpu")


def test_a_child_of_a_child_checks_too() -> None:
    child = child_of(child_of(model(if_after_a_write), X, IDS), X, IDS)
    with pytest.raises(RuntimeError, match="cannot take others"):
        child(X, OTHERS)


def written_where_a_parameter_says(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    table = torch.zeros(4)
    table[: self.up.bias[:4].argmax().item()] = 1.0
    return self.mlp(x) * 2 if table[0] > 0.5 else self.mlp(x)


def data_of_a_parameter(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    table = torch.zeros(4)
    table.data = self.up.bias[:4]
    return self.mlp(x) * 2 if table[0] > 0.0 else self.mlp(x)


class Statistics(Base):
    """Batch norm writes its statistics, and its schema does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.norm(self.mlp(x).flatten(0, 1)).reshape(x.shape)
        return y * 3 if self.norm.running_mean.abs().sum() > 0.0 else y


@pytest.mark.parametrize("make", [lambda: model(written_where_a_parameter_says), lambda: model(data_of_a_parameter), Statistics])
def test_a_parameter_that_comes_in_by_a_back_door_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(CaptureError):
        capture(make(), (X, IDS))


class CastConstant(Base):
    """In single precision the constant decides one way, in bfloat16 another."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.tensor([[1.0, 2.0**-10], [0.0, 0.0]])

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        sums = self.table @ torch.ones(2, 2)
        with torch.autocast("cpu", torch.bfloat16):
            return self.mlp(x).float() * (3 if sums[0, 0].item() > 1.0005 else 1)


def copied(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    y = torch.tensor(x)
    y += 1
    return self.mlp(x) + y


def listed(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    return self.mlp(x)[0, :2, 0] + torch.tensor([x[0, 0, :1], x[0, 0, 1:2]])


def sign_of_zero(self: Base, x: Tensor, ids: Tensor) -> Tensor:
    return self.mlp(x) * math.copysign(1.0, float(x[0, 0, 0]))


def numbers_returned(self: Base, x: Tensor, ids: Tensor) -> Any:
    return self.mlp(x), ids.tolist()


def lazily_kept(self: Any, x: Tensor, ids: Tensor) -> Tensor:
    if not hasattr(self, "places"):
        self.places = torch.arange(6.0)[None, :, None]
    return self.mlp(x) * (2 if ids.sum() > 3 else 1) + self.places


def first_run(self: Any, x: Tensor, ids: Tensor) -> Tensor:
    first = not hasattr(self, "seen")
    self.seen = True
    return self.mlp(x) * (2 if ids.sum() > 3 else 1) * (1 if first else 100)


AGREEING: dict[str, Callable[[], nn.Module]] = {
    each.__name__: (lambda each=each: model(each))  # type: ignore[misc]
    for each in (copied, listed, sign_of_zero, numbers_returned, lazily_kept, first_run)
}


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("case", [*AGREEING, "cast constant"])
def test_it_agrees_with_its_model_or_is_refused(case: str) -> None:
    made = CastConstant() if case == "cast constant" else AGREEING[case]()
    zeros = torch.zeros_like(X)
    for x in (X, zeros, -zeros):
        try:
            child = child_of(copy.deepcopy(made), x, IDS)
        except CaptureError:
            assert case == "cast constant"
            continue
        for other in (x, -x):
            if case == "sign_of_zero" and other is not x:
                with pytest.raises(RuntimeError, match="cannot take others"):
                    child(other.clone(), IDS)
                continue
            found = child(other.clone(), IDS)
            torch.testing.assert_close(found, copy.deepcopy(made)(other.clone(), IDS), rtol=0, atol=0)
