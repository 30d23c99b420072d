"""Open sizes: a child of a dynamic capture runs at other batch and sequence sizes, and gives what the native child gives there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone import axes as algebra
from graphclone.capture import at_other_sizes
from graphclone.destination import plan_for
from graphclone.dynamic import resized
from graphclone.errors import CaptureError, PlanError, SizeError
from graphclone.execute import fill
from graphclone.export.pytorch import save_graph
from graphclone.verify import difference, outputs
from models_zoo import tiny
from tests.zoo import subject

NAMES = ["hf/llama", "hf/gpt2", "hf/bert", "hf/t5", "hf/mamba", "hf/vit", "timm/swin", "torch/encoder", "raw/einsum_gpt"]
OPEN = {
    "hf/llama": [[0, 1]],
    "hf/gpt2": [[0, 1]],
    "hf/bert": [[0, 1], [0, 1], [0, 1]],
    "hf/t5": [[0, 1], [0, 1], [0, 1]],
    "hf/mamba": [[0]],
    "hf/vit": [[0]],
    "timm/swin": [[0]],
    "torch/encoder": [[0, 1]],
    "raw/einsum_gpt": [[0, 1]],
}


@functools.cache
def dynamic(name: str) -> tuple[gc.Trace, gc.Layout]:
    it = subject(name)
    trace = gc.capture(it.model, it.args, it.kwargs, dynamic=True)
    return trace, gc.analyze(trace)


def elsewhere(name: str) -> Any:
    found = at_other_sizes(dynamic(name)[0]).open
    assert found is not None
    return resized(found, subject(name).inputs)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_that_the_model_allows_is_open(name: str) -> None:
    trace, _ = dynamic(name)
    assert trace.open is not None
    assert trace.open.dims == trace.inputs["dynamic"] == OPEN[name]
    assert not set(trace.open.sizes.values()) & set(trace.open.other.values())


@pytest.mark.parametrize("name", NAMES)
def test_all_oracles_hold_at_both_sizes(name: str) -> None:
    it = subject(name)
    verdicts = gc.verify(it.model, it.args, it.kwargs, dynamic=True)
    assert verdicts.passed, verdicts
    half = len(verdicts.verdicts) // 2
    assert [each.oracle for each in verdicts.verdicts[:half]] == [each.oracle for each in verdicts.verdicts[half:]]
    assert all(", inputs " in each.detail for each in verdicts.verdicts[half:])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_free_in_a_static_capture_is_free_in_a_dynamic_one(name: str) -> None:
    def free(layout: gc.Layout) -> set[str]:
        kinds = ("residual", "hidden", "heads", "kv_groups", "head_dim")
        return {factor.name for factor in layout.factors if factor.frozen is None and factor.kind in kinds}

    assert free(dynamic(name)[1]) == free(subject(name).layout)
    assert [len(stack) for stack in dynamic(name)[1].blocks] == [len(stack) for stack in subject(name).layout.blocks]


@pytest.mark.parametrize("name", NAMES)
def test_the_native_child_and_the_rewritten_graph_agree_at_other_sizes(name: str) -> None:
    it, (trace, layout) = subject(name), dynamic(name)
    child = tiny.get(name).smaller()
    plan = plan_for(layout, gc.analyze(gc.capture(child, it.args, it.kwargs, dynamic=True), like=layout.blocks))
    fill(plan, trace.state.__getitem__, child)
    rewritten = gc.execute(gc.Plan.loads(plan.dumps()), it.model, trace=trace)
    for inputs in (it.inputs, elsewhere(name)):
        assert difference(outputs(child, inputs), outputs(rewritten, inputs)) < 1e-5


@pytest.mark.parametrize("name", ["hf/llama", "hf/bert", "timm/swin"])
def test_a_plan_and_an_exported_child_keep_their_open_sizes(name: str, tmp_path: Path) -> None:
    it, (_, layout) = subject(name), dynamic(name)
    gc.plan(layout, width={"residual": 0.5} if name != "timm/swin" else {}, depth=0.5).save(tmp_path / "plan.json")
    plan = gc.Plan.load(tmp_path / "plan.json")
    child = gc.execute(plan, it.model)
    save_graph(child, *it.inputs, tmp_path / "child.pt2", plan.inputs["dynamic"])
    program = torch.export.load(tmp_path / "child.pt2")
    for inputs in (it.inputs, elsewhere(name)):
        assert difference(outputs(child, inputs), outputs(program.module(), inputs)) == 0.0
    again = gc.capture(program)
    assert again.open is not None
    assert again.open.dims == OPEN[name]
    assert gc.verify(program, *it.inputs).passed


def test_sizes_that_the_graph_was_not_captured_for_are_refused() -> None:
    it, (trace, layout) = subject("raw/einsum_gpt"), dynamic("raw/einsum_gpt")
    child = gc.select(trace, layout, {})
    for batch, length in ((1, 11), (9, 37)):
        ids = torch.randint(61, (batch, length))
        torch.testing.assert_close(child(ids), it.model(ids))
    with pytest.raises(SizeError, match=r"<= 37"):
        child(torch.randint(61, (5, 38)))
    images, layout = dynamic("timm/swin")
    with pytest.raises(SizeError, match="dim 2 of 'x' is 48, and has to be 40"):
        gc.select(images, layout, {})(torch.randn(2, 3, 48, 48))


class Branching(nn.Module):
    """Odd lengths take another way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y * 2 if x.shape[1] % 2 else y


