"""Executors: one plan, several roads; a child owns its weights, trains, and is called as its parent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import graphclone as gc
from graphclone.axes import Factor
from graphclone.errors import GraphcloneError, PlanError, SizeError
from graphclone.execute import child_state, fill, weights
from graphclone.passes import whole
from graphclone.verify import outputs, two_roads, verify
from models_zoo import tiny
from tests.zoo import selected, subject


@pytest.mark.parametrize("name", ["hf/llama", "hf/t5", "timm/swin", "raw/stacked_gpt"])
def test_streamed_from_safetensors_it_is_bit_equal_to_in_memory(name: str, tmp_path: Path) -> None:
    it, (_, report) = subject(name), selected(name)
    save_file({key: tensor.detach().contiguous() for key, tensor in it.trace.state.items()}, tmp_path / "parent.safetensors")
    with safe_open(tmp_path / "parent.safetensors", framework="pt") as file:
        streamed = dict(weights(report.plan, file.get_tensor))
    memory = dict(weights(report.plan, it.trace.state.__getitem__))
    assert list(streamed) == list(memory)
    assert all(torch.equal(streamed[key], memory[key]) for key in memory)


@pytest.mark.parametrize("name", tiny.names())
def test_a_child_shares_no_memory_with_its_parent(name: str) -> None:
    it = subject(name)
    parent = {tensor.untyped_storage().data_ptr() for tensor in it.model.state_dict().values() if tensor.numel()}
    whole_child = gc.execute(gc.plan(it.layout), it.model, trace=it.trace)
    assert not parent & {tensor.untyped_storage().data_ptr() for tensor in whole_child.state_dict().values() if tensor.numel()}
    assert not parent & {t.untyped_storage().data_ptr() for t in selected(name)[0].state_dict().values() if t.numel()}


@pytest.mark.parametrize("name", ["hf/gpt2", "hf/swin", "raw/einsum_gpt"])
def test_a_rewritten_graph_trains(name: str) -> None:
    it = subject(name)
    child = gc.execute(selected(name)[1].plan, it.model, trace=it.trace)
    optimizer = torch.optim.SGD(child.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = sum(leaf.float().square().mean() for leaf in _leaves(child(*it.args, **it.kwargs)))
        loss.backward()  # type: ignore[union-attr]
        assert all(p.grad is not None for p in child.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))  # type: ignore[union-attr]
    assert losses[-1] < losses[0]


def _leaves(value: object) -> list[torch.Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, torch.Tensor) and each.requires_grad]


def test_a_child_returns_what_its_parent_returns() -> None:
    it = subject("hf/llama")
    child = gc.execute(gc.plan(it.layout, width={"residual": 24}, depth=2), it.model, trace=it.trace)
    assert type(child(**it.kwargs)) is type(it.model(**it.kwargs))
    assert child(**it.kwargs).logits.shape == it.model(**it.kwargs).logits.shape


class Shifted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 7)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, *, shift: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * scale + shift


@pytest.mark.parametrize("traced", [0, 1, 2])
@pytest.mark.parametrize("called", [0, 1, 2])
def test_a_child_is_called_as_its_parent_is(traced: int, called: int) -> None:
    """By position or by name, however it was traced."""
    model, given = Shifted(), {"x": torch.randn(2, 5), "scale": torch.randn(7), "shift": torch.randn(7)}

    def split(count: int) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        return tuple(given.values())[:count], dict(list(given.items())[count:])

    trace = gc.capture(model, *split(traced))
    child = gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace)
    args, kwargs = split(called)
    assert torch.equal(child(*args, **kwargs), model(*args, **kwargs))


def test_names_are_the_parents() -> None:
    it = subject("hf/llama")
    child = gc.execute(gc.plan(it.layout, width={"residual": 24}), it.model, trace=it.trace)
    assert {name for name, _ in child.named_parameters()} == {name for name, _ in it.model.named_parameters()}
    assert child.get_parameter("model.layers.1.mlp.up_proj.weight").shape == (56, 24)


def test_select_keeps_exactly_these_units_in_this_order() -> None:
    it = subject("hf/llama")
    hidden = it.layout["layers.2.mlp.hidden"]
    child = gc.select(it.trace, it.layout, {hidden: torch.tensor([5, 3, 50])})
    up = it.model.get_parameter("model.layers.2.mlp.up_proj.weight")
    assert torch.equal(child.get_parameter("model.layers.2.mlp.up_proj.weight"), up[[5, 3, 50]])


def test_select_on_a_permutation_is_the_parent() -> None:
    it = subject("hf/llama")
    same = gc.select(it.trace, it.layout, {it.layout["residual"]: torch.randperm(48)})
    torch.testing.assert_close(outputs(same, it.inputs), outputs(it.model, it.inputs), rtol=1e-4, atol=1e-4)


def test_select_refuses_what_is_frozen_and_what_is_no_position() -> None:
    it = subject("hf/gpt2")
    with pytest.raises(GraphcloneError, match=r"cannot select from 'transformer.wpe.fixed'"):
        gc.select(it.trace, it.layout, {it.layout["wpe.fixed"]: range(5)})
    with pytest.raises(GraphcloneError):
        gc.select(it.trace, it.layout, {it.layout["residual"]: [0, 48]})
    with pytest.raises(GraphcloneError):
        gc.select(it.trace, it.layout, {Factor(48): [0, 1]})


def test_a_missing_tensor_is_named() -> None:
    it = subject("hf/llama")
    with pytest.raises(PlanError, match=r"needs the parent's tensor 'model\.embed_tokens\.weight'"):
        child_state(whole(it.layout), {})


def test_filling_says_what_came_from_where() -> None:
    _, report = selected("hf/llama")
    assert report.filled.filled["model.layers.1.mlp.up_proj.weight"] == "model.layers.3.mlp.up_proj.weight"
    assert report.filled.fresh == ()
    assert "tensors from the parent" in str(report)


def test_filling_keeps_the_destinations_dtype() -> None:
    it = subject("hf/llama")
    destination = tiny.get("hf/llama").smaller().to(torch.bfloat16)
    fill(selected("hf/llama")[1].plan, it.trace.state.__getitem__, destination)
    assert {p.dtype for p in destination.parameters()} == {torch.bfloat16}


class Called(nn.Module):
    """A module under an unusual name."""

    def __init__(self, name: str, within: bool, hidden: int = 20) -> None:
        super().__init__()
        self.name = name
        layer = nn.Linear(28, hidden)
        self.inner = nn.ModuleDict({name: layer}) if within else layer
        if not within:
            del self.inner
            setattr(self, name, layer)
        self.out = nn.Linear(hidden, 9)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.inner[self.name] if hasattr(self, "inner") else getattr(self, self.name)
        return self.out(layer(x))


@pytest.mark.parametrize(
    ("name", "within"),
    [(n, False) for n in ("graph", "code", "meta", "_graph", "_code", "graph_", "class")]
    + [(n, True) for n in ("class", "lambda", "a b", "q (r)", "[x]", "a+b", 'a"b', "1", "graph")],
)
def test_whatever_a_module_is_called_a_child_can_be_made(name: str, within: bool) -> None:
    parent, x = Called(name, within).eval(), torch.randn(3, 28)
    layout = gc.analyze(gc.capture(parent, (x,)))
    torch.testing.assert_close(gc.execute(gc.plan(layout), parent)(x), parent(x))
    plan = gc.plan(
        layout, width={factor.name: factor.size // 2 for factor in layout.factors if factor.kind in ("hidden", "output")}
    )
    assert gc.execute(gc.Plan.loads(plan.dumps()), parent)(x).shape == (3, 4)
    child, report = gc.subclone(parent, Called(name, within, 10).eval(), (x,))
    assert two_roads(report.plan, parent, child, ((x,), {})).passed
    assert verify(parent, (x,)).passed


def test_a_graph_of_one_mode_says_so_when_it_is_to_train() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).eval(), torch.randn(5, 4)
    trace = gc.capture(model, (x,))
    child = gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace)
    with pytest.warns(UserWarning, match=r"train\(\) brings neither dropout .* graphclone.save\(plan, parent, folder\)"):
        child.train()
    assert torch.equal(child(x), child.eval()(x))
    trace = gc.capture(model.train(), (x,))
    training = gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace).train()
    assert not torch.equal(training(x), training(x))


class Averaged(nn.Module):
    """Its number of positions is a number of the graph, unless it was left open."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids: Tensor, bias: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        x = (x + self.down(torch.relu(self.up(x)))).sum(1) / ids.shape[1]
        return x if bias is None else x + bias


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"ids": torch.ones(2, 5, dtype=torch.long)}, "dim 1 of 'ids' is 5, and has to be 8"),
        ({"ids": torch.ones(3, 8, dtype=torch.long)}, "dim 0 of 'ids' is 3, and has to be 2"),
        ({"ids": torch.ones(2, 8, 1, dtype=torch.long)}, "'ids' has 3 dims, and has to have 2"),
        ({"bias": torch.ones(16)}, "dim 0 of 'bias' is 16, and has to be 8"),
    ],
)
def test_a_child_of_fixed_sizes_refuses_others(given: dict[str, Tensor], complaint: str) -> None:
    batch = {"ids": torch.ones(2, 8, dtype=torch.long), "bias": torch.ones(16)}
    layout = gc.analyze(gc.capture(Averaged(), kwargs=batch))
    child = gc.execute(gc.plan(layout, width={"output": 8}), Averaged())
    batch["bias"] = batch["bias"][:8]  # as wide as the stream is now
    assert child(**batch).shape == (2, 8)
    with pytest.raises(SizeError, match=f"{complaint}\n  because  it was captured for inputs of these sizes"):
        child(**{**batch, **given})
