"""Rotation of a stream: a parent that is turned computes what it did, and whatever would not is refused with a reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphclone as gc
from graphclone.calibration import Calibration, Run
from graphclone.errors import FrozenError, WeightsError
from graphclone.layout import Layout
from graphclone.rotation import meetings, principal_axes, rotated
from graphclone.rotation.rotate import mean_free
from models_zoo import field

D = 12


class RMS(nn.Module):
    """By hand, with the gain as an offset from one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(D) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.gain)


class Block(nn.Module):
    def __init__(self, norm: nn.Module, bias: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm, nn.Linear(D, 20, bias=bias), nn.Linear(20, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, norm: type[nn.Module] = RMS, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        make = (lambda: nn.LayerNorm(D)) if norm is nn.LayerNorm else norm
        self.embed, self.place = nn.Embedding(17, D), nn.Parameter(torch.randn(1, 7, D))
        self.blocks = nn.ModuleList(Block(make(), bias) for _ in range(4))
        self.norm, self.head = make(), nn.Linear(D, 5, bias=bias)
        for each in self.modules():
            if isinstance(each, nn.LayerNorm):
                nn.init.normal_(each.weight, 1, 0.3)
                nn.init.normal_(each.bias, 0, 0.3)

    def tail(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * D**0.5 + self.place
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


IDS = torch.randint(0, 17, (3, 7), generator=torch.Generator().manual_seed(0))


def _layout(model: nn.Module) -> Layout:
    return gc.analyze(gc.capture(model.eval(), (IDS,)))


def _results(layout: Layout, leaves: list[object]) -> list[Tensor]:
    with torch.no_grad():
        found = pytree.tree_leaves(Run(layout, lambda *_: None).run(*leaves))
    return [each.double() for each in found if isinstance(each, Tensor) and each.is_floating_point()]


def _apart(layout: Layout, leaves: list[object]) -> float:
    """How far any rotation of the stream moves the outputs."""
    factor = layout["residual"]
    met = meetings(layout, factor)
    axes, _ = torch.linalg.qr(
        torch.randn(factor.size, factor.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    turned = rotated(layout, met, mean_free(axes, factor.size) if met.centred else axes)
    assert not torch.equal(*(each.trace.state[next(iter(met.readers))[0]] for each in (layout, turned)))
    pairs = zip(_results(layout, leaves), _results(turned, leaves), strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize(("norm", "bias"), [(RMS, False), (RMS, True), (nn.LayerNorm, True)])
def test_a_turned_parent_computes_what_it_did(norm: type[nn.Module], bias: bool) -> None:
    assert _apart(_layout(Model(norm, bias)), [IDS]) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "hf/llama/LlamaForCausalLM",
        "hf/qwen3/Qwen3ForCausalLM",
        "hf/mistral/MistralForCausalLM",
        "hf/vit/ViTForImageClassification",
        "hf/phi3/Phi3ForCausalLM",
    ],
)
def test_models_of_the_field_can_be_turned(name: str) -> None:
    tiny = field.find(name)
    args, kwargs = tiny.inputs()
    layout = gc.analyze(gc.capture(tiny.build(), args, kwargs))
    assert _apart(layout, pytree.tree_leaves((args, kwargs))) < 1e-4


def _refusal(model: nn.Module) -> str:
    layout = _layout(model)
    with pytest.raises(FrozenError, match="cannot rotate 'residual'") as told:
        meetings(layout, layout["residual"])
    return told.value.because


class Elementwise(Model):
    def tail(self, x: Tensor) -> Tensor:
        return super().tail(torch.relu(x))


class Raw(Model):
    """The head reads the stream with its mean, which the other norms take away."""

    def tail(self, x: Tensor) -> Tensor:
        return self.head(x)


class Tied(Model):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, 17, bias=False)
        self.head.weight = self.embed.weight


class Shifted(Model):
    def tail(self, x: Tensor) -> Tensor:
        return super().tail(x + 1)


def test_what_a_rotation_would_change_is_refused_with_its_line() -> None:
    told = _refusal(Elementwise())
    assert "one by one" in told
    assert "test_rotation.py:" in told
    assert "reads them with it" in _refusal(Raw(nn.LayerNorm, True))
    assert "used in two ways" in _refusal(Tied())
    assert "added to every unit" in _refusal(Shifted())
    assert "has none of its own" in _refusal(Model(nn.LayerNorm, False))


def test_a_raw_head_is_no_hindrance_where_norms_leave_the_mean() -> None:
    assert _apart(_layout(Raw()), [IDS]) < 1e-5


def test_the_principal_axes_keep_most_of_the_energy() -> None:
    calibration = Calibration.of(Model().eval(), [IDS])
    found = principal_axes(calibration, "residual")
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(D, dtype=torch.float64))
    assert found.retained(D) == pytest.approx(1)
    tokens: list[Tensor] = []
    layout = calibration.parts[0][0]
    ends = {end for block in layout.blocks[0].blocks for end in (block.entry, block.exit)}
    calibration.each(lambda _: lambda node, value, env: tokens.append(value.flatten(0, 1).double()) if node in ends else None)
    unit = torch.cat([each / each.norm(dim=-1, keepdim=True) for each in tokens])
    assert found.retained(6) == pytest.approx(float((unit @ found.axes[:, :6]).square().sum() / len(unit)))
    assert found.retained(6) >= max(float(unit[:, list(range(i, i + 6))].square().sum() / len(unit)) for i in range(7))


def test_axes_for_a_narrower_child_leave_its_mean_at_zero() -> None:
    axes = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    found = mean_free(axes, 7)
    torch.testing.assert_close(found.T @ found, torch.eye(D, dtype=torch.float64))
    stream = torch.randn(50, D, dtype=torch.float64)
    narrow = (stream - stream.mean(-1, keepdim=True)) @ found[:, :7]
    assert narrow.mean(-1).abs().max() < 1e-12


def test_activations_that_are_not_finite_are_refused() -> None:
    model = Model().eval()
    model.place.data[0, 0, 0] = float("inf")
    with pytest.raises(WeightsError, match="not finite"):
        principal_axes(Calibration.of(model, [IDS]), "residual")