def test_a_branch_that_was_not_traced_is_not_taken_in_silence() -> None:
    model, x = Branching(), torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic=True)
    child = gc.select(trace, gc.analyze(trace), {})
    longer = torch.randn(5, 13, 12)
    torch.testing.assert_close(child(longer), model(longer))
    with pytest.raises(SizeError):
        child(torch.randn(3, 12, 12))
    assert gc.verify(model, (x,), dynamic=True).passed


class Tangled(nn.Module):
    """`(length 8)` read as `(8 length)`: where the length is 4, both are made of 4 × 2 × 4, and the digits fit."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(12, 8), nn.Linear(8, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inside(x)
        y: Tensor = self.out(hidden.reshape(x.shape[0], 8, x.shape[1]).transpose(1, 2))
        return y


def test_what_holds_at_the_example_sizes_only_is_frozen() -> None:
    model, x = Tangled(), torch.randn(3, 4, 12)

    def free(layout: gc.Layout) -> list[int]:
        return [factor.size for factor in algebra.factors(layout.axes("inside.weight")[0]) if factor.frozen is None]

    assert free(gc.analyze(gc.capture(model, (x,)))) == [2, 4]
    assert free(gc.analyze(gc.capture(model, (x,), dynamic=True))) == []
    assert gc.verify(model, (x,), dynamic=True).passed


class Marked(nn.Module):
    """How torch writes `isin` out depends on how many numbers there are: on a size that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.register_buffer("special", torch.tensor([1, 2, 5, 7]))

    def forward(self, tokens: Tensor) -> Tensor:
        marked: Tensor = self.out(self.embedding(tokens) * torch.isin(tokens, self.special)[..., None])
        return marked


def test_an_analysis_is_the_same_the_second_time() -> None:
    """What is tried in the first must leave nothing behind: neither what is known of open sizes, nor what is free."""
    trace = gc.capture(Marked(), (torch.arange(14).reshape(2, 7),), dynamic=True)
    first, second = gc.analyze(trace), gc.analyze(trace)
    assert [(factor.name, factor.slots, str(factor.frozen)) for factor in first.factors] == [
        (factor.name, factor.slots, str(factor.frozen)) for factor in second.factors
    ]
    gc.execute(gc.plan(first, width={"hidden": 4}), Marked(), trace=trace)


