"""A child as Python source: it computes what the graph does, to the last bit, and needs neither graphclone nor the parent's library."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphclone as gc
from graphclone.capture import at_other_sizes
from graphclone.dynamic import resized
from graphclone.errors import GraphcloneError, OutputError
from graphclone.execute.graph import Child
from graphclone.export.source import load, save, source, text
from graphclone.export.source.module import held
from graphclone.verify import difference, outputs
from models_zoo import tiny
from models_zoo.field import find
from tests.zoo import subject


def half(name: str) -> tuple[Child, gc.Plan, Any]:
    """Half of the width and the depth of a model of the zoo, as far as it allows."""
    if name in tiny.names():
        it = subject(name)
        model, inputs, trace, layout = it.model, it.inputs, it.trace, it.layout
    else:
        entry = find(name)
        model, inputs = entry.build(), entry.inputs()
        trace = gc.capture(model, *inputs)
        layout = gc.analyze(trace)
    try:
        plan = gc.plan(layout, width={"residual": 0.5}, depth=0.5)
    except GraphcloneError:
        plan = gc.plan(layout)
    return gc.execute(plan, model, trace=trace), plan, inputs


def written(child: Child, folder: Path, **options: Any) -> nn.Module:
    save(source(child, **options), folder)
    return load(folder)


def program(folder: Path) -> str:
    return (folder / "modeling.py").read_text()


FIELD = [
    "hf/bert/BertForMaskedLM",
    "hf/modernbert/ModernBertForMaskedLM",
    "hf/bart/BartForConditionalGeneration",
    "hf/clip/CLIPModel",
    "timm/vision_transformer/vit_tiny_patch16_224",
    "nn/TransformerDecoder",
]


@pytest.mark.parametrize("name", tiny.names())
def test_it_computes_what_the_graph_does_and_has_its_parameters(name: str, tmp_path: Path) -> None:
    child, plan, inputs = half(name)
    model = written(child, tmp_path, ties=plan.aliases)
    assert difference(outputs(child, inputs), outputs(model, inputs)) == 0.0
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in held(child).items() if isinstance(p, nn.Parameter)
    }
    expected, found = child(*inputs[0], **inputs[1]), model(*inputs[0], **inputs[1])
    assert type(found).__name__ == type(expected).__name__


def test_blocks_share_a_class_and_run_in_a_loop(tmp_path: Path) -> None:
    child, _, _ = half("hf/llama")
    written(child, tmp_path)
    assert program(tmp_path).count("class LayersBlock") == 1
    assert "for block in self.model.layers.children():" in program(tmp_path)
    assert "self.self_attn.q_proj.weight" in program(tmp_path)


def test_blocks_that_get_other_things_are_called_one_by_one(tmp_path: Path) -> None:
    child, _, _ = half("hf/gemma2")
    written(child, tmp_path)
    assert program(tmp_path).count("class LayersBlock") == 1
    assert "x = self.model.layers[3](x, " in program(tmp_path)


def test_a_deeper_child_has_blocks_of_its_own(tmp_path: Path) -> None:
    it = subject("hf/llama")
    child = gc.execute(gc.plan(it.layout, depth=6), it.model, trace=it.trace)
    model = written(child, tmp_path)
    assert difference(outputs(child, it.inputs), outputs(model, it.inputs)) == 0.0
    assert "model.layers.0_2.mlp.up_proj.weight" in dict(model.named_parameters())
    assert "for block in self.model.layers.children():" in program(tmp_path)


ALONE = """
import importlib.abc, sys
class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("graphclone", "transformers", "timm"):
            raise ImportError(name + " is forbidden here")
