"""Destination first: sizes follow from the user's own module, and one that cannot be filled is told why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import DestinationError, PlanError, SizeError, WeightsError
from graphclone.verify import outputs, two_roads
from models_zoo import field
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


class Returning(Model):
    """`Model` that returns more than its result; `what`: a loss, states or exits of its blocks."""

    def __init__(self, what: str, **sizes: int) -> None:
        super().__init__(**sizes)  # type: ignore[arg-type]
        self.what = what
        self.exits = nn.ModuleList(nn.Linear(self.head.in_features, 7) for _ in self.blocks)

    def forward(self, ids: Tensor) -> list[Tensor]:  # type: ignore[override]
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        if self.what == "loss":
            return [self.head(x), torch.stack([state.mean() for state in states]).sum()]
        return [exit(state) for exit, state in zip(self.exits, states, strict=True)] if self.what == "exits" else [*states, x]


@pytest.mark.parametrize("what", ["loss", "states", "exits"])
def test_all_blocks_of_a_model_with_several_outputs_are_filled(what: str) -> None:
    model = Returning(what).eval()
    same, report = gc.subclone(model, Returning(what).eval(), (IDS,), scale=False)
    assert not any(name.startswith("blocks") for name in report.filled.fresh)
    torch.testing.assert_close(same(IDS), model(IDS))
    child, report = gc.subclone(model, Returning(what, width=24).eval(), (IDS,))
    assert two_roads(report.plan, model, child, ((IDS,), {})).passed
    child, report = gc.subclone(model, Returning(what, depth=2).eval(), (IDS,), scale=False)
    assert not any(name.startswith("blocks") for name in report.filled.fresh)
    for name, tensor in child.blocks.state_dict().items():
        origin = name.replace("1.", "3.", 1) if name.startswith("1.") else name
        assert torch.equal(tensor, model.blocks.state_dict()[origin])
    assert any("of the block 'blocks.1'" in remark for remark in report.plan.remarks)
    with pytest.raises(PlanError, match="the graph of the parent cannot have the blocks"):
        gc.execute(report.plan, model)
    with pytest.raises(SizeError, match="'blocks' cannot have 2 blocks") as caught:
        gc.plan(gc.analyze(gc.capture(model, (IDS,))), depth=2)
    assert "of the block 'blocks.1'" in str(caught.value)


class Tied(nn.Module):
    def __init__(self, tied: bool, width: int = 20) -> None:
        super().__init__()
        self.table, self.up = nn.Embedding(61, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 61, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.up(self.table(ids)).relu())


@pytest.mark.parametrize("width", [20, 10])
def test_a_tied_parent_fills_both_ends_of_an_untied_destination(width: int) -> None:
    parent = Tied(True).eval()
    child, report = gc.subclone(parent, Tied(False, width).eval(), (IDS,), scale=False)
    assert not report.filled.fresh
    assert report.filled.filled["head.weight"] == "table.weight"
    assert torch.equal(child.head.weight, child.table.weight)
    assert two_roads(report.plan, parent, child, ((IDS,), {})).passed


@pytest.mark.parametrize("width", [20, 10])
def test_an_untied_parent_gives_a_tied_destination_its_table(width: int) -> None:
    parent = Tied(False).eval()
    child, report = gc.subclone(parent, Tied(True, width).eval(), (IDS,), scale=False)
    assert report.filled.filled["table.weight"] == "table.weight"
    assert any("'table.weight' is one tensor in the destination" in remark for remark in report.plan.remarks)
    assert two_roads(report.plan, parent, child, ((IDS,), {})).passed
    assert two_roads(gc.Plan.loads(report.plan.dumps()), parent, child, ((IDS,), {})).passed


class Loose(nn.Module):
    """No two of its layers are alike in the graph: each reads all before it."""

    def __init__(self, depth: int = 4, width: int = 20, act: str = "relu", causal: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20 + i * width, width) for i in range(depth))
        self.act, self.causal = act, causal

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for layer in self.layers:
            y = getattr(torch, self.act)(layer(torch.cat(states, -1)))
            states.append(nn.functional.scaled_dot_product_attention(y, y, y, is_causal=self.causal))
        return states[-1]


FLOATS = torch.randn(3, 11, 20, generator=torch.Generator().manual_seed(0))


def test_layers_that_names_alone_tell_apart_are_remarked_upon() -> None:
    _, report = gc.subclone(Loose().eval(), Loose(depth=2).eval(), (FLOATS,))
    assert any("'layers' has 2 numbered parts in the destination and 4 in the parent" in text for text in report.plan.remarks)


def test_what_a_destination_computes_otherwise_is_remarked_upon() -> None:
    _, report = gc.subclone(Loose().eval(), Loose(act="tanh").eval(), (FLOATS,))
    assert any("more of aten.relu in the parent; more of aten.tanh in the destination" in text for text in report.plan.remarks)
    parent = Loose().eval()
    child, report = gc.subclone(parent, Loose(causal=False, width=10).eval(), (FLOATS,))
    assert any("aten.scaled_dot_product_attention" in text and "is False there" in text for text in report.plan.remarks)
    plan = gc.Plan.loads(report.plan.dumps())
    assert two_roads(plan, parent, child, ((FLOATS,), {})).passed


class Uneven(nn.Module):
    """Blocks of two layers each; the last may be half a block."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(20), *[nn.Linear(20, 20)] * (1 + i % 2)) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_parameters_that_the_parent_has_do_not_stay_random() -> None:
    parent = Uneven(6).eval()
    _, report = gc.subclone(parent, Uneven(4).eval(), (FLOATS,), scale=False)
    assert not report.filled.fresh
    with pytest.raises(DestinationError, match=r"nothing tells which of the parent's tensors fill 'layers\.2\.0\.weight'"):
        gc.subclone(parent, Uneven(3).eval(), (FLOATS,))


