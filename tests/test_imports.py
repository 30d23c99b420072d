"""The arrows of the design: who may import whom, what a name may not be, and how long an import takes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "graphclone"
ORDER = [
    ["errors"],
    ["axes", "plan", "inputs", "unbacked", "dynamic", "decided", "lines", "eased", "inplace", "written"],
    ["faithful", "parity", "capture", "fitting", "distill"],
    ["rules"],
    ["decompose", "streams"],
    ["blocks"],
    ["layout"],
    ["calibration", "sizes", "stacked"],
    ["scores", "rotation"],
    ["passes", "allocate"],
    ["execute"],
    ["reshaped"],
    ["repair"],
    ["recipe"],
    ["depths"],
    ["destination", "budget"],
    ["subclone", "verify"],
    ["sources", "export", "report", "training", "measure"],
    ["demo"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
CORE = [name for level in ORDER[: ORDER.index(["subclone", "verify"]) + 1] for name in level]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", [path for path in FILES if part(path) != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path: Path) -> None:
    for name in imported(path):
        if name.startswith("graphclone."):
            other = name.split(".")[1]
            if other in LEVEL and other != part(path):
                assert LEVEL[other] <= LEVEL[part(path)], f"{path.name} imports {name}"


def test_every_file_has_its_place_in_the_order() -> None:
    assert {part(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("name", ["axes", "plan", "errors"])
def test_the_algebra_and_the_plan_import_no_torch(name: str) -> None:
    assert not any(each.split(".")[0] == "torch" for each in imported(PACKAGE / f"{name}.py"))


HEAVY = ("transformers", "timm", "torchvision", "onnx", "onnxruntime", "onnxscript", "huggingface_hub", "sklearn", "matplotlib")


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in CORE], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_knows_no_architecture(path: Path) -> None:
    assert not any(each.split(".")[0] in HEAVY for each in imported(path))
    names = r"\b(llama|gpt2?|qwen\w*|gemma\w*|bert|t5|swin|whisper|mamba|deberta\w*|convnext|beit|cait|vit|neox|q_proj|c_attn|lm_head)\b"
    assert not re.findall(names, path.read_text(), re.IGNORECASE)


def test_importing_graphclone_needs_torch_and_little_else() -> None:
    script = (
        "import torch, sys, time; before = set(sys.modules); start = time.perf_counter(); import graphclone; "
        f"print([m for m in {(*HEAVY, 'pydantic', 'rich', 'typer')!r} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_a_dozen_or_so_and_documented() -> None:
    import graphclone

    assert len(graphclone.__all__) <= 16
    assert all(getattr(graphclone, name).__doc__ for name in graphclone.__all__)