sys.meta_path.insert(0, Forbidden())
import torch
from modeling import load
model = load()
kwargs = torch.load("inputs.pt")
torch.save(model(**kwargs).logits, "logits.pt")
assert type(model(**kwargs)).__name__ == "CausalLMOutputWithPast"
assert model(**kwargs)["logits"] is not None and model(**kwargs).past_key_values is None
assert "transformers" not in sys.modules and "graphclone" not in sys.modules
"""


def test_it_needs_torch_and_safetensors_alone(tmp_path: Path) -> None:
    child, _, (_, kwargs) = half("hf/llama")
    written(child, tmp_path)
    torch.save(kwargs, tmp_path / "inputs.pt")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), child(**kwargs).logits)


def test_ties_are_one_tensor_and_saved_once(tmp_path: Path) -> None:
    child, plan, inputs = half("hf/t5")
    model = written(child, tmp_path, ties=plan.aliases)
    assert model.get_parameter("lm_head.weight") is model.get_parameter("shared.weight")
    state = model.state_dict()
    assert {"lm_head.weight", "shared.weight"} <= state.keys()
    other = type(model)()
    other.load_state_dict(state)
    assert difference(outputs(model, inputs), outputs(other, inputs)) == 0.0


def test_weights_of_another_child_are_refused(tmp_path: Path) -> None:
    child, _, _ = half("hf/llama")
    written(child, tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "norm" not in name}, weights)
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["hf/llama", "hf/bert", "timm/swin"])
def test_it_runs_at_the_sizes_that_were_left_open_and_refuses_others(name: str, tmp_path: Path) -> None:
    it = subject(name)
    trace = gc.capture(it.model, *it.inputs, dynamic=True)
    child = gc.execute(gc.plan(gc.analyze(trace)), it.model, trace=trace)
    model = written(child, tmp_path)
    other = at_other_sizes(trace).open
    assert other is not None
    elsewhere = resized(other, it.inputs)
    for inputs in (it.inputs, elsewhere):
        assert difference(outputs(child, inputs), outputs(model, inputs)) == 0.0
    with pytest.raises((ValueError, RuntimeError), match="traced"):
        wrong = [each[..., :-1] if each.dim() > 2 else each[:, None, :] for each in torch.utils._pytree.tree_leaves(it.inputs)]
        model(*wrong)


def test_a_child_of_fixed_sizes_refuses_others(tmp_path: Path) -> None:
    child, _, _ = half("hf/llama")
    model = written(child, tmp_path)
    with pytest.raises(ValueError, match=r"'input_ids' is \[3, 1\], and has to be \[3, 11\]"):
        model(torch.zeros(3, 1, dtype=torch.long))


def test_a_child_whose_inputs_are_smaller_takes_those(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)).eval(), torch.randn(3, 9)
    trace = gc.capture(model, (x,))
    layout = gc.analyze(trace)
    entering = next(f.name for f in layout.factors if ("0.weight", 1) in f.slots)
    plan = gc.plan(layout, width={entering: 5}, scale=False)
    gc.save(plan, model, tmp_path / "child", trace=trace)
    kept = torch.tensor(plan.keep[entering])
    child = load(tmp_path / "child")
    assert torch.equal(child(x[:, kept]), gc.execute(plan, model, trace=trace)(x[:, kept]))
    with pytest.raises(ValueError, match=r"has to be \[3, 5\]"):
        child(x)


Pair = namedtuple("Pair", "first second")


class Nested(nn.Module):
    """Inputs and outputs of every kind of nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x: Tensor, pair: Any, *, extra: Any = None, sign: int = 1) -> Any:
        y = self.layer(x) * sign + pair[0]
        z = y - extra["a"] + extra["b"][0]
        return OrderedDict(y=y, more=[z, (y + z,)], pair=Pair(y * 2, {"k": z}), nothing=None)


def test_inputs_and_outputs_are_nested_as_the_parents_are(tmp_path: Path) -> None:
    model, x = Nested(), torch.randn(3, 5)
    kwargs = {"extra": {"a": torch.randn(7), "b": (torch.randn(7),)}, "sign": -1}
    trace = gc.capture(model, (x, [torch.randn(7)]), kwargs)
    child = gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace)
    again = written(child, tmp_path)
    pair = [torch.randn(7)]
    expected, found = model(x, pair, **kwargs), again(x, pair, **kwargs)
    assert torch.equal(expected["y"], found["y"])
    assert torch.equal(expected["more"][1][0], found["more"][1][0])
    assert torch.equal(expected["pair"].second["k"], found["pair"].second["k"])
    assert found["nothing"] is None
    assert torch.equal(again(x, pair=pair, extra=kwargs["extra"])["y"], expected["y"])
    with pytest.raises(AssertionError, match="traced with sign=-1"):
        again(x, pair, extra=kwargs["extra"], sign=1)