class Prefixed(nn.Module):
    """Trained tokens before the given ones: the number of both is computed from an open size."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(5, 12))
        self.inside, self.out = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x = torch.cat([self.prefix.expand(batch, 5, width), x], 1)
        y = self.inside(x).view(batch, length + 5, 4, 6).transpose(1, 2).reshape(batch * 4, length + 5, 6)
        y = y.softmax(-1).view(batch, 4, length + 5, 6).transpose(1, 2).reshape(batch, length + 5, 24)
        out: Tensor = self.out(y)
        return out


def test_sizes_computed_from_open_ones_follow_the_child() -> None:
    model, x = Prefixed(), torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic=True)
    layout = gc.analyze(trace)
    heads = next(factor for factor in layout.factors if factor.size == 4 and factor.slots)
    assert heads.frozen is None
    child = gc.select(trace, layout, {heads: [2, 0]})
    assert child(torch.randn(7, 17, 12)).shape == (7, 22, 12)
    prefix = next(factor for factor in layout.factors if ("prefix", 0) in factor.slots)
    assert "a size that is computed from open sizes" in str(prefix.frozen)
    assert gc.verify(model, (x,), dynamic=True).passed


class Settled(Prefixed):
    """The batch is used as an open size, and turns out not to be one: the last sum has three rows."""

    def __init__(self, rows: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.count = rows
        self.rows = nn.Parameter(torch.randn(3, 1, 12))

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        y = self.inside(x)
        y = y.view(batch, length, 4, 6).transpose(1, 2).reshape(self.count(y), length, -1)
        y = y.softmax(-1).view(batch, 4, length, -1).transpose(1, 2).reshape(batch, length, -1)
        out: Tensor = self.out(y) + self.rows
        return out


COUNTS: dict[str, Callable[[Tensor], int]] = {
    "product": lambda y: y.shape[0] * 4,
    "rounded": lambda y: round(y.shape[0] * 4.0),
    "root": lambda y: int((y.shape[0] * 4 * y.shape[0] * 4) ** 0.5),
    "of open sizes": lambda y: y.numel() // (y.shape[1] * 6),
}


@pytest.mark.parametrize("rows", COUNTS)
def test_a_size_that_turns_out_not_to_be_open_is_a_number(rows: str) -> None:
    model, x = Settled(COUNTS[rows]), torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic=True)
    assert trace.open is not None
    assert [list(dims) for dims in trace.open.dims] == [[1]]
    layout = gc.analyze(trace)
    heads = next(factor for factor in layout.factors if factor.size == 4 and factor.slots)
    assert heads.frozen is None
    child = gc.select(trace, layout, {heads: [2, 0]})
    with torch.no_grad():  # the parent without the heads that the child has not
        model.out.weight.view(12, 4, 6)[:, [1, 3]] = 0
    torch.testing.assert_close(child(x), model(x))
    assert gc.verify(model, (x,), dynamic=True).passed


class Bounded(nn.Module):
    """Windows of some positions, and no more positions than there are."""

    def __init__(self, window: int, most: int) -> None:
        super().__init__()
        self.window, self.most = window, most
        self.inside = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        torch._check(length % self.window == 0)
        torch._check(length <= self.most)
        y: Tensor = self.inside(x)
        return y


@pytest.mark.parametrize(("window", "most", "dims"), [(6, 18, [0, 1]), (210, 420, [0, 1]), (18, 18, [0])])
def test_a_size_of_which_no_second_one_is_known_is_not_open(window: int, most: int, dims: list[int]) -> None:
    trace = gc.capture(Bounded(window, most), (torch.randn(3, most, 12),), dynamic=True)
    assert trace.open is not None
    assert trace.open.dims == [dims]
    assert not trace.open.single


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[: int((x.sum() > 0).long()) + 1] * 2  # of values: with open sizes, torch stops here


def test_a_capture_that_fails_leaves_nothing_open_for_the_next_one() -> None:
    x = torch.randn(3, 11, 12)
    with pytest.raises(CaptureError):
        gc.capture(Undecided(), (x,), dynamic=True)
    assert gc.capture(Undecided(), (x,)).open is None


class Windowed(nn.Module):
    """Heads that are read out of (length unit) as if they came first, where the length is a multiple of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x = x + x.view(batch, length // 4, 4, width).flip(1).reshape(batch, length, width)
        y = self.inside(x).relu().reshape(batch * 4, length, 6)
        out: Tensor = self.out((y * y.sum(1, keepdim=True)).reshape(batch, length, -1))
        return out


def test_an_open_size_that_is_stated_for_other_positions_freezes_them() -> None:
    model, x = Windowed(), torch.randn(3, 8, 12)
    fixed = gc.analyze(gc.capture(model, (x,)))
    assert any(factor.size == 4 and factor.slots and factor.frozen is None for factor in fixed.factors)
    for factor in gc.analyze(gc.capture(model, (x,), dynamic=True)).factors:
        assert factor.size != 4 or not factor.slots or "open sizes" in str(factor.frozen)


class Biased(nn.Module):
    """Attention with a mask of (batch * heads) rows, as in `nn.MultiheadAttention`; or the mean over these."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.scale = nn.Linear(12, 24), nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = self.inside(x).view(batch, length, 4, 6).transpose(1, 2).reshape(batch * 4, length, 6)
        y = torch.baddbmm(mask, y, y.transpose(1, 2)).view(batch, 4, length, length) * self.scale
        return y.sum((1, 2)) / (mask.shape[0] // 4)


def test_a_part_of_an_open_size_of_an_input_is_frozen() -> None:
    model, x, mask = Biased(), torch.randn(3, 10, 12), torch.randn(12, 10, 10)
    layout = gc.analyze(gc.capture(model, (x, mask), dynamic=True))
    heads = next(factor for factor in layout.factors if ("scale", 0) in factor.slots)
    assert "an open size of an input has it as a part" in str(heads.frozen)


class Halved(nn.Module):
    """Three channels, of which the number is written as half of a width of six (or of seven)."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x.reshape(x.shape[3] // 2, x.shape[3] // 2, x.shape[2] * x.shape[3])
        return out


def test_a_part_of_an_input_that_the_graph_writes_as_an_open_size_is_frozen() -> None:
    layout = gc.analyze(gc.capture(Halved(), (torch.randn(3, 3, 5, 6),), dynamic=True))
    (channels,) = (factor for factor in layout.factors if factor.name == "x.1")
    assert "a size that is computed from open sizes" in str(channels.frozen)


class Interleaved(nn.Module):
    """Every other one of three copies of each: with rows of twelve, the same of each row; with rows of seventeen, not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(3)[::2]


def test_what_holds_of_an_input_at_the_example_sizes_only_is_frozen() -> None:
    def free(dynamic: Any) -> bool:
        layout = gc.analyze(gc.capture(Interleaved(), (torch.randn(2, 12),), dynamic=dynamic))
        (rows,) = (factor for factor in layout.factors if factor.name == "x.0")
        return rows.frozen is None

    assert free(False)
    assert not free({"x": {1: torch.export.Dim.AUTO}})


class Normed(nn.Module):
    """A norm over as many units as a quarter of the length; then the best of nine."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(4, 2), nn.Linear(2, 9)

    def forward(self, ids: Tensor) -> Tensor:
        y = nn.functional.layer_norm(self.table(ids), [ids.shape[1] // 4])
        best: Tensor = self.out(y).argmax(-1)
        return best


def test_a_norm_may_be_over_as_many_units_as_an_open_size_says() -> None:
    model, ids = Normed(), torch.randint(4, (6, 8))
    layout = gc.analyze(gc.capture(model, (ids,), dynamic=True))
    (width,) = (factor for factor in layout.factors if ("table.weight", 1) in factor.slots)
    assert "open sizes" in str(width.frozen)


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).softmax(-1)
        best = y.topk(min(x.shape[0], 8), -1).indices
        out: Tensor = self.down(y * torch.zeros_like(y).scatter(-1, best, 1.0))
        return out


def test_what_is_chosen_from_keeps_all_where_larger_inputs_choose_more() -> None:
    layout = gc.analyze(gc.capture(Top(), (torch.randn(3, 6, 12),), dynamic=True))
    (hidden,) = (factor for factor in layout.factors if factor.size == 20)
    assert "open sizes" in str(hidden.frozen)


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x[x[..., 0] > 0]).relu())
        return out


