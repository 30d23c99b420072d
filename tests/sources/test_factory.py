from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from graphclone.errors import DestinationError, SourceError, WeightsError
from graphclone.export.pytorch import save_state
from graphclone.sources import destination, load

TEXT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6, depth=1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)), nn.Dropout(0.5))
        self.width = width

    def forward(self, x):
        return self.layers(x)

    def example_inputs(self):
        return torch.ones(2, self.width)

def broken(width=6):
    raise ValueError("no luck")

def number():
    return 7

def any_size(**options):
    return Net(**options)

ready = Net()
seven = 7
"""


@pytest.fixture(autouse=True)
def own_nets(factory_module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    factory_module("own_nets", TEXT)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def message(spec: str, **options: object) -> str:
    with pytest.raises(SourceError) as caught:
        load(spec, **options)
    return str(caught.value)


def test_a_factory_in_the_current_folder_makes_the_parent() -> None:
    parent = load("own_nets:Net", args={"depth": "3"})
    assert len(parent.module.layers) == 4
    assert not parent.module.training
    assert [tuple(value.shape) for value in parent.args] == [(2, 6)]
    assert "" not in sys.path[:1]
    assert str(Path.cwd()) not in sys.path


def test_a_parent_without_a_checkpoint_is_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    one = load("own_nets:Net").module
    torch.manual_seed(2)
    other = load("own_nets:Net").module
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_module_that_is_there_already_will_do() -> None:
    assert load("own_nets:ready").build is None


def test_a_destination_is_another_call() -> None:
    parent = load("own_nets:Net", args={"width": 8, "depth": 2})
    child = destination(parent, {"width": "4"})
    assert [tuple(parameter.shape) for parameter in child.parameters()] == [(4, 4), (4,)] * 2
    assert not child.training


def test_a_destination_is_the_same_for_the_same_seed_and_touches_no_other_randomness() -> None:
    parent = load("own_nets:Net")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = [destination(parent, {}, seed=seed).layers[0].weight for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_destination_with_an_unknown_argument() -> None:
    with pytest.raises(DestinationError) as caught:
        destination(load("own_nets:Net"), {"wdith": 4})
    assert str(caught.value) == (
        "cannot set 'wdith'\n  because  'own_nets:Net' takes (width, depth)\n  try      did you mean 'width' or 'depth'?"
    )


def test_a_destination_that_the_factory_cannot_make() -> None:
    with pytest.raises(DestinationError, match=r"cannot build Net with width=-1\n  because  it raised RuntimeError: "):
        destination(load("own_nets:any_size"), {"width": -1})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("absent_nets:Net", "Python finds no module 'absent_nets', neither installed nor in the current folder"),
        ("own_nets:Nett", "has no 'Nett'\n  try      did you mean 'Net'"),
        ("own_nets:seven", "it is a int, and cannot be called"),
        ("own_nets:number", "it returned a int, not a torch.nn.Module"),
        ("own_nets:broken", "it raised ValueError: no luck (at "),
    ],
)
def test_a_factory_that_does_not_work(spec: str, says: str) -> None:
    assert says in message(spec)


def test_an_argument_that_the_factory_does_not_take() -> None:
    assert "it raised TypeError: " in message("own_nets:Net", args={"heads": 3})


def test_a_module_that_needs_another(factory_module: Callable[[str, str], None]) -> None:
    factory_module("needs_more", "import absent_library\n")
    assert message("needs_more:Net") == "cannot import 'needs_more'\n  because  it needs 'absent_library', not installed"


def test_a_module_that_cannot_be_imported(factory_module: Callable[[str, str], None]) -> None:
    factory_module("half_written", "def (\n")
    assert message("half_written:Net").startswith("cannot import 'half_written'\n  because  it raised SyntaxError: ")


@pytest.mark.parametrize(
    ("made", "args", "kwargs"),
    [
        ("torch.ones(2, 6)", 1, []),
        ("(torch.ones(2, 6), 3)", 2, []),
        ("{'x': torch.ones(2, 6)}", 0, ["x"]),
        ("((torch.ones(2, 6),), {'y': 3})", 1, ["y"]),
    ],
)
def test_example_inputs_may_stand_beside_the_factory(
    factory_module: Callable[[str, str], None], made: str, args: int, kwargs: list[str]
) -> None:
    name = f"nets_{abs(hash(made))}"
    text = f"import torch\ndef make():\n    return torch.nn.Linear(6, 6)\ndef example_inputs():\n    return {made}\n"
    factory_module(name, text)
    parent = load(f"{name}:make")
    assert (len(parent.args), list(parent.kwargs)) == (args, kwargs)


def test_without_example_inputs_the_user_gives_them() -> None:
    parent = load("torch.nn:Linear", args={"in_features": 3, "out_features": 4}, inputs=["input=float32[2,3]"])
    assert parent.module(*parent.args, **parent.kwargs).shape == (2, 4)
    assert message("torch.nn:Linear", args={"in_features": 3, "out_features": 4}).endswith(
        "try      --input 'input_ids=int64[2,11]:0..256' for each of its inputs"
    )


def test_example_inputs_of_another_kind(factory_module: Callable[[str, str], None]) -> None:
    factory_module("odd_inputs", "from torch import nn\ndef make():\n    return nn.Linear(6, 6)\nexample_inputs = 7\n")
    assert "they are a int" in message("odd_inputs:make")


class TestCheckpoint:
    def state(self) -> dict[str, torch.Tensor]:
        return {"layers.0.weight": torch.full((6, 6), 2.0), "layers.0.bias": torch.zeros(6)}

    def test_it_fills_the_module(self, tmp_path: Path) -> None:
        save_state(self.state(), tmp_path / "net.safetensors")
        assert load("own_nets:Net", checkpoint=tmp_path / "net.safetensors").module.layers[0].weight.unique().tolist() == [2.0]

    def test_it_may_be_a_pickle_of_tensors_if_that_is_allowed(self, tmp_path: Path) -> None:
        torch.save(self.state(), tmp_path / "net.pt")
        assert message("own_nets:Net", checkpoint=tmp_path / "net.pt").replace(str(tmp_path), "") == (
            "refused to read '/net.pt'\n"
            "  because  it is a pickle, which can run any program when it is read\n"
            "  try      a .safetensors file, or --allow-pickle if you trust where it comes from"
        )
        parent = load("own_nets:Net", checkpoint=tmp_path / "net.pt", allow_pickle=True)
        assert parent.module.layers[0].weight.unique().tolist() == [2.0]

    def test_even_then_no_program_is_unpickled(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
        assert "torch.load(weights_only=True) says" in message("own_nets:Net", checkpoint=tmp_path / "net.pt", allow_pickle=True)

    def test_it_is_missing(self) -> None:
        assert "there is no such file" in message("own_nets:Net", checkpoint=Path("absent.safetensors"))

    def test_it_is_of_another_model(self, tmp_path: Path) -> None:
        state = {"layers.0.weight": torch.zeros(6, 5), "head.bias": torch.zeros(6)}
        save_state(state, tmp_path / "net.safetensors")
        assert message("own_nets:Net", checkpoint=tmp_path / "net.safetensors").replace(str(tmp_path), "") == (
            "'/net.safetensors' is no checkpoint of this Net\n"
            "  because  it lacks layers.0.bias; it has in addition head.bias; "
            "with other shapes, layers.0.weight is [6, 5] there and [6, 6] here\n"
            "  try      --arg name=value for the settings that the checkpoint was made with"
        )

    def test_it_is_not_finite(self, tmp_path: Path) -> None:
        save_state(self.state() | {"layers.0.bias": torch.full((6,), float("nan"))}, tmp_path / "net.safetensors")
        with pytest.raises(WeightsError, match=r"in layers\.0\.bias \(6\)"):
            load("own_nets:Net", checkpoint=tmp_path / "net.safetensors")