def test_a_new_head_may_stay_as_it_was_initialised(parent: Model) -> None:
    class Headed(Model):
        def __init__(self) -> None:
            super().__init__(width=24)
            self.classes = nn.Linear(24, 3)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) + self.positions[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.classes(x.tanh())

    _, report = gc.subclone(parent, Headed().eval(), (IDS,))
    assert report.filled.fresh == ("classes.bias", "classes.weight", "head.bias", "head.weight")


def test_the_mode_of_a_destination_is_no_difference_and_is_left_as_it_was() -> None:
    class Dropping(Model):
        def forward(self, ids: Tensor) -> Tensor:
            x = nn.functional.dropout(self.tokens(ids), 0.1, self.training)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    destination = Dropping(width=24).train()
    destination.blocks[1].eval()
    child, report = gc.subclone(Dropping().eval(), destination, (IDS,))
    assert not report.plan.remarks
    assert [block.training for block in child.blocks] == [True, False, True, True]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("hf/canine/CanineForSequenceClassification", "half"),  # the destination's stacks do not repeat any more
        ("hf/yolos/YolosForObjectDetection", "half widths"),  # the first block is of a kind of its own
        ("hf/detr/DetrForObjectDetection", "half depth"),  # a stack, and one that cannot be told from the graph
    ],
)
def test_where_stacks_are_others_names_say_how_deep_and_the_graphs_confirm_it(name: str, sizes: str) -> None:
    tiny = field.find(name)
    parent, inputs = tiny.build(), tiny.inputs()
    destinations = dict(tiny.destinations())
    trace = gc.capture(parent, *inputs)
    if sizes == "half depth":
        with pytest.raises(DestinationError, match="stacks of blocks"):
            gc.subclone(parent, destinations[sizes](), *inputs)
        assert tiny.again is not None
        destinations[sizes] = tiny.again
    child, report = gc.subclone(parent, destinations[sizes](), *inputs)
    assert not set(report.filled.fresh) & set(trace.parameters), "only what the outputs do not depend on is left"
    assert two_roads(report.plan, parent, child, inputs, trace).passed


def test_graphs_that_return_other_numbers_of_states_are_not_the_same() -> None:
    """A vision encoder that returns what its global blocks make: a shallower one has fewer of them, so that names have to tell."""
    tiny = field.find("hf/sam_hq_vision_model/SamHQVisionModel")
    _, build = next(iter(tiny.destinations()))
    args, kwargs = tiny.inputs()
    _, report = gc.subclone(tiny.build(), build(), args, kwargs)
    assert any("tensors were matched by name" in remark for remark in report.plan.remarks)


class Bypassed(nn.Module):
    """A residual stream, beside which a second linear map may run."""

    def __init__(self, bypass: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(20, 16), nn.Linear(16, 20)
        self.bypass = nn.Linear(20, 20) if bypass else None

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.down(torch.relu(self.up(x)))
        return y if self.bypass is None else y + self.bypass(x)


def test_a_plan_that_lacks_a_tensor_of_the_graph_says_which_of_the_two_causes_it_is() -> None:
    parent, other = Bypassed(True).eval(), Bypassed(False).eval()
    _, report = gc.subclone(parent, other, (FLOATS,))
    with pytest.raises(PlanError, match=r"'bypass\.weight'\n.*the destination's graph differs"):
        gc.execute(report.plan, parent)
    with pytest.raises(PlanError, match=r"'bypass\.weight'\n.*the parent is another graph here"):
        gc.execute(gc.plan(gc.analyze(gc.capture(other, (FLOATS,)))), parent)
