"""A child as source trains as its parent does: the same outputs of the same seed, the same gradients, the same statistics."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import graphclone as gc
from graphclone.capture import at_other_sizes
from graphclone.dynamic import resized
from graphclone.errors import PlanError
from graphclone.export.source import load, train_mode
from graphclone.export.source.train import carried
from graphclone.verify import difference, outputs
from models_zoo.field import find
from tests.zoo import subject


class Convolved(nn.Module):
    """Batch norm, dropout, in-place ops and a whole block that is dropped at random, in a stack that can lose depth."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(inplace=True), nn.Conv2d(20, 12, 1))
            for _ in range(depth)
        )
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.7) if self.training else 1
            x = x + kept * block(x)
        result: Tensor = self.head(self.drop(x.mean((2, 3))))
        return result


@pytest.fixture
def convolved() -> tuple[nn.Module, Tensor, gc.Trace, gc.Layout]:
    torch.manual_seed(0)
    model, x = Convolved().eval(), torch.randn(5, 3, 7, 6)
    trace = gc.capture(model, (x,))
    return model, x, trace, gc.analyze(trace)


def step(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The outputs and the gradients of one step in train mode, always of the same seed."""
    model.train().zero_grad()
    torch.manual_seed(3)
    found = [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    sum((leaf.float() ** 2).mean() for leaf in found).backward()  # type: ignore[union-attr]
    return [leaf.detach() for leaf in found], {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_whole_child_trains_as_its_parent_to_the_last_bit(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    assert gc.save(gc.plan(layout), model, tmp_path / "child", trace=trace) == ()
    child = load(tmp_path / "child")
    (expected,), gradients = step(model, x)
    (found,), others = step(child, x)
    assert torch.equal(expected, found)
    assert same(gradients, others)
    assert same(model.state_dict(), child.state_dict())
    assert int(child.get_buffer("blocks.0.1.num_batches_tracked")) == 1
    assert torch.equal(model.eval()(x), child.eval()(x))
    assert not torch.equal(child.train()(x), child.train()(x))


def test_a_smaller_child_has_the_same_units_in_both_modes(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    plan = gc.plan(layout, width={"residual": 8, "*.hidden": 0.5}, depth=2, scores=gc.score_weights(layout))
    assert gc.save(plan, model, tmp_path / "child", trace=trace) == ()
    child, graph = load(tmp_path / "child"), gc.execute(plan, model, trace=trace)
    assert torch.equal(child(x), graph(x))
    train = train_mode(plan, model, ((x,), {}))
    assert not isinstance(train, str)
    (expected,), gradients = step(train, x)
    (found,), others = step(child, x)
    assert torch.equal(expected, found)
    assert same({name.removeprefix("_"): each for name, each in gradients.items()}, others)
    assert "blocks.0.1.num_batches_tracked" in child.state_dict()
    assert "blocks.1.1.num_batches_tracked" not in child.state_dict()
    assert (tmp_path / "child" / "modeling.py").read_text().count("for block in self.blocks.children()") == 2


@pytest.mark.filterwarnings("ignore:this child is its parent's graph in eval mode")
@pytest.mark.parametrize("name", ["hf/bert", "hf/llama", "timm/swin"])
def test_gradients_are_those_of_the_graph_where_nothing_is_drawn(name: str, tmp_path: Path) -> None:
    it = subject(name)
    plan = gc.plan(it.layout, width={} if name == "timm/swin" else {"residual": 0.5}, depth=0.5)
    assert gc.save(plan, it.model, tmp_path / "child", trace=it.trace) == ()
    child, graph = load(tmp_path / "child"), gc.execute(plan, it.model, trace=it.trace)
    for module in child.modules():
        module.training = False
    child.train = lambda mode=True: child  # type: ignore[method-assign]  # the eval body, trained
    expected, gradients = step(graph, *it.args, **it.kwargs)
    found, others = step(child, *it.args, **it.kwargs)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert same(gradients, others)


@pytest.mark.parametrize("name", ["hf/bert", "hf/gpt2"])
def test_a_whole_language_model_trains_as_its_parent(name: str, tmp_path: Path) -> None:
    it = subject(name)
    gc.save(gc.plan(it.layout), it.model, tmp_path / "child", trace=it.trace)
    child = load(tmp_path / "child")
    try:
        expected, gradients = step(it.model, *it.args, **it.kwargs)
    finally:
        it.model.eval().zero_grad()
    found, others = step(child, *it.args, **it.kwargs)
    assert difference(expected, found) == 0.0
    assert all(torch.allclose(gradients[n], each, rtol=1e-4, atol=1e-6) for n, each in others.items())


def test_one_block_may_be_kept_in_eval_mode(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    gc.save(gc.plan(layout), model, tmp_path / "child", trace=trace)
    child = load(tmp_path / "child").train()
    child.get_submodule("blocks.2").eval()
    before = {name: each.clone() for name, each in child.named_buffers()}
    child(x)
    moved = {name.split(".")[1] for name, each in child.named_buffers() if not torch.equal(each, before[name])}
    assert moved == {"0", "1", "3"}


def test_compiled_it_trains(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    gc.save(gc.plan(layout, depth=2), model, tmp_path / "child", trace=trace)
    child, other = load(tmp_path / "child"), load(tmp_path / "child")
    compiled = torch.compile(other, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), child(x))
    compiled.train()
    torch.manual_seed(3)
    expected = child.train()(x)
    torch.manual_seed(3)
    assert torch.equal(compiled(x), expected)
    assert same(child.state_dict(), other.state_dict())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default compiler writes C++")
def test_the_default_compiler_takes_it_forward_and_backward(tmp_path: Path) -> None:
    it = subject("hf/llama")
    gc.save(gc.plan(it.layout, width={"residual": 0.5}, depth=2), it.model, tmp_path / "child", trace=it.trace)
    child = load(tmp_path / "child").train()
    args, kwargs = it.inputs

    def gradients(model: nn.Module) -> list[Tensor]:
        child.zero_grad()
        leaves = [each for each in torch.utils._pytree.tree_leaves(model(*args, **kwargs)) if isinstance(each, Tensor)]
        sum(leaf.square().mean() for leaf in leaves if leaf.is_floating_point()).backward()
        return [parameter.grad.clone() for parameter in child.parameters() if parameter.grad is not None]

    expected = gradients(child)
    found = gradients(torch.compile(child))
    assert len(expected) == len(found) > 10
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_child_that_lost_its_dropout_learns(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    gc.save(gc.plan(layout, width={"residual": 8}), model, tmp_path / "child", trace=trace)
    child = load(tmp_path / "child").train()
    optimizer = torch.optim.SGD(child.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = child(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["hf/bert", "timm/swin"])
def test_open_sizes_are_open_in_train_mode_too(name: str, tmp_path: Path) -> None:
    it = subject(name)
    trace = gc.capture(it.model, *it.inputs, dynamic=True)
    plan = gc.plan(gc.analyze(trace), depth=0.5)
    assert gc.save(plan, it.model, tmp_path / "child", trace=trace) == ()
    child, other = load(tmp_path / "child"), at_other_sizes(trace).open
    train = train_mode(plan, it.model, it.inputs)
    assert other is not None
    assert not isinstance(train, str)
    elsewhere = resized(other, it.inputs)
    assert difference(outputs(train.train(), elsewhere), outputs(child.train(), elsewhere)) == 0.0


def test_a_child_of_an_exported_program_has_its_mode_alone(convolved: Any, tmp_path: Path) -> None:
    model, x, _, _ = convolved
    program = torch.export.export(model, (x,), strict=False)
    trace = gc.capture(program)
    (note,) = gc.save(gc.plan(gc.analyze(trace)), program.module(), tmp_path / "child", trace=trace)
    assert "its parent is a graph already" in note
    assert torch.equal(load(tmp_path / "child")(x), model(x))


def test_a_whole_child_goes_on_where_its_state_was_saved(convolved: Any, tmp_path: Path) -> None:
    model, x, trace, layout = convolved
    gc.save(gc.plan(layout), model, tmp_path / "child", trace=trace)
    child, other = load(tmp_path / "child").train(), load(tmp_path / "child").train()
    child(x)
    other.load_state_dict(child.state_dict())
    assert torch.equal(child.eval()(x), other.eval()(x))
    model.load_state_dict(child.state_dict())
    assert torch.equal(child(x), model.eval()(x))


class Lucky(nn.Module):
    """Python decides whether a layer is there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and random.random() < 0.5 else self.layer(x)


class Branching(nn.Module):
    """torch decides, and no graph can hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and torch.rand(()) < 0.5 else self.layer(x)


@pytest.mark.parametrize(("kind", "told"), [(Lucky, "draws random numbers from Python"), (Branching, "test_source_train.py:")])
def test_a_train_mode_that_no_graph_can_hold_is_left_out_and_told(kind: type[nn.Module], told: str, tmp_path: Path) -> None:
    model, x = kind().eval(), torch.randn(3, 5)
    trace = gc.capture(model, (x,))
    (note,) = gc.save(gc.plan(gc.analyze(trace)), model, tmp_path / "child", trace=trace)
    assert told in note
    assert not model.training
    child = load(tmp_path / "child")
    assert torch.equal(child(x), model(x))
    assert not child.training
    assert child.eval() is child
    with pytest.raises(RuntimeError, match="the child has no train mode"):
        child.train()


class Swapped(nn.Module):
    """As it trains, it has another layout: what one layer gives, the other's units meet in reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x).relu()
        result: Tensor = self.down(inner.cumsum(-1) if self.training else inner)
        return result


def test_units_that_are_not_free_in_train_mode_are_no_units_to_drop() -> None:
    model, x = Swapped().eval(), torch.randn(3, 5)
    layout = gc.analyze(gc.capture(model, (x,)))
    hidden = next(f.name for f in layout.factors if ("up.weight", 0) in f.slots)
    plan = gc.plan(layout, width={hidden: 4})
    told = train_mode(plan, model, ((x,), {}))
    assert isinstance(told, str)
    assert "has to stay as it is in train mode" in told
    with pytest.raises(PlanError, match="cumsum"):
        carried(plan, gc.analyze(gc.capture(model.train(), (x,), writes=True)))


FIELD = [
    "torchvision/resnet18",
    "odd/spectral_norm",
    "odd/in_place",
    "odd/checkpointed",
    "nn/lstm",
    "nn/cells",
    "odd/hidden_states_out",
]
FIELD += ["odd/nested_outputs", "odd/autocast_bfloat16", "odd/rotary_complex", "odd/cache_in_and_out"]
FIELD += ["odd/losses_beside_logits", "odd/hyper_network", "odd/dense_former", "odd/reversible", "odd/quantised_weights"]
FIELD += [
    "hf/bart/BartForConditionalGeneration",
    "hf/mixtral/MixtralForCausalLM",
    "hf/clip/CLIPModel",
    "hf/albert/AlbertForMaskedLM",
]
FIELD += ["hf/mamba2/Mamba2ForCausalLM", "timm/resnet/test_resnet", "odd/unet_added", "odd/double_stream"]


WHOLE = ("odd/hidden_states_out", "odd/cache_in_and_out")  # they return something of each block


@pytest.mark.parametrize("name", FIELD)
def test_models_of_the_field_are_written_as_they_are_in_both_modes(name: str, tmp_path: Path) -> None:
    entry = find(name)
    model, (args, kwargs) = entry.build(), entry.inputs()
    trace = gc.capture(model, args, kwargs)
    layout = gc.analyze(trace)
    plan = gc.plan(layout, depth={layout.blocks[0].name: 0.5} if layout.blocks and name not in WHOLE else {})
    notes = gc.save(plan, model, tmp_path / "child", trace=trace)
    child = load(tmp_path / "child")
    assert difference(outputs(gc.execute(plan, model, trace=trace), (args, kwargs)), outputs(child, (args, kwargs))) == 0.0
    assert notes == ()
    train = train_mode(plan, model, (args, kwargs))
    assert not isinstance(train, str)
    assert difference(outputs(train.train(), (args, kwargs)), outputs(child.train(), (args, kwargs))) == 0.0
