"""A module is run only if graphclone could have written it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphclone.errors import OutputError
from graphclone.export.source import source, text
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
]
INSIDE = [
    "eval('1')", "open('x')", "self.__class__.__init__.__globals__", "torch.load('x')", "torch.hub.load('x')", "(lambda: 1)()",
    "[x for x in self]", "torch.ops.load_library('x.so')", "nn.Module", "pytree.tree_map", "x.numpy().tofile('a')", "self.weight.numpy()",
    "self['__class__']", "aten.from_file('x')", "torch.ops.aten.from_file('x')", "torch.ops.aten", "torch.ops", "aten", "f'{x}'",
    "operator.attrgetter('x')", "self.apply(print)", "torch._check(False, open)", "load_file('x')", "Path('x').touch()",
    "super().apply(print)", "aten.__class__.__init__.__globals__['os'].system('x')", "torch.float32.__class__", "math.sqrt.__self__",
    "aten.add.name", "aten.add.Tensor.name()", "aten.add['x'].y()", "torch.ops.prims.__class__", "torch.promote_types.__globals__",
    "aten.os", "math.__loader__", "x.__class__", "torch.ops.aten.add", "aten.add.__globals__", "operator.add.__self__",
    "block.share_memory()", "(yield)", "(x := 1)", "self.register_forward_hook(print)",
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


@pytest.mark.parametrize(
    "line", ["import os", "place = Path", "f = aten", "self.x = 1", "with x:\n            pass", "f = torch.ops"]
)
def test_nor_are_other_statements(line: str, module: str) -> None:
    assert foreign(f"{module}\n\nclass A(Parts):\n    def forward(self, x):\n        {line}\n        return x\n") is not None


def test_a_helper_that_was_changed_is_found_out(module: str) -> None:
    assert foreign(module.replace("return getattr(self, str(name))", "return getattr(self, str(name)) or open('x')")) is not None


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