class Backwards(nn.Module):
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        return first - 2 * second + 3 * third


def test_arguments_given_by_position_are_the_parents(tmp_path: Path) -> None:
    """Whatever the order in which they were named when it was traced."""
    model, given = Backwards(), [torch.randn(3), torch.randn(3), torch.randn(3)]
    trace = gc.capture(model, (), {"third": given[2], "first": given[0], "second": given[1]})
    again = written(gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace), tmp_path)
    assert torch.equal(again(*given), model(*given))


class Own:
    def __init__(self, x: Tensor) -> None:
        self.x = x


torch.utils._pytree.register_pytree_node(Own, lambda own: ([own.x], None), lambda values, _: Own(next(iter(values))))


class Returning(nn.Module):
    def forward(self, x: Tensor) -> Own:
        return Own(x + 1)


def test_an_output_of_a_class_of_its_own_is_refused_by_name() -> None:
    trace = gc.capture(Returning(), (torch.randn(3),))
    child = gc.execute(gc.plan(gc.analyze(trace)), Returning(), trace=trace)
    with pytest.raises(OutputError, match="cannot write a child that returns a Own"):
        text(source(child), "0")


@torch.library.custom_op("graphclone_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = twice(x)
        return result


def test_an_op_of_another_library_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    trace = gc.capture(Custom(), (torch.randn(3),))
    child = gc.execute(gc.plan(gc.analyze(trace)), Custom(), trace=trace)
    with pytest.raises(OutputError, match=r"graphclone_tests\.twice"):
        save(source(child), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Grid(nn.Module):
    """What it computes depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.sum(1) if int(grid[0]) == 2 else y


def test_values_that_decide_stay_checked(tmp_path: Path) -> None:
    model, x = Grid(), torch.randn(2, 11, 5)
    trace = gc.capture(model, (x, torch.tensor([2, 3])))
    again = written(gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace), tmp_path)
    torch.testing.assert_close(again(x, torch.tensor([2, 3])), model(x, torch.tensor([2, 3])))
    with pytest.raises(RuntimeError, match="the model was traced with inputs for which"):
        again(x, torch.tensor([3, 2]))


@pytest.mark.parametrize("name", ["hf/llama", "hf/bert", "timm/vit"])
def test_in_double_precision_it_stays_the_same_function(name: str, tmp_path: Path) -> None:
    child, _, inputs = half(name)
    model = written(child, tmp_path)
    single = outputs(model, inputs)
    args, kwargs = torch.utils._pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, inputs)
    double = outputs(model.double(), (args, kwargs))
    assert {each.dtype for each in double} == {torch.float64}
    assert difference(single, double) < 1e-5


@pytest.mark.parametrize("name", ["hf/llama", "timm/swin"])
def test_torch_compile_takes_it_whole(name: str, tmp_path: Path) -> None:
    child, _, inputs = half(name)
    model = written(child, tmp_path)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert difference(outputs(model, inputs), outputs(compiled, inputs)) < 1e-6


class EveryThird(nn.Module):
    """Six layers, every third of which reads one shared linear map: what repeats is three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.shared = nn.Embedding(31, 12), nn.Linear(12, 12)
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(12, 20), "down": nn.Linear(20, 12)}) for _ in range(6))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for i, layer in enumerate(self.layers):
            y = x + self.shared(x) if i % 3 == 1 else x
            x = x + layer["down"](torch.relu(layer["up"](y)))
        return x @ self.embed.weight.T


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_of_several_numbered_layers_are_not_taken_for_one_of_them(depth: int, tmp_path: Path) -> None:
    model, ids = EveryThird().eval(), torch.randint(31, (2, 5))
    layout = gc.analyze(gc.capture(model, (ids,)))
    (stack,) = layout.blocks
    assert [block.name for block in stack.blocks] == ["layers.block_0", "layers.block_1"]
    child = gc.execute(gc.plan(layout, depth=depth), model)
    assert difference(outputs(child, ((ids,), {})), outputs(written(child, tmp_path), ((ids,), {}))) == 0
