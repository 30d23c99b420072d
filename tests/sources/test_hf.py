from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from graphclone.errors import SourceError, WeightsError
from graphclone.sources import destination, load


def change_config(folder: Path, **changes: Any) -> None:
    """Set fields of a folder's config.json; None removes one."""
    stored = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in stored.items() if value is not None}))


def message(folder: Path, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        load(str(folder), **options)
    return str(caught.value).replace(str(folder), "PARENT")


def test_a_folder_loads_as_transformers_loads_it(llama_folder: Path) -> None:
    parent = load(str(llama_folder))
    reference = LlamaForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    assert type(parent.module) is LlamaForCausalLM
    with torch.no_grad():
        assert torch.equal(parent.module(**parent.kwargs).logits, reference(**parent.kwargs).logits)


def test_it_computes_in_float32_without_dropout_or_cache(llama_folder: Path) -> None:
    parent = load(str(llama_folder))
    assert {parameter.dtype for parameter in parent.module.parameters()} == {torch.float32}
    assert not parent.module.training
    assert parent.module(**parent.kwargs).past_key_values is None


def test_the_config_is_kept_as_its_author_wrote_it(llama_folder: Path) -> None:
    assert load(str(llama_folder)).config.use_cache is True


def test_attention_can_be_computed_in_another_way(llama_folder: Path) -> None:
    parent = load(str(llama_folder), args={"attn_implementation": "eager"})
    assert parent.module.config._attn_implementation == "eager"


def test_loading_says_nothing(llama_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(str(llama_folder))
    assert capfd.readouterr() == ("", "")


def test_another_argument_is_refused(llama_folder: Path) -> None:
    assert message(llama_folder, args={"hidden_size": 24}).startswith("a folder takes no argument 'hidden_size'\n")


def test_a_missing_folder(tmp_path: Path) -> None:
    assert message(tmp_path / "absent") == (
        "cannot find the model 'PARENT'\n"
        "  because  there is no such folder\n"
        "  try      a folder with config.json and model.safetensors; graphclone downloads nothing, `hf download` does"
    )


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "because  it is a file" in message(tmp_path / "model.safetensors")


def test_a_folder_without_a_config(copied: Path) -> None:
    (copied / "config.json").unlink()
    assert message(copied).startswith("'PARENT' is no Hugging Face folder\n  because  it has no config.json\n")


def test_a_config_that_is_not_json(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    assert message(copied).startswith("cannot read 'PARENT/config.json'\n  because  it is not JSON: ")


def test_a_config_that_names_no_class(copied: Path) -> None:
    change_config(copied, architectures=None)
    assert 'add it: "architectures": ["LlamaForCausalLM"]' in message(copied)


def test_a_class_that_transformers_does_not_have(copied: Path) -> None:
    change_config(copied, architectures=["LlamaForTelepathy"])
    assert "has no class LlamaForTelepathy, and the folder brings none" in message(copied)


def test_a_config_that_its_class_refuses(copied: Path) -> None:
    change_config(copied, num_attention_heads=7)
    assert "transformers says:" in message(copied)


def test_a_program_in_the_folder_is_refused(copied: Path) -> None:
    (copied / "modeling_own.py").write_text("raise SystemExit('it ran')\n")
    change_config(copied, architectures=["OwnModel"], auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    assert message(copied) == (
        "refused to load 'PARENT'\n"
        "  because  its class OwnModel is a program in the folder itself (modeling_own.py)\n"
        "  try      --trust-remote-code, once you have read that file"
    )


def test_a_folder_without_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert message(copied) == "'PARENT' has no weights\n  because  there is no *.safetensors file in it"


@pytest.fixture
def pickled(copied: Path) -> Path:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    return copied


def test_pickled_weights_are_refused(pickled: Path) -> None:
    assert message(pickled) == (
        "refused to load 'PARENT'\n"
        "  because  its weights are in pytorch_model.bin, a pickle, which can run any program when it is read\n"
        "  try      the model's safetensors version, or --allow-pickle if you trust where it comes from"
    )


def test_a_safetensors_file_of_something_else_does_not_let_a_pickle_through(pickled: Path) -> None:
    save_file({"a": torch.zeros(1)}, pickled / "adapter.safetensors")
    assert message(pickled).startswith(
        "cannot load 'PARENT'\n  because  transformers says: Error no file named model.safetensors"
    )


def test_pickled_weights_load_when_allowed(pickled: Path, llama_folder: Path) -> None:
    ours, theirs = load(str(pickled), allow_pickle=True), load(str(llama_folder))
    assert all(torch.equal(a, b) for a, b in zip(ours.module.parameters(), theirs.module.parameters(), strict=True))


def test_truncated_weights_are_told_by_their_size(copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert message(copied).startswith(
        "cannot read 'PARENT/model.safetensors'\n"
        f"  because  it is truncated: {len(whole):,} bytes expected, {len(whole) - 1000:,} found\n"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is 0 bytes long, and its header alone takes more"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "truncated, or not safetensors"),
        ((20).to_bytes(8, "little") + b"x" * 40, "safetensors says: "),
    ],
)
def test_weights_that_are_no_safetensors(copied: Path, content: bytes, reason: str) -> None:
    (copied / "model.safetensors").write_bytes(content)
    assert reason in message(copied)


def test_a_shard_that_is_not_there(copied: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json names model-00002-of-00002.safetensors, not there" in message(copied)


def test_missing_weights_are_listed_beside_those_that_look_renamed(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    state["final_norm.weight"] = state.pop("model.norm.weight")
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    assert message(copied) == (
        "the weights in 'PARENT' are not those of a LlamaForCausalLM\n"
        "  because  it lacks model.norm.weight; it has in addition final_norm.weight\n"
        '  try      the class that was saved, under "architectures" in config.json'
    )


def test_weights_of_another_shape(copied: Path) -> None:
    change_config(copied, intermediate_size=72)
    assert "with other shapes, model.layers.0.mlp.down_proj.weight is [48, 80] there and [48, 72] here, " in message(copied)


def test_weights_that_the_class_does_not_use_are_remarked_on(copied: Path) -> None:
    state = load_file(copied / "model.safetensors") | {"value_head.weight": torch.zeros(1)}
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"holds weights that LlamaForCausalLM does not use: value_head\.weight"):
        load(str(copied))


def test_buffers_that_old_versions_saved_are_no_matter(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    load(str(copied))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(copied: Path, value: float) -> None:
    state = load_file(copied / "model.safetensors")
    state["model.norm.weight"][:3] = value
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load(str(copied))
    assert str(caught.value).replace(str(copied), "PARENT") == (
        "'PARENT' has weights that are NaN or infinite\n"
        "  because  in model.norm.weight (3) (how many values in parentheses)\n"
        "  try      an earlier checkpoint: a model that diverged has nothing to hand on"
    )


OWN_CLASS = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

    def __init__(self, hidden_size=48, twist=1, **others):
        self.twist = twist
        super().__init__(hidden_size=hidden_size, **others)

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_program_in_the_folder_runs_once_it_is_trusted(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (copied / "own_llama.py").write_text(OWN_CLASS)
    auto_map = {"AutoConfig": "own_llama.OwnConfig", "AutoModelForCausalLM": "own_llama.OwnModel"}
    change_config(copied, architectures=["OwnModel"], model_type="own-llama", auto_map=auto_map, twist=3)
    parent = load(str(copied), trust_remote_code=True)
    assert (type(parent.module).__name__, parent.config.twist) == ("OwnModel", 3)
    assert torch.equal(parent.module(**parent.kwargs).logits, load(str(llama_folder)).module(**parent.kwargs).logits)
    child = destination(parent, {"hidden_size": 24, "num_attention_heads": 3, "twist": 5})
    assert (type(child).__name__, child.config.twist, child.config.hidden_size) == ("OwnModel", 5, 24)
