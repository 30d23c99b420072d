"""The passes: middle blocks, kinds of blocks, and the factor sqrt(d / d′)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import DestinationError, SizeError
from graphclone.passes import middle
from graphclone.passes.drop_blocks import alike
from tests.zoo import subject


@pytest.mark.parametrize(
    ("parent", "child", "kept"),
    [
        (8, 4, [0, 1, 6, 7]),
        (8, 3, [0, 1, 7]),
        (8, 1, [0]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (4, 6, [0, 0, 1, 2, 2, 3]),
    ],
)
def test_the_middle_blocks_go_and_a_deeper_child_repeats_evenly(parent: int, child: int, kept: list[int]) -> None:
    assert list(middle(parent, child)) == kept


@pytest.mark.parametrize(
    ("parent", "child", "kept"),
    [
        ("abababab", "abab", [0, 1, 6, 7]),
        ("aaabaaab", "aaab", [0, 1, 6, 7]),
        ("abab", "ab", [0, 3]),
        ("aab", "aaabb", None),
        ("abc", "abc", [0, 1, 2]),
    ],
)
def test_a_block_only_comes_from_a_block_of_its_kind(parent: str, child: str, kept: list[int] | None) -> None:
    kinds, wanted = ["abc".index(each) for each in parent], ["abc".index(each) for each in child]
    chosen = alike(kinds, wanted, middle(len(parent), len(child)))
    assert [kinds[index] for index in chosen] == wanted
    if kept is not None:
        assert chosen == kept


def test_kinds_that_cannot_be_had_are_an_error() -> None:
    with pytest.raises(DestinationError, match="their kinds are"):
        alike([0, 0, 1], [1, 0], [0, 2])


class Net(nn.Module):
    """A linear map, a normalised hidden layer, a convolution, a tie and a parameter used in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(61, 20)
        self.norm = nn.LayerNorm(20)
        self.up = nn.Linear(20, 28)
        self.down = nn.Linear(28, 20)
        self.conv = nn.Conv1d(20, 12, 3)
        self.head = nn.Linear(20, 61, bias=False)
        self.tied = nn.Linear(20, 61, bias=False)
        self.tied.weight = self.table.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.table(ids)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x), self.tied(x), self.conv(x.transpose(1, 2))


def scales(width: dict[str, int]) -> tuple[dict[str, float], gc.Plan]:
    layout = gc.analyze(gc.capture(Net().eval(), (torch.randint(0, 61, (3, 11)),)))
    names = {"stream": layout.axes("norm.weight")[0], "hidden": layout.axes("up.weight")[0]}
    plan = gc.plan(layout, width={names[name].name: size for name, size in width.items()})  # type: ignore[union-attr]
    return {name: piece.scale for name, piece in plan.tensors.items()}, plan


def test_a_weight_is_scaled_by_the_root_of_the_ratio_of_its_inputs() -> None:
    found, _ = scales({"stream": 5, "hidden": 7})
    assert found["up.weight"] == pytest.approx(math.sqrt(20 / 5))
    assert found["down.weight"] == pytest.approx(math.sqrt(28 / 7))
    assert found["head.weight"] == pytest.approx(2)


def test_a_convolution_counts_its_channels_and_not_its_kernel() -> None:
    assert scales({"stream": 5})[0]["conv.weight"] == pytest.approx(2)


def test_biases_norms_and_tables_are_left_as_they_are() -> None:
    found, _ = scales({"stream": 5, "hidden": 7})
    assert {found[name] for name in ("norm.weight", "norm.bias", "up.bias", "down.bias", "conv.bias")} == {1.0}


def test_a_table_that_is_also_an_output_layer_is_left_and_the_plan_says_so() -> None:
    found, plan = scales({"stream": 5})
    assert found["table.weight"] == 1.0
    assert any("used in two ways" in remark for remark in plan.remarks)


def test_only_what_shrank_is_scaled() -> None:
    found, _ = scales({"hidden": 7})
    assert {name for name, scale in found.items() if scale != 1} == {"down.weight"}


def test_the_scale_keeps_the_spread_of_a_linear_map() -> None:
    """On independent inputs: the claim that the factor is made of."""
    torch.manual_seed(0)
    layer = nn.Linear(1024, 512, bias=False)
    layout = gc.analyze(gc.capture(layer, (torch.randn(7, 1024),)))
    plan = gc.plan(layout, width={layout.axes("weight")[1].name: 64})  # type: ignore[union-attr]
    x = torch.randn(256, 1024)
    child = gc.execute(plan, layer)
    with torch.no_grad():
        assert float(child(x[:7, :64]).std() / layer(x).std()) == pytest.approx(1, abs=0.1)


def test_a_deeper_child_has_blocks_of_its_own() -> None:
    it = subject("hf/llama")
    child = gc.execute(gc.plan(it.layout, depth=6), it.model, trace=it.trace)
    pairs = [p for n, p in child.named_parameters() if n.endswith("mlp.up_proj.weight")]
    assert len({p.data_ptr() for p in pairs}) == 6


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 28)), nn.Parameter(torch.randn(20, 5))
        self.base, self.out = nn.Linear(28, 20), nn.Linear(20, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.nn.functional.linear(x, self.base.weight + self.b @ self.a).relu())


class LowRankInTwo(LowRank):
    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.base(x) + x @ self.a.T @ self.b.T).relu())


@pytest.mark.parametrize("kind", [LowRank, LowRankInTwo])
def test_two_weights_that_are_multiplied_have_the_factor_once(kind: type[LowRank]) -> None:
    layout = gc.analyze(gc.capture(kind(), (torch.randn(3, 28),)))
    plan = gc.plan(layout, width={layout.axes("b")[1].name: 2})  # type: ignore[union-attr]
    assert plan.tensors["a"].scale * plan.tensors["b"].scale == pytest.approx(math.sqrt(5 / 2))
    assert plan.tensors["out.weight"].scale == 1


def test_a_computed_weight_that_is_not_scaled_is_told() -> None:
    layout = gc.analyze(gc.capture(LowRank(), (torch.randn(3, 28),)))
    plan = gc.plan(layout, width={layout.axes("a")[1].name: 14})  # type: ignore[union-attr]
    assert any("computed from others" in remark and "test_passes.py" in remark for remark in plan.remarks)


class LearnedQuery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(4, 5, 8)), nn.Parameter(torch.randn(28, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        key = torch.einsum("btd,dhe->bhte", x, self.key)
        query = self.query.expand(len(x), -1, -1, -1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, key).sum(-1)


def test_attention_divides_by_its_size_itself() -> None:
    layout = gc.analyze(gc.capture(LearnedQuery(), (torch.randn(3, 11, 28),)))
    plan = gc.plan(layout, width={layout.axes("query")[2].name: 4})  # type: ignore[union-attr]
    assert plan.tensors["query"].scale == 1


class Hidden(nn.Module):
    """A network whose first layer is no block of its others: its input is as wide as its hidden layers by accident."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.out(x)


def test_layers_that_are_not_on_one_stream_are_no_blocks_to_drop() -> None:
    layout = gc.analyze(gc.capture(Hidden().eval(), (torch.randn(3, 5),)))
    (stack,) = layout.blocks
    plan = gc.plan(layout, depth=0.5)
    assert len(plan.stacks[stack.name]) == len(stack)
    assert any("not all on one stream" in remark for remark in plan.remarks)
    with pytest.raises(SizeError, match="not all on one stream"):
        gc.plan(layout, depth={stack.name: 1})
