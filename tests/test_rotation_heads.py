"""Rotation inside heads: values, queries and keys turn with their head, or it is refused; cuts are along principal axes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphclone as gc
from graphclone.calibration import Calibration
from graphclone.errors import FrozenError
from graphclone.layout import Layout
from graphclone.recipe import Recipe, begin
from graphclone.rotation import meetings, principal_axes_of_heads, rotated
from graphclone.rotation.places import Places
from graphclone.verify import difference, outputs, rotation

B, T, H, G, D, WIDTH = 3, 7, 3, 2, 5, 10  # H groups of G queries
X = torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(0))
Odd = Callable[["Attention", Tensor], Tensor]


def _as_it_is(_: Attention, x: Tensor) -> Tensor:
    return x


class Attention(nn.Module):
    """Grouped attention; something odd may happen to its values [B, H, T, D], to what it puts out [B, H·G, T, D], or to its queries."""

    def __init__(self, values: Odd = _as_it_is, out: Odd = _as_it_is, queries: Odd = _as_it_is, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.kv = nn.Linear(WIDTH, H * G * D, bias), nn.Linear(WIDTH, 2 * H * D, bias)
        self.o, self.head = nn.Linear(H * G * D, WIDTH, bias), nn.Linear(WIDTH, 4)
        self.mixed, self.inner, self.gain = nn.Linear(H, H), nn.Linear(D, D), nn.Parameter(torch.rand(D) + 0.5)
        self.outer, self.each = nn.Parameter(torch.randn(H, D, D)), nn.Parameter(torch.randn(H, 1, 1))
        self.row, self.norm = nn.Parameter(torch.randn(H, 1, D)), nn.LayerNorm(D)
        self.odd = values, out, queries

    def forward(self, x: Tensor) -> Tensor:
        values, out, queries = self.odd
        k, v = (each.view(B, T, H, D).transpose(1, 2) for each in self.kv(x).chunk(2, -1))
        q = queries(self, self.q(x).view(B, T, H * G, D).transpose(1, 2))
        k, v = (each.repeat_interleave(G, 1) for each in (k, values(self, v)))
        found = out(self, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.head(torch.tanh(x + self.o(found.transpose(1, 2).reshape(B, T, -1))))


def _layout(model: nn.Module) -> Layout:
    return gc.analyze(gc.capture(model.eval(), (X,)))


def _turned(model: nn.Module) -> tuple[int, float, str]:
    """How many insides of heads can be turned, how far that moves the outputs, and why others cannot."""
    layout, count, why = _layout(model), 0, []
    for factor in layout.factors:
        if factor.kind == "head_dim":
            try:
                count += bool(meetings(layout, factor))
            except FrozenError as error:
                why.append(str(error.because))
    verdict = rotation(layout.trace, layout, ((X,), {}), outputs(model, ((X,), {})), 0)
    return count, verdict.error, "; ".join(why)


def test_values_queries_and_keys_turn_with_their_head() -> None:
    for bias in (True, False):
        count, error, why = _turned(Attention(bias=bias))
        assert (count, why) == (2, "")
        assert error < 1e-5


def test_each_head_turns_by_itself() -> None:
    layout = _layout(Attention())
    factor = next(each for each in layout.factors if each.kind == "head_dim")
    met = meetings(layout, factor)
    assert met.heads is not None
    assert met.heads.size == H
    axes = torch.eye(D, dtype=torch.float64).repeat(H, 1, 1)
    axes[1] = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0]
    turned = rotated(layout, met, axes)
    name, dim = next(each for each in met.writers if each[0] == "kv.weight")
    moved = (turned.trace.state[name] != layout.trace.state[name]).any(1 - dim).nonzero().flatten().tolist()
    assert [position % (H * D) // D for position in moved] == [1] * D


VALUES: dict[str, Odd] = {
    "doubled": lambda m, v: 2 * v,
    "each head by its own number": lambda m, v: v * m.each,
    "mixed over positions": lambda m, v: v.cumsum(2),
    "positions zeroed": lambda m, v: v.masked_fill(torch.arange(T)[:, None] > 4, 0.0),
    "a map inside heads": lambda m, v: v + m.inner(v),
    "a map of each head": lambda m, v: v + torch.einsum("bhtd,hde->bhte", v, m.outer),
    "a gain": lambda m, v: v * m.gain,
    "a row of each head": lambda m, v: v + m.row,
    "one row of all heads": lambda m, v: v + m.gain,
    "relu": lambda m, v: v.relu(),
    "layer norm": lambda m, v: m.norm(v),
    "rms norm without a gain": lambda m, v: functional.rms_norm(v, (D,)),
    "rms norm with one": lambda m, v: functional.rms_norm(v, (D,), m.gain),
    "rms norm by hand": lambda m, v: v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6),
    "heads mixed": lambda m, v: m.mixed(v.transpose(1, 3)).transpose(1, 3),
    "heads mixed and added": lambda m, v: v + m.mixed(v.transpose(1, 3)).transpose(1, 3),
    "heads averaged": lambda m, v: v + v.mean(1, keepdim=True),
    "heads rolled": lambda m, v: v + v.roll(1, 1),
    "heads flipped": lambda m, v: v.flip(1),
    "heads summed up": lambda m, v: v.cumsum(1),
    "the first head to all": lambda m, v: v + v[:, :1],
    "heads compared with heads": lambda m, v: torch.einsum("bhtd,bgtd->bhgt", v, v).sum(2)[..., None] * v,
    "a head compared with itself": lambda m, v: torch.einsum("bhtd,bhtd->bht", v, v)[..., None] * v,
    "a map that crosses heads": lambda m, v: torch.einsum("bhtd,gde->bgte", v, m.outer),
    "units reversed": lambda m, v: v.flip(-1),
    "halves swapped": lambda m, v: torch.cat([-v[..., 2:], v[..., :2]], -1),
    "softmax over units": lambda m, v: v.softmax(-1),
    "sorted": lambda m, v: v.sort(-1).values,
    "squared": lambda m, v: v * v,
    "its norm beside it": lambda m, v: v * v.norm(dim=-1, keepdim=True),
    "its largest unit": lambda m, v: v * v.amax(-1, keepdim=True),
    "normalised": lambda m, v: functional.normalize(v, dim=-1),
    "clamped": lambda m, v: v.clamp(-1, 1),
    "heads and units viewed as one": lambda m, v: v.transpose(1, 2).reshape(B, T, H * D).view(B, T, H, D).transpose(1, 2),
    "heads and units viewed the other way": lambda m, v: v.transpose(1, 2).reshape(B, T, D, H).permute(0, 3, 1, 2),
    "normalised over heads and units": lambda m, v: (
        functional.rms_norm(v.transpose(1, 2).reshape(B, T, H * D), (H * D,)).view(B, T, H, D).transpose(1, 2)
    ),
}


@pytest.mark.parametrize("place", ["values", "out", "queries"])
@pytest.mark.parametrize("name", VALUES)
def test_nothing_that_is_turned_changes_the_function(name: str, place: str) -> None:
    odd = VALUES[name]
    if place != "values":  # in groups, to have H heads again
        inner = odd
        odd = lambda m, v: torch.cat([inner(m, each) for each in v.view(B, H, G, T, D).unbind(2)], 1)  # noqa: E731
    _, error, _ = _turned(Attention(**{place: odd}))
    assert error < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "doubled",
        "each head by its own number",
        "positions zeroed",
        "a map inside heads",
        "a map of each head",
        "a row of each head",
    ],
)
def test_what_is_linear_in_a_head_is_no_hindrance(name: str) -> None:
    count, _, why = _turned(Attention(values=VALUES[name]))
    assert count == 2, why


def test_places_of_heads_on_the_same_dim_and_on_another() -> None:
    layout = _layout(Attention(values=VALUES["a map of each head"]))
    factor = next(each for each in layout.factors if each.kind == "head_dim" and ("outer", 1) in each.slots)
    heads = meetings(layout, factor).heads
    beside, across = (Places.of(layout.axes(name), dim, factor, heads) for name, dim in (("o.weight", 1), ("outer", 1)))
    assert beside is not None
    assert across is not None
    assert beside.across is None
    assert beside.head.tolist() == [0, 0, 1, 1, 2, 2]
    assert across.across == 0


def test_moments_are_those_of_each_head() -> None:
    model = Attention().eval()
    calibration = Calibration.of(model, [X])
    layout = calibration.parts[0][0]
    name = next(each.name for each in layout.factors if ("o.weight", 1) in each.slots and each.kind == "head_dim")
    axes = principal_axes_of_heads(calibration, [name])[name]
    assert axes.shape == (H, D, D)
    seen: list[Tensor] = []
    model.o.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(X)
    units = seen[0].view(B * T, H, G, D).permute(1, 0, 2, 3).flatten(1, 2).double()
    for head in range(H):
        energy = (units[head] @ axes[head]).square().sum(0)
        assert energy.tolist() == sorted(energy.tolist(), reverse=True)
        torch.testing.assert_close(energy, torch.linalg.svdvals(units[head]).square())


def test_a_child_of_narrower_heads_begins_nearer_to_its_parent() -> None:
    parent = Attention().eval()
    batches = [torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    layout, calibration = _layout(parent), Calibration.of(parent, batches)
    width = {each.name: D - 1 for each in layout.factors if each.kind == "head_dim"}
    expected, apart = outputs(parent, ((X,), {})), {}
    for rotate in (False, True):
        begun = begin(
            layout, calibration, Recipe(rotate=rotate, refit=False), lambda it, scores: gc.plan(it, width=width, scores=scores)
        )
        child = gc.execute(begun.plan, parent, trace=layout.trace, fitted=begun.fitted)
        apart[rotate] = difference(expected, outputs(child, ((X,), {})))
        assert set(begun.plan.rotated) == (set(width) if rotate else set())
    assert apart[True] < apart[False]
