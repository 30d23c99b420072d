from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from graphclone.errors import OutputError
from graphclone.export.hf import save_hf
from graphclone.plan import Plan
from graphclone.sources import destination, load

PLAN = Plan(sizes={"residual": 48}, keep={"residual": (3, 5)}, stacks={"transformer.h": (0,)})


@pytest.fixture
def parent_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parent"
    config = GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=6, n_positions=32, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text()) | {"max_new_tokens": 5}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "LICENSE", "training.log", "extra.py", "vocab.bin"):
        (folder / name).write_text(name)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_writing_says_nothing(parent_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    child = load(str(parent_folder)).module
    capfd.readouterr()
    save_hf(child, None, tmp_path, PLAN)
    assert capfd.readouterr() == ("", "")


def test_a_child_is_a_folder_that_from_pretrained_reads(parent_folder: Path, tmp_path: Path) -> None:
    parent, output = load(str(parent_folder)), tmp_path / "child"
    child = destination(parent, {"n_embd": 24, "n_head": 3})
    output.mkdir()
    save_hf(child, parent_folder, output, PLAN)
    again = AutoModelForCausalLM.from_pretrained(output).eval()
    assert type(again) is type(child)
    assert torch.equal(again(**parent.kwargs).logits, child(**parent.kwargs).logits)
    assert again.lm_head.weight is again.transformer.wte.weight
    assert again.generate(**parent.kwargs).shape == (2, 11 + 5)


def test_what_the_child_shares_with_its_parent_goes_with_it_and_nothing_else(parent_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "child"
    output.mkdir()
    save_hf(load(str(parent_folder)).module, parent_folder, output, PLAN)
    shared = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "LICENSE", "generation_config.json"}
    own = {"config.json", "model.safetensors", "plan.json", "child.json", "README.md"}
    assert {path.name for path in output.iterdir()} == shared | own
    assert all((output / name).read_bytes() == (parent_folder / name).read_bytes() for name in shared)
    assert Plan.load(output / "plan.json") == PLAN


def test_a_program_in_the_parents_folder_goes_along_if_its_config_refers_to_it(parent_folder: Path, tmp_path: Path) -> None:
    child, output = load(str(parent_folder)).module, tmp_path / "child"
    stored = json.loads((parent_folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "extra.Model"}}
    (parent_folder / "config.json").write_text(json.dumps(stored))
    output.mkdir()
    save_hf(child, parent_folder, output, PLAN)
    assert (output / "extra.py").read_text() == "extra.py"


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_cache_is_on_again_if_the_parents_was(parent_folder: Path, tmp_path: Path, use_cache: bool) -> None:
    stored = json.loads((parent_folder / "config.json").read_text()) | {"use_cache": use_cache}
    (parent_folder / "config.json").write_text(json.dumps(stored))
    child, output = load(str(parent_folder)).module, tmp_path / "child"
    output.mkdir()
    save_hf(child, parent_folder, output, PLAN)
    assert json.loads((output / "config.json").read_text())["use_cache"] is use_cache
    assert child.config.use_cache is False


def test_without_a_parents_folder_the_child_is_written_alone(parent_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "child"
    output.mkdir()
    save_hf(load(str(parent_folder)).module, None, output, PLAN)
    names = {path.name for path in output.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "plan.json", "child.json", "README.md"}
    assert json.loads((output / "config.json").read_text())["use_cache"] is True


def test_a_place_that_cannot_be_written(parent_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write into '.*'\n  because  there is no such folder"):
        save_hf(load(str(parent_folder)).module, None, tmp_path / "file", PLAN)


def test_the_card_says_what_the_child_is_made_of_and_under_which_terms(parent_folder: Path, tmp_path: Path) -> None:
    (parent_folder / "README.md").write_text("---\nlicense: apache-2.0\nmodel-index: wrong\n---\n# The parent\n")
    save_hf(load(str(parent_folder)).module, parent_folder, tmp_path, PLAN)
    card = (tmp_path / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert hashlib.sha256((parent_folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert "transformer.h: blocks 0\nresidual: 48 → 2" in card
    assert str(tmp_path) not in card


def test_tables_that_the_class_would_work_out_again_are_the_childs_own(tmp_path: Path) -> None:
    """Sinusoids of half the width are others than half of the parent's."""
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in dict(layers=1, attention_heads=2, ffn_dim=16).items()
    }
    config = MarianConfig(
        vocab_size=31, d_model=16, max_position_embeddings=20, pad_token_id=0, decoder_start_token_id=0, **sides
    )
    child = MarianMTModel(config).eval()
    with torch.no_grad():
        child.model.encoder.embed_positions.weight.add_(1.0)
    save_hf(child, None, tmp_path, PLAN)
    again, told = MarianMTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert torch.equal(again.model.encoder.embed_positions.weight, child.model.encoder.embed_positions.weight)
    assert child._keys_to_ignore_on_save, "the class is as it was"
