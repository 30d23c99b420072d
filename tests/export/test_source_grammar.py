"""A module is run only if graphclone could have written it."""

from __future__ import annotations

import importlib.util
import marshal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import graphclone as gc
from graphclone.errors import OutputError
from graphclone.export.source import source, template, text
from graphclone.export.source.folder import load, save
from graphclone.export.source.grammar import foreign
from models_zoo import tiny
from tests.export.test_source import half

OUTSIDE = [
    "import os",
    "x = __import__('os')",
    "TIES = {print('x')}",
    "parameter = exec",
    "place = Path",
    "torch.load('x')",
    "def load(folder=1):\n    return open('x')",
    "class place(Parts):\n    def forward(self, x):\n        return x",
    "class A(Parts, metaclass=print):\n    pass",
    "class A(Parts):\n    x = open('f')",
    "class A(Parts):\n    @print\n    def forward(self):\n        return 1",
    "class A(Parts):\n    def forward(self, x=open('f')):\n        return x",
    "class A(Parts):\n    def forward(self, x: open('y')):\n        return x",
    "class A(Parts):\n    def forward(self) -> open('y'):\n        return x",
    "class A(Parts):\n    def __del__(self):\n        return 1",
    "class A(Parts):\n    def forward(self, exec=1, y=exec):\n        return y",
    "class A(Parts):\n    def forward(x, self):\n        return self",
    "class A(Parts):\n    def forward(self, *x):\n        return x",
    *(
        f"class A(Parts):\n    def __init__(self):\n        {each}\n\n    def forward(self):\n        return self.w.numpy()"
        for each in [
            "y = self.w.numpy()\n        place(self, 'w.numpy', A())",
            "return\n        place(self, 'w.numpy', A())",
            "for name in ():\n            place(self, 'w.numpy', A())",
            "x = 'a'\n        for name in ('numpy',):\n            place(self, 'w.' + x, A())",
            "x = 1\n\n    def train(self):\n        place(self, 'w.numpy', A())",
            "place(self, 'w.numpy', A())\n\n    def __init__(self):\n        x = 1",
        ]
    ),
    "class getattr(Parts):\n    def forward(self, x):\n        return x",
    "isinstance = namedtuple('isinstance', ['a', 'b'])",
    "__builtins__ = namedtuple('B', ['exec'])",
]
INSIDE = [
    "eval('1')", "open('x')", "self.__class__.__init__.__globals__", "torch.load('x')", "torch.hub.load('x')", "(lambda: 1)()",
    "[x for x in self]", "torch.ops.load_library('x.so')", "nn.Module", "pytree.tree_map", "x.numpy().tofile('a')", "self.weight.numpy()",
    "self['__class__']", "aten.from_file('x')", "torch.ops.aten.from_file('x')", "torch.ops.aten", "torch.ops", "aten", "f'{x}'",
    "operator.attrgetter('x')", "self.apply(print)", "torch._check(False, open)", "load_file('x')", "Path('x').touch()",
    "super().apply(print)", "aten.__class__.__init__.__globals__['os'].system('x')", "torch.float32.__class__", "math.sqrt.__self__",
    "aten.add.name", "aten.add.Tensor.name()", "aten.add['x'].y()", "torch.ops.prims.__class__", "torch.promote_types.__globals__",
    "aten.os", "math.__loader__", "x.__class__", "torch.ops.aten.add", "aten.add.__globals__", "operator.add.__self__",
    "block.share_memory()", "(yield)", "(x := 1)", "self.register_forward_hook(print)", "__builtins__['exec']", "__class__", "TIES",
    "x.numpy", "aten.add", "A", "self", "self['apply'](x)", "self['share_memory']()", "self.weight[x]", "max(x, key=x)", "block(x)",
    "super().apply", "aten.zeros([3]).numpy", "aten.save(x, 'f')", "torch._check(False, x)", "torch._check(False, lambda exec: 1)",
    "'{0.__class__}'.format(x)", "{**x}", "aten.add(**x)", "aten.add(*x)", "+".join(["x"] * 20000),
]  # fmt: skip
STATEMENTS = [
    "import os", "place = Path", "f = aten", "self.x = 1", "with x:\n            pass", "f = torch.ops", "self = x", "x[0] = x",
    "block = x.numpy", "block = x\n        block('1')", "place(x, 'a', x)", "place(R(x), 'a', x)",
    "super = x\n        super().__init__()", "torch = x\n        torch.device(x)", "for block in (x, x):\n            x = block(x)",
    "for block in x.children():\n            x = block(x)",
    "for block in self.a.children():\n            block = x\n            x = block(x)",
]  # fmt: skip


@pytest.fixture(scope="module")
def module() -> str:
    return text(source(half("hf/bert")[0]), "0")


