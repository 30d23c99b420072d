"""Parents on disk: real, tiny, and copied afresh for each test that damages one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(vocab_size=97, hidden_size=48, num_hidden_layers=4, num_attention_heads=6, intermediate_size=80)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in bfloat16, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(llama_folder: Path, tmp_path: Path) -> Path:
    """The same folder, to be damaged."""
    return Path(shutil.copytree(llama_folder, tmp_path / "parent"))


@pytest.fixture
def factory_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a Python module into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write