class Folded(Rows):
    """All but the first of each row, read where a mask says so, in rows again: how many there are, torch knows at one size only."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(x.shape[1]).expand(x.shape[0], -1) > 0
        out: Tensor = self.down(self.up(x[mask].reshape(x.shape[0], -1, 12)).relu())
        return out


@pytest.mark.parametrize("model", [Rows(), Folded()])
def test_sizes_that_values_decide_stand_beside_open_ones(model: Rows) -> None:
    x = torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic=True)
    layout = gc.analyze(trace)
    child = gc.select(trace, layout, {layout["hidden"]: range(0, 20, 2)})
    with torch.no_grad():
        model.down.weight[:, 1::2] = 0
    for given in (x, torch.randn(5, 7, 12)):
        torch.testing.assert_close(child(given), model(given))


def test_an_input_may_be_less_wide_beside_open_sizes() -> None:
    model, x = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5)), torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic=True)
    layout = gc.analyze(trace)
    (width,) = (factor for factor in layout.factors if ("0.weight", 1) in factor.slots)
    child = gc.select(trace, layout, {width: range(6)})
    narrow = x.clone()
    narrow[..., 6:] = 0
    torch.testing.assert_close(child(x[:2, :7, :6]), model(narrow)[:2, :7])
    with pytest.raises(SizeError, match=r"dim 2 of .* is 12, and has to be 6"):
        child(x)


def test_a_mapping_is_what_torch_takes() -> None:
    model, x = nn.Linear(12, 7), torch.randn(3, 11, 12)
    trace = gc.capture(model, (x,), dynamic={"input": {0: torch.export.Dim("batch", min=2, max=64)}})
    assert trace.open is not None
    assert trace.open.varies() == "input_1[0] ≤ 64"
    assert trace.open.fixed() == "input_1[1] = 11, input_1[2] = 12"


def test_a_plan_fits_captures_with_its_own_open_sizes_only() -> None:
    it = subject("hf/llama")
    with pytest.raises(PlanError, match="other open sizes"):
        gc.execute(gc.plan(it.layout), it.model, trace=dynamic("hf/llama")[0])