@pytest.mark.parametrize("name", tiny.names())
def test_what_graphclone_writes_is_its_own(name: str) -> None:
    child, plan, _ = half(name)
    assert foreign(text(source(child, None, plan.aliases), "0")) is None


@pytest.mark.parametrize(
    "more", [*OUTSIDE, *(f"class A(Parts):\n    def forward(self, x):\n        return {each}" for each in INSIDE)]
)
def test_anything_else_is_not(more: str, module: str) -> None:
    assert foreign(f"{module}\n\n{more}\n") is not None


@pytest.mark.parametrize("line", STATEMENTS)
def test_nor_are_other_statements(line: str, module: str) -> None:
    assert foreign(f"{module}\n\nclass A(Parts):\n    def forward(self, x):\n        {line}\n        return x\n") is not None


def test_a_helper_that_was_changed_is_found_out(module: str) -> None:
    assert foreign(module.replace("return getattr(self, str(name))", "return getattr(self, str(name)) or open('x')")) is not None


HARMLESS = "class Model(Parts):\n    def __init__(self):\n        super().__init__()\n"


def alone(model: str, folder: Path, before: str = "") -> Path:
    """A folder with a module that has no weights."""
    parts = [
        template.head("0", "modeling.py", ""),
        "TIES = set()\n",
        template.PARTS,
        model,
        template.LOAD.format(weights="model.safetensors"),
    ]
    (folder / "modeling.py").write_text(before + "\n\n".join(parts))
    save_file({}, folder / "model.safetensors")
    return folder / "modeling.py"


def test_a_name_that_python_would_look_up_elsewhere_does_not_run(tmp_path: Path) -> None:
    told = f"open({str(tmp_path / 'stranger')!r}, 'w')"
    for arguments, found in [("self", "__builtins__['eval']"), ("self, eval=1, f=eval", "f")]:
        model = HARMLESS.replace("(self)", f"({arguments})") + f"        block = {found}\n        block({told!r})\n"
        alone(model, tmp_path)
        with pytest.raises(OutputError, match="will not run"):
            load(tmp_path)
        assert not (tmp_path / "stranger").exists()


def test_bytecode_beside_a_module_does_not_run(tmp_path: Path) -> None:
    path = alone(HARMLESS, tmp_path)
    cached = Path(importlib.util.cache_from_source(str(path)))
    cached.parent.mkdir()
    stranger = compile("raise AssertionError('bytecode ran')", str(path), "exec")
    cached.write_bytes(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(stranger))
    assert isinstance(load(tmp_path), nn.Module)


def test_a_comment_does_not_say_how_a_module_is_decoded(tmp_path: Path) -> None:
    alone(HARMLESS, tmp_path, before="# -*- coding: utf-7 -*-\n# +AAo-raise AssertionError('a comment ran')\n")
    assert isinstance(load(tmp_path), nn.Module)


class Named(nn.Module):
    """Its arguments and its parts have the names of other things: of builtins, of a tensor's methods, of what Python mangles in a class."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = ["norm", "mean", "__own"]
        for name in self.parts:
            self.add_module(name, nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)))
        self.register_buffer("__scale", torch.rand(6))
        self.register_buffer("numpy", torch.rand(6))

    def forward(self, x: Tensor, max: Tensor, slice: Any = None, low: float = float("-inf")) -> Tensor:
        for name in self.parts:
            x = x + self.get_submodule(name)(x)
        return torch.clamp(x, low) * self.get_buffer("__scale") + self.get_buffer("numpy") * max


def test_names_of_other_things_are_no_false_alarm(tmp_path: Path) -> None:
    model, inputs = Named().eval(), (torch.randn(4, 6), torch.randn(6))
    trace = gc.capture(model, inputs, {"low": float("-inf")})
    save(source(gc.execute(gc.plan(gc.analyze(trace)), model, trace=trace)), tmp_path)
    assert "self['__own'](" in (tmp_path / "modeling.py").read_text()
    assert torch.equal(load(tmp_path)(*inputs), model(*inputs))


def test_what_is_no_python_is_told(module: str) -> None:
    assert foreign("class (") is not None


def test_a_module_that_is_not_its_own_does_not_run(tmp_path: Path) -> None:
    save(source(half("hf/llama")[0]), tmp_path)
    path = tmp_path / "modeling.py"
    path.write_text(path.read_text().replace("import torch\n", "import torch, sys\nsys.stranger = True\n", 1))
    with pytest.raises(OutputError, match=r"graphclone did not write it like this: line 8: import torch, sys"):
        load(tmp_path)
    import sys

    assert not hasattr(sys, "stranger")
    load(tmp_path, trusted=True)
    assert sys.__dict__.pop("stranger")
