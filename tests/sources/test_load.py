from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphclone.errors import DestinationError, SourceError
from graphclone.sources import SOURCES, destination, load


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("timm:vit_base_patch16_224", "timm:NAME"),
        ("torchvision:vit_b_16", "torchvision:NAME"),
        ("runs/child.pt2", "FILE.pt2"),
        ("package.module:factory", "package.module:factory"),
        ("meta-llama/Llama-3", "FOLDER"),
        ("..", "FOLDER"),
    ],
)
def test_the_form_of_a_spec_decides_its_source(spec: str, form: str) -> None:
    assert next(each.form for each in SOURCES if each.matches(spec)) == form


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert next(each.form for each in SOURCES if each.matches(str(tmp_path / "a:b"))) == "FOLDER"


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "graphclone.sources.timm_source", raising=False)
    with pytest.raises(SourceError) as caught:
        load("timm:vit_tiny_patch16_224")
    assert str(caught.value) == (
        "cannot load 'timm:vit_tiny_patch16_224' (timm:NAME)\n"
        "  because  'timm' is not installed\n"
        "  try      pip install 'graphclone[timm]'; or another form of parent: "
        "torchvision:NAME or FILE.pt2 or package.module:factory or FOLDER"
    )


def test_a_destination_of_a_folder_is_a_smaller_model_of_its_class(llama_folder: Path) -> None:
    parent = load(str(llama_folder), args={"attn_implementation": "eager"})
    child = destination(parent, {"hidden_size": "24", "num_hidden_layers": "2", "num_attention_heads": "3"})
    assert type(child) is type(parent.module)
    assert child.get_parameter("model.layers.1.self_attn.k_proj.weight").shape == (24, 24)
    assert child.config._attn_implementation == "eager"
    assert not child.training
    assert child(**parent.kwargs).past_key_values is None
    assert {parameter.dtype for parameter in child.parameters()} == {torch.float32}


def test_a_destination_leaves_its_parent_as_it_was(llama_folder: Path) -> None:
    parent = load(str(llama_folder))
    before = parent.config.to_dict()
    destination(parent, {"hidden_size": "24", "num_attention_heads": "3"}).config.vocab_size = 5
    assert parent.config.to_dict() == before
    assert parent.module.config.hidden_size == 48


def test_a_destination_that_transformers_refuses(llama_folder: Path) -> None:
    with pytest.raises(DestinationError) as caught:
        destination(load(str(llama_folder)), {"num_attention_heads": "5"})
    assert str(caught.value).startswith("cannot make a LlamaConfig with num_attention_heads=5\n")
    assert "is not a multiple of the number of attention heads (5)" in str(caught.value)


class TestExportedProgram:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        net = nn.Sequential(nn.Linear(3, 4), nn.GELU()).eval()
        torch.export.save(torch.export.export(net, (torch.ones(2, 3),), strict=False), tmp_path / "net.pt2")
        return tmp_path / "net.pt2"

    def message(self, path: Path, **options: object) -> str:
        with pytest.raises(SourceError) as caught:
            load(str(path), **options)
        return str(caught.value).replace(str(path.parent), "")

    def test_it_brings_its_inputs(self, path: Path) -> None:
        parent = load(str(path))
        assert parent.program is not None
        assert torch.equal(parent.args[0], torch.ones(2, 3))
        assert parent.module(*parent.args).shape == (2, 4)

    def test_it_has_no_smaller_self(self, path: Path) -> None:
        with pytest.raises(DestinationError, match=r"cannot build a destination from '.*'\n.*\n  try      --width and --depth"):
            destination(load(str(path)), {"width": "2"})

    def test_it_is_missing(self, tmp_path: Path) -> None:
        assert self.message(tmp_path / "absent.pt2") == "cannot find the model '/absent.pt2'\n  because  there is no such file"

    def test_it_is_truncated(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:500])
        assert "it is damaged, or was not written by torch.export.save" in self.message(path)
        assert "cannot read '/net.pt2'" in self.message(path, allow_pickle=True)

    def test_it_takes_no_arguments_and_no_checkpoint(self, path: Path) -> None:
        assert "an exported program is fixed" in self.message(path, args={"width": 2})
        assert "an exported program has its own weights" in self.message(path, checkpoint=path)

    def test_a_pickle_in_it_is_refused(self, tmp_path: Path) -> None:
        class Ran(dict[str, torch.Tensor]):
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (tmp_path / "it ran",))

        net = nn.Linear(3, 4).eval()
        program = torch.export.export(net, (torch.ones(2, 3),), strict=False)
        torch.export.save(program, tmp_path / "net.pt2")
        import io
        import zipfile

        evil = io.BytesIO()
        torch.save(Ran(), evil)
        with zipfile.ZipFile(tmp_path / "net.pt2") as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
            for name in old.namelist():
                new.writestr(name, evil.getvalue() if name.endswith(".pt") else old.read(name))
        assert self.message(tmp_path / "evil.pt2") == (
            "refused to read '/evil.pt2'\n"
            "  because  its part net/data/sample_inputs/model.pt is a pickle, which can run any program when it is read\n"
            "  try      --allow-pickle if you trust where it comes from"
        )
        assert not (tmp_path / "it ran").exists()

    def test_a_formula_in_it_is_arithmetic_or_refused(self, tmp_path: Path) -> None:
        """torch evaluates the text of its open sizes."""
        import zipfile

        net, open_sizes = nn.Linear(3, 4).eval(), ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(net, (torch.ones(2, 3),), dynamic_shapes=open_sizes, strict=False)
        torch.export.save(program, tmp_path / "net.pt2")
        assert load(str(tmp_path / "net.pt2")).module(torch.ones(5, 3)).shape == (5, 4)
        with zipfile.ZipFile(tmp_path / "net.pt2") as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name.endswith("model.json"):
                    spoilt = json.loads(data)
                    formulas = [each for each in nested(spoilt) if "expr_str" in each]
                    formulas[0]["expr_str"] = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch() or s0"
                    data = json.dumps(spoilt).encode()
                new.writestr(name, data)
        told = self.message(tmp_path / "evil.pt2")
        assert told.startswith("refused to read '/evil.pt2'\n  because  a size in it is written as \"__import__(")
        assert not (tmp_path / "ran").exists()


def nested(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
        data = list(data.values())
    if isinstance(data, list):
        for each in data:
            yield from nested(each)
