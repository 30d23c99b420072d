"""Destination first: sizes follow from the user's own module, and one that cannot be filled is told why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import DestinationError, WeightsError
from graphclone.verify import outputs
from tests.zoo import clone, subject


class Block(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)
        self.up = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        units = self.up(self.norm2(x)).relu()
        return x + self.down(units if self.gate is None else units * self.gate(x))


class Model(nn.Module):
    def __init__(
        self,
        width: int = 48,
        heads: int = 6,
        head_dim: int = 10,
        hidden: int = 80,
        depth: int = 4,
        vocabulary: int = 61,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(17, width))
        self.blocks = nn.ModuleList(Block(width, heads, head_dim, hidden, gated) for _ in range(depth))
        self.head = nn.Linear(width, 61)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


IDS = torch.randint(0, 50, (5, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def parent() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.mark.parametrize(
    "smaller",
    [
        dict(width=24),
        dict(heads=3),
        dict(head_dim=5),
        dict(hidden=33),
        dict(depth=2),
        dict(depth=1),
        dict(depth=7),
        dict(width=47, heads=5, head_dim=7, hidden=1, depth=3),
    ],
)
def test_every_size_follows_from_the_destination(parent: Model, smaller: dict[str, int]) -> None:
    child, report = gc.subclone(parent, Model(**smaller).eval(), (IDS,))  # type: ignore[arg-type]
    assert not report.filled.fresh
    made = gc.execute(report.plan, parent)
    torch.testing.assert_close(outputs(child, ((IDS,), {})), outputs(made, ((IDS,), {})), rtol=1e-4, atol=1e-4)


def test_the_parents_own_sizes_give_the_parent_again(parent: Model) -> None:
    child, _ = gc.subclone(parent, Model().eval(), (IDS,))
    assert torch.equal(child(IDS), parent(IDS))


def test_a_destination_may_be_a_function_that_makes_one(parent: Model) -> None:
    child, _ = gc.subclone(parent, lambda: Model(width=24).eval(), (IDS,))
    assert isinstance(child, Model)


@pytest.mark.parametrize(
    ("other", "complaints"),
    [
        (dict(width=49), ["the destination is wider than the parent: 49 at", "'residual' has 48"]),
        (dict(hidden=81), ["wider than the parent", "81", "a clone keeps some of the parent's units"]),
        (dict(heads=7), ["wider than the parent", "heads"]),
        (dict(vocabulary=67), ["the destination has 67 positions at tokens.weight", "it is frozen", "test_destination.py:"]),
        (dict(vocabulary=53), ["the destination has 53 positions at tokens.weight", "it is frozen", "test_destination.py:"]),
        (dict(gated=True), ["stacks of blocks", "the parent 1", "4 blocks"]),
    ],
)
def test_a_destination_that_cannot_be_filled_is_told_why(parent: Model, other: dict[str, int], complaints: list[str]) -> None:
    destination = Model(**other).eval()  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in destination.state_dict().items()}
    with pytest.raises(DestinationError) as caught:
        gc.subclone(parent, destination, (IDS,))
    assert [each for each in complaints if each not in str(caught.value)] == [], str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in destination.state_dict().items())


def test_sizes_that_contradict_each_other_are_told_where() -> None:
    class Uneven(Model):
        def __init__(self) -> None:
            super().__init__(width=24)
            self.head = nn.Linear(24, 61)
            self.positions = nn.Parameter(torch.randn(17, 24))
            self.blocks[0].down = nn.Linear(80, 1)  # broadcasts: runs, but is no smaller stream

    with pytest.raises(DestinationError):
        gc.subclone(Model().eval(), Uneven().eval(), (IDS,))


def test_nan_in_the_weights_is_refused_by_name(parent: Model) -> None:
    broken = Model()
    with torch.no_grad():
        broken.blocks[1].up.weight[0, 0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(WeightsError, match=r"not finite: blocks\.1\.up\.weight"):
        gc.subclone(broken, Model(width=24), (IDS,))


def test_activations_that_overflow_are_refused() -> None:
    broken = Model().eval()
    with torch.no_grad():
        broken.tokens.weight.mul_(1e38)
        broken.positions.mul_(3e38)
    with pytest.raises(WeightsError, match="not finite"):
        gc.subclone(broken, Model(width=24).eval(), (IDS,), data=[IDS])


def test_numbers_that_a_class_computes_from_its_sizes_are_the_destinations() -> None:
    """gemma2 multiplies embeddings by sqrt(hidden_size), t5 its outputs by hidden_size ** -0.5: the two roads agree on the child's."""
    it, (child, report) = subject("hf/gemma2"), clone("hf/gemma2")
    assert report.plan.literals
    made = gc.execute(report.plan, it.model, trace=it.trace)
    torch.testing.assert_close(outputs(child, it.inputs), outputs(made, it.inputs), rtol=1e-4, atol=1e-4)


def test_a_destination_in_training_mode_is_filled_and_stays_so(parent: Model) -> None:
    child, report = gc.subclone(parent, Model(width=24).train(), (IDS,))
    assert child.training
    assert not report.filled.fresh


def test_a_destination_of_another_dtype_and_mode_is_no_other_kind(parent: Model) -> None:
    child, report = gc.subclone(parent, Model(width=24).to(torch.bfloat16).train(), (IDS,))
    assert not report.filled.fresh
    assert {p.dtype for p in child.parameters()} == {torch.bfloat16}


def test_a_block_that_computes_something_else_is_another_kind() -> None:
    class Gelu(Model):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) + self.positions[: ids.shape[1]]
            for block in self.blocks:
                q, k, v = block.qkv(block.norm1(x)).unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[operator, union-attr]
                mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + block.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
                x = x + block.down(nn.functional.gelu(block.up(block.norm2(x))))  # type: ignore[operator]
            return self.head(x)

    with pytest.raises(DestinationError, match="another kind of block") as caught:
        gc.subclone(Model().eval(), Gelu(width=24).eval(), (IDS,))
    assert "aten.relu, aten.gelu" in str(caught.value)


def test_fewer_outputs_are_remarked_upon() -> None:
    layout = subject("hf/vit").layout
    assert any("is an output of the model" in remark for remark in gc.plan(layout, width={"classifier.output": 5}).remarks)
    assert not gc.plan(layout, width={"residual": 24}).remarks
