"""What goes with a child: the names that tokenizers read are those of transformers itself, and no weights go along."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from graphclone.export.companions import accompany
from graphclone.export.record import Record, hashes
from graphclone.plan import Plan

PLAN = Plan(sizes={"residual": 4}, keep={"residual": (1, 3)})


def read_by_tokenizers() -> set[str]:
    """The files that `VOCAB_FILES_NAMES` of each tokenizer's module names."""
    found: set[str] = set()
    for path in Path(transformers.__file__).parent.rglob("tokenization_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("VOCAB_FILES_NAMES", "vocab_files_names"):
                values = node.value.values if isinstance(node.value, ast.Dict) else []
                found.update(each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return found


def test_whatever_a_tokenizer_reads_goes_along_and_no_weights_do(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    names = read_by_tokenizers() | {"tekken.json", "tokenizer.model", "chat_template.jinja", "video_preprocessor_config.json"}
    assert {"source.spm", "bpe.codes", "byte_maps.json", "word_shape.json", "prophetnet.tokenizer"} < names
    others = {
        "model.safetensors",
        "vocab.bin",
        "model.safetensors.index.json",
        "optimizer.pt",
        "trainer_state.json",
        "tokenizer.py",
    }
    for folder in (parent / "additional_chat_templates", parent / "__pycache__", child):
        folder.mkdir(parents=True)
    for name in names | others | {"__pycache__/tokenizer.pyc", "additional_chat_templates/tools.jinja"}:
        (parent / name).write_text("{}")
    accompany(child, nn.Linear(2, 2), PLAN, Record("folder", "parent"), parent)
    found = {str(path.relative_to(child)) for path in child.rglob("*") if path.is_file()}
    assert found == names | {"additional_chat_templates/tools.jinja", "plan.json", "child.json", "README.md"}


@pytest.mark.parametrize(
    ("record", "loaded"),
    [
        (Record("folder", "parent"), "`from_pretrained`"),
        (Record("source", "parent"), "from modeling import load"),
        (Record("graph", "parent.pt2"), "torch.export.load"),
        (Record("factory", "timm:vit", {"depth": 4}, {"depth": 2}), "timm.create_model('vit', depth=2)"),
        (Record("factory", "a.b:make", {}, {"width": 2}), "a.b:make(width=2)"),
    ],
)
def test_every_card_tells_the_version_the_parent_and_how_to_go_on(record: Record, loaded: str, tmp_path: Path) -> None:
    accompany(tmp_path, nn.Linear(2, 2), PLAN, record)
    card = (tmp_path / "README.md").read_text()
    assert loaded in card
    assert f"graphclone {Record.load(tmp_path).version}" in card
    assert Record.load(tmp_path).version
    assert "residual: 4 → 2" in card
    assert "lower learning rate and less weight decay" in card
    assert str(tmp_path) not in card


def test_a_parent_that_lies_in_no_file_is_known_by_its_tensors(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    before = hashes(None, layer)
    assert hashes(Path("timm:vit"), layer) == before
    with torch.no_grad():
        layer.weight.add_(1)
    assert hashes(None, layer) != before
    (tmp_path / "axes.safetensors").write_text("no parent's")
    (tmp_path / "model.safetensors").write_text("weights")
    assert hashes(tmp_path).keys() == {"model.safetensors"}
