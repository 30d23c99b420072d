"""Every way to meet a stream that a rotation was once wrong about: it is refused, or turned rightly. And data that a refit met badly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.errors import FrozenError, GraphcloneError
from graphclone.recipe import Recipe
from graphclone.repair import beside, refitted
from graphclone.verify import outputs, two_roads
from tests.test_recipe import BATCHES, Sized
from tests.test_rotation import IDS, RMS, D, Model, _apart, _layout

Tail = Callable[["Odd", Tensor], Tensor]


class Odd(Model):
    """Something happens to the stream before the last norm."""

    def __init__(self, tail: Tail, norm: type[nn.Module] = RMS) -> None:
        super().__init__(norm, True)
        torch.manual_seed(3)
        self.square, self.bilinear, self.conv = nn.Linear(D, D), nn.Bilinear(D, D, 1), nn.Conv1d(D, D, 3, padding=1)
        self.gain, self.mixed = nn.Parameter(torch.randn(D)), nn.Linear(7, 7)
        self.again, self.other = norm(D) if norm is nn.LayerNorm else RMS(), nn.Parameter(torch.randn(1, 7, D))
        self.odd = tail

    def tail(self, x: Tensor) -> Tensor:
        return super().tail(self.odd(self, x))


TURNED: dict[str, Tail] = {
    "a map from the stream to itself": lambda m, x: x + m.square(x),
    "one behind a norm": lambda m, x: x + m.square(m.again(x)),
    "one that is a bare parameter": lambda m, x: x + x @ m.square.weight,
    "a convolution from the stream to itself": lambda m, x: x + m.conv(x.transpose(1, 2)).transpose(1, 2),
    "a map read by einsum": lambda m, x: x + torch.einsum("btd,ed->bte", x, m.square.weight),
    "zeros beside it": lambda m, x: torch.cat([torch.zeros_like(x[:, :1]), x], 1),
    "a pad with zeros": lambda m, x: functional.pad(x, (0, 0, 1, 0)),
    "positions that are zeroed": lambda m, x: x.masked_fill(torch.arange(7)[:, None] > 4, 0.0),
}
REFUSED: dict[str, Tail] = {
    "bilinear": lambda m, x: x + m.bilinear(x, x),
    "a quadratic einsum": lambda m, x: x + torch.einsum("btd,de,bte->bt", x, m.square.weight, x)[..., None],
    "an einsum that scales units": lambda m, x: torch.einsum("btd,d->btd", x, m.gain),
    "lerp by unit": lambda m, x: torch.lerp(x, m.other, m.gain.sigmoid()),
    "lerp by a gain": lambda m, x: torch.lerp(x, m.other, m.gain),
    "where with a tensor": lambda m, x: torch.where(torch.arange(7)[:, None] > 4, x, torch.tensor(0.7)),
    "masked_fill with a tensor": lambda m, x: x.masked_fill(torch.arange(7)[:, None] > 4, torch.tensor(0.7)),
    "division that rounds": lambda m, x: torch.div(x, 0.1, rounding_mode="floor"),
    "a pad with ones": lambda m, x: functional.pad(x, (0, 0, 1, 0), value=1.0),
    "whole numbers": lambda m, x: (x * 10).int().float(),
    "a bias over tokens": lambda m, x: m.mixed(x.transpose(1, 2)).transpose(1, 2),
    "a gain in two roles": lambda m, x: functional.rms_norm(x, (D,), m.gain) @ m.square.weight * (1 + m.gain),
    "a gain with a factor": lambda m, x: m.again(x) * torch.add(m.gain, 1, alpha=2),
}


@pytest.mark.parametrize("what", TURNED)
def test_what_is_linear_turns(what: str) -> None:
    assert _apart(_layout(Odd(TURNED[what])), [IDS]) < 1e-5


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_is_refused(what: str) -> None:
    with pytest.raises(FrozenError, match="cannot rotate"):
        _apart(_layout(Odd(REFUSED[what])), [IDS])


def test_a_child_of_a_model_with_maps_from_the_stream_to_itself_begins_nearer_than_a_selected_one() -> None:
    class Mixing(Sized):
        def __init__(self, width: int = 12) -> None:
            super().__init__(width)
            torch.manual_seed(width)
            self.mix = nn.Linear(width, width)

        def tail(self, x: Tensor) -> Tensor:
            return super().tail(x + self.mix(x))

    parent, far = Mixing().eval(), []
    for recipe in (Recipe(influence=False, refit=False), Recipe(influence=False, rotate=False, refit=False)):
        child, report = gc.subclone(parent, Mixing(9).eval(), (BATCHES[0],), data=BATCHES, recipe=recipe)
        assert report.plan.rotated == (("residual",) if recipe.rotate else ())
        assert two_roads(report.plan, parent, child, ((BATCHES[0],), {})).passed
        far.append(float((outputs(parent, ((BATCHES[0],), {}))[0] - outputs(child, ((BATCHES[0],), {}))[0]).square().mean()))
    assert far[0] < far[1]


def test_a_rotation_that_changes_the_outputs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the analysis wrong, the calibration data would show it."""
    from graphclone import recipe as followed
    from graphclone.rotation import rotate

    def wrong(layout: gc.Layout, met: object, axes: Tensor) -> gc.Layout:
        return rotate.rotated(layout, met, axes.flip(0) * 1.1)  # type: ignore[arg-type]

    monkeypatch.setattr(followed, "rotated", wrong)
    parent = Sized().eval()
    _, report = gc.subclone(parent, Sized(8).eval(), (IDS,), data=BATCHES, recipe=Recipe(refit=False))
    assert report.plan.rotated == ()
    assert any("a rotation changes the outputs" in remark for remark in report.plan.remarks)


def test_units_that_are_never_active_are_no_hindrance() -> None:
    parent = Sized().eval()
    for block in parent.blocks:
        block.up.bias.data.fill_(-1e3)  # type: ignore[union-attr, operator]
    child, report = gc.subclone(parent, Sized(8, 3, 14).eval(), (IDS,), data=BATCHES)
    assert outputs(child, ((IDS,), {}))[0].isfinite().all()
    assert report.plan.rotated


def test_batches_of_another_length_are_scored_and_those_that_fit_are_refitted() -> None:
    shorter = [torch.randint(0, 17, (16, 5), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]

    class Cut(Sized):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids) + self.place[:, : ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.tail(x)

    parent = Cut().eval()
    child, report = gc.subclone(parent, Cut(8, 3, 14).eval(), (BATCHES[0],), data=[*BATCHES, *shorter])
    assert report.plan.fitted
    assert two_roads(report.plan, parent, child, ((BATCHES[0],), {})).passed


class Weighed(nn.Module):
    """A map whose weight is a buffer, on one token without a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 4)
        self.register_buffer("fixed", torch.randn(4, 10))

    def forward(self, x: Tensor) -> Tensor:
        units = torch.relu(self.up(x))
        return self.down(units) + functional.linear(units, self.fixed)


def test_a_buffer_is_not_refitted_and_a_token_needs_no_batch() -> None:
    batches = [torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    calibration = Calibration.of(Weighed().eval(), batches)
    layout = calibration.parts[0][0]
    (name,) = (factor.name for factor in layout.factors if factor.kind == "hidden" and factor.frozen is None)
    plan = gc.plan(layout, width={name: 5})
    assert set(refitted(beside(calibration, plan, layout))) <= {"down.weight"}


def test_a_batch_that_is_none_is_told() -> None:
    with pytest.raises(GraphcloneError, match="cannot be a ndarray"):
        gc.subclone(Sized().eval(), Sized(8).eval(), (IDS,), data=[IDS.numpy()])
